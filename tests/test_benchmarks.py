"""The benchmarks run, in their shortest form: everything is there, equal and isolated. No time is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.soak
def test_smoke_plan(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--plan", "smoke", "--output", str(tmp_path)]
    environment = {**os.environ, "BENCH_CALM_SECONDS": "0"}  # no figure counts here
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    assert "table: tiny, ours" in done.stderr, "the progress bar says what runs"

    result = json.loads((tmp_path / "result.json").read_text())
    steps = result["steps"]
    rounds = [
        (step, name, way, round_)
        for step, by_model in steps.items()
        for name, by_way in by_model.items()
        for way, rounds in by_way.items()
        for round_ in rounds
    ]
    assert not [r for r in rounds if "failed" in r[3] or "skipped" in r[3]], (tmp_path / "drivers.log").read_text()
    tiny = steps["table"]["tiny"]
    assert set(tiny) == {"ours", "flag", "put", "mmap", "safetensors", "build", "limits"}
    outputs = [part for *_, r in rounds for part in (r, *r.get("groups", {}).values()) if "output" in part]
    assert len(outputs) == 10
    assert {part["output"] for part in outputs} == {"equal"}
    assert {way: tiny[way][0]["isolation"] for way in ("ours", "mmap", "put")} == dict.fromkeys(
        ("ours", "mmap", "put"), "private"
    )
    assert tiny["flag"][0]["isolation"] == "shared", "the column can tell"

    table = (tmp_path / "result.md").read_text()
    assert "| a write in one worker | private | **SHARED** |" in table
    for plot in ("load", "memory", "growth"):
        assert f"({plot}.svg)" in table
        assert (tmp_path / f"{plot}.svg").read_text().rstrip().endswith("</svg>")


def test_what_is_measured_of_the_machine_names_nobody(tmp_path):
    code = "import json, machine; print(json.dumps(machine.facts()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=BENCHMARKS)
    facts = json.loads(done.stdout)
    assert {"date", "processor", "cores", "memory_gb", "kernel", "huge_pages_shmem", "versions"} <= set(facts)
    assert "/" not in done.stdout
