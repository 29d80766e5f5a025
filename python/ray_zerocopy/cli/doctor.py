"""``python -m ray_zerocopy doctor``: why a model may be slow here, or its weights copied."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict

from . import cluster, failures, installation, machine
from .findings import Finding, note, problem, summary

DESCRIPTION = """\
Looks at whatever makes models slow or copied on this machine: versions, the compiled core, settings, /dev/shm, huge
pages, limits, leftovers, and, where a cluster of Ray runs, its store and how its memory reaches the workers. Each line
is ok, a note (works, and could be better) or a problem, with what to change.

Needs no cluster, starts none, needs no privileges, and leaves nothing behind. Run it as the user that runs the workers,
and in their container: both decide what they get."""

EPILOG = "exit codes: 0: no problem, though maybe notes; 1: a problem; 2: the arguments are wrong"

_OTHER = "Give the address of a cluster that runs (--address, RAY_ADDRESS), or none, for one on this machine."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    cluster.add_arguments(parser)
    parser.add_argument(
        "--folder",
        default=os.curdir,
        metavar="FOLDER",
        help="where model files lie: whether huge pages map them (writes 32 MiB there, and removes them); "
        "default: the current one",
    )
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")


def run(given: argparse.Namespace) -> int:
    report, here = Report(given.json), machine.Machine()
    report.add(*installation.checks())
    for finding in machine.checks(here, os.path.abspath(given.folder)):
        report.add(finding)
    _look_at_cluster(given.address, here, report)  # last: Ray can be slow to connect, and end the process
    return report.end()


def _look_at_cluster(address: str | None, here: machine.Machine, report: Report) -> None:
    def given_up(text: str) -> int:
        report.add(problem("cluster", text, _OTHER))
        return report.end()

    try:
        with cluster.connected(address, given_up):
            from . import store  # with Ray

            for finding in store.checks(here):
                report.add(finding)
    except cluster.NotRunning:
        report.add(
            note(
                "cluster",
                "none runs on this machine, so isolation and store cannot be told",
                "Run this again while your cluster runs, on each kind of node.",
            )
        )
    except Exception as error:
        if not here.has_proc():  # which Ray needs, and says so in many ways
            report.add(
                note("cluster", f"{machine.UNKNOWN}: {failures.line(error)}", "Mount /proc, and run this again.")
            )
            return
        if not isinstance(error, failures.expected()):
            raise
        report.add(problem("cluster", failures.line(error), _OTHER))


class Report:
    """What was found so far: shown line by line, or as JSON at the end."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._findings: list[Finding] = []

    def add(self, *findings: Finding) -> None:
        self._findings += findings
        if not self._json:
            print(*findings, sep="\n", flush=True)  # the next check may take a while

    def end(self) -> int:
        """The exit code."""
        findings = self._findings
        problems = any(finding.status == "problem" for finding in findings)
        if self._json:
            print(json.dumps({"findings": [asdict(each) for each in findings]}, indent=2))
        else:
            print(f"\n{summary(findings)}")
        return int(problems)
