"""Ray Client (``ray://``): a cluster of its own with a client server, and programs that connect to it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import HERE, run_script

STORE = 1000 << 20  # bytes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def head(store: int) -> Iterator[dict[str, str]]:
    """A head node with a client server, until the end; the environment for programs that connect to it."""
    port, client_port = free_port(), free_port()
    environment = {"RAY_AUTH_MODE": "disabled"}
    with tempfile.TemporaryDirectory(prefix="rzc") as folder, open(Path(folder, "log"), "w+") as log:
        command = [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"),
            *(f"--port={port}", f"--ray-client-server-port={client_port}", f"--temp-dir={folder}/ray"),
            *("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"),
            *("--num-cpus=2", f"--object-store-memory={store}", "--include-dashboard=false"),
        ]
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=log, cwd=HERE, start_new_session=True
        )
        try:
            end = time.monotonic() + 180
            while "will now block" not in Path(log.name).read_text():  # it listens earlier, and is not ready then
                assert process.poll() is None and time.monotonic() < end, Path(log.name).read_text()
                time.sleep(0.2)
            yield {**environment, "RAY_ADDRESS": f"ray://{address()}:{client_port}", "CLUSTER_FOLDER": folder}
        finally:
            process.terminate()
            process.wait(60)


def address() -> str:
    """Of this machine, as Ray finds it: the client server listens there and nowhere else."""
    from ray.util import get_node_ip_address

    return str(get_node_ip_address())


@pytest.fixture(scope="module")
def connect() -> Iterator[dict[str, str]]:
    with head(STORE) as environment:
        yield environment


def test_wrappers_go_to_actors_and_everything_is_the_same_there(connect):
    run_script("programs/client_actors.py", **connect)


def test_stand_ins_are_called(connect):
    run_script("programs/client_calls.py", **connect)


def test_one_process_connects_again_and_in_other_ways_and_an_actor_keeps_an_image(connect):
    run_script("programs/client_sessions.py", **connect)


def test_named_models_are_published_and_outlive_the_connection(connect):
    run_script("programs/client_named.py", **connect)


def test_a_connection_lost_while_sending_leaves_nothing_in_the_cluster(connect):
    connect = {**connect, "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "1"}
    with pytest.raises(AssertionError, match="exit -9"):
        run_script("programs/client_lost.py", "client", **connect)
    run_script("programs/client_lost.py", "server", **connect)


@pytest.mark.soak
def test_a_model_of_more_than_two_gigabytes():
    with head(2600 << 20) as environment:
        run_script("programs/client_large.py", timeout=300, **environment)
