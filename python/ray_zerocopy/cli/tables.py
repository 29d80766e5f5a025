"""Tables for people, and the units that stand in them."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> str:
    """Rows under a head as lines of text; the columns named in ``right`` are flush right."""
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]

    def padded(text: str, width: int, name: str) -> str:
        return text.rjust(width) if name in right else text.ljust(width)

    return "\n".join("  ".join(map(padded, row, widths, head)).rstrip() for row in lines)


def printable(text: str) -> str:
    """A text from a file that may not be trusted: what a terminal would act on is spelled out."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def size(nbytes: float) -> str:
    """A number of bytes with a unit: ``417.8 MiB``."""
    if nbytes < 1024:
        return f"{nbytes} B"
    for unit in ("KiB", "MiB", "GiB"):
        nbytes /= 1024
        if nbytes < 1024:
            return f"{nbytes:.1f} {unit}"
    return f"{nbytes / 1024:.1f} TiB"


def age(seconds: float) -> str:
    """A time in its two largest units: ``3d 4h``."""
    left = max(0, int(seconds))
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        parts.append((count, unit))
    while len(parts) > 1 and not parts[0][0]:
        del parts[0]
    return " ".join(f"{count}{unit}" for count, unit in parts[:2])
