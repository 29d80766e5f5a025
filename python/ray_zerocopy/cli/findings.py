"""What a check has found, and how it is told to people and programs."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "note", "problem"]

_SUBJECT = 22  # columns
_INDENT = " " * (9 + _SUBJECT)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what it is.
        status: ``ok``; ``note``: works, and could be better, or cannot be told; ``problem``: something is slow, copied
            or broken because of it.
        found: how it is.
        advice: what to change, and how; empty where all is well.
    """

    subject: str
    status: Status
    found: str
    advice: str = ""

    def __str__(self) -> str:
        width = max(60, min(120, shutil.get_terminal_size((120, 24)).columns))
        head = f"{self.status:<9}{self.subject:<{_SUBJECT - 2}}  "
        lines = _wrapped(self.found, width, head)
        if self.advice:
            lines += "\n" + _wrapped(self.advice, width, _INDENT + "-> ")
        return lines


def ok(subject: str, found: str) -> Finding:
    return Finding(subject, "ok", found)


def note(subject: str, found: str, advice: str) -> Finding:
    return Finding(subject, "note", found, advice)


def problem(subject: str, found: str, advice: str) -> Finding:
    return Finding(subject, "problem", found, advice)


def summary(findings: Iterable[Finding]) -> str:
    """``2 problems, 1 note``."""
    statuses = [finding.status for finding in findings]
    return f"{_count(statuses, 'problem')}, {_count(statuses, 'note')}"


def _count(statuses: list[Status], status: Status) -> str:
    count = statuses.count(status)
    return f"{count or 'no'} {status}{'' if count == 1 else 's'}"


def _wrapped(text: str, width: int, head: str) -> str:
    rest = _INDENT + ("   " if head.endswith("-> ") else "")
    # commands and paths stay in one piece, so that they can be copied
    return textwrap.fill(
        text, width, initial_indent=head, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
