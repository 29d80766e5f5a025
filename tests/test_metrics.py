"""What Ray's own metrics endpoint says of names and loads, and that saying it costs a load next to nothing."""

from __future__ import annotations

import json
import time

import pytest

from conftest import HERE
from helpers import run_script
from ray_zerocopy.stores import metrics


@pytest.fixture(scope="module")
def said():
    """What tests/programs/metrics.py found, in a cluster of its own."""
    out = run_script(str(HERE / "programs" / "metrics.py")).stdout
    return json.loads(out.splitlines()[-1])


def test_a_named_model_shows_with_its_bytes(said):
    assert said["published"]["ray_zerocopy_models name=encoder namespace=search state=ready"] == 1
    assert said["published"]["ray_zerocopy_model_bytes name=encoder namespace=search"] == said["nbytes"]


def test_a_deleted_model_shows_as_none(said):
    assert said["left"] == 0
    assert said["deleted"]["ray_zerocopy_models name=encoder namespace=search state=ready"] == 0
    assert said["deleted"]["ray_zerocopy_model_bytes name=encoder namespace=search"] == 0


def test_loads_are_counted_and_timed(said):
    loaded = said["loaded"]
    assert loaded["ray_zerocopy_loads_total name=encoder namespace=search"] == 3
    assert loaded["ray_zerocopy_load_seconds_count"] == loaded["ray_zerocopy_load_seconds_bucket le=+Inf"] == 3
    assert loaded["ray_zerocopy_load_seconds_sum"] > 0
    assert said["unnamed"]["ray_zerocopy_loads_total name= namespace="] == 1


def test_a_process_that_holds_a_model_shows_its_private_memory(said):
    series = f"ray_zerocopy_private_bytes pid={said['pid']}"
    assert said["loaded"][series] > 1 << 20
    assert said["dropped"].get(series, 0) == 0


def test_the_thread_lives_as_long_as_a_model(said):
    assert said["before"] == 0
    assert said["recorders with a model"] == 1
    assert said["recorders without"] == 0


def test_nothing_is_recorded_without_ray_or_in_a_forked_child(said):
    assert said["not connected"] == 0
    assert said["child"] == 0


def test_a_second_connection_records_too(said):
    assert said["second connection"]["ray_zerocopy_loads_total name= namespace="] == 1


def test_a_load_leaves_no_more_than_a_note():
    loads, memory = metrics.Loads(), set()
    loads._running = True  # as it is from the first load on
    times = []
    for _ in range(50):
        start = time.perf_counter()
        for _ in range(100):
            loads.note(("", ""), 0.001, memory)
        times.append((time.perf_counter() - start) / 100)
    assert min(times) < 10e-6  # 5% of a small model's load is 25 us


def test_ray_client_processes_record_nothing(monkeypatch):
    monkeypatch.setattr(metrics.connection, "require_ray", lambda action: None)
    monkeypatch.setattr(metrics.connection, "is_client", lambda: True)
    loads = metrics.Loads()
    loads.note(("", ""), 0.001, set())
    assert not loads._running and not loads._notes
