"""One small Ray cluster for all tests that need no cluster of their own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
HERE = Path(__file__).parent
# workers find the helper modules of the tests as this process does
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))

STORE = 1 << 30  # bytes

# a shell has what it starts in the background ignore it, and Python leaves that so
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def cluster():
    import ray

    ray.init(address="local", num_cpus=8, object_store_memory=STORE, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def worker(cluster):
    """An actor that runs functions: ``worker(function, *arguments)``."""
    import ray

    from helpers import Worker

    actors = []

    def call(function, *arguments):
        if not actors:
            actors.append(Worker.options(num_cpus=0).remote())
        return ray.get(actors[0].run.remote(function, *arguments))

    yield call
    for actor in actors:
        ray.kill(actor)
