"""This process's connection to Ray: it starts on first use, and ends without harm to what has been loaded."""

from __future__ import annotations

import ast
import inspect
import textwrap
import time

import pytest
import ray
from ray._private import auto_init_hook
from ray._private import worker as ray_worker

from helpers import run_script
from ray_zerocopy import errors
from ray_zerocopy.stores import connection, node_files, objects


@pytest.mark.parametrize("how", ["starts", "starts_for_tasks", "starts_for_torchscript"])
def test_ray_starts_on_first_use(cluster, how):
    address = ray.get_runtime_context().gcs_address  # by Ray's rule: quicker than a cluster of its own
    run_script("programs/auto_start.py", how, address, RAY_ADDRESS=address, RAY_ENABLE_AUTO_CONNECT="")


@pytest.mark.parametrize(
    ("how", "setting"),
    [
        ("does_not_start_where_that_is_switched_off", "0"),
        ("does_not_start_in_a_child_of_a_process_with_the_go_core", ""),
    ],
)
def test_ray_does_not_start_where_it_must_not(how, setting):
    run_script("programs/auto_start.py", how, RAY_ENABLE_AUTO_CONNECT=setting)


def test_loaded_models_survive_a_shutdown_and_what_is_of_an_earlier_connection_says_so():
    run_script(
        "programs/shutdown.py",
        "copy-on-write",
        "weights_stay",
        "what_belongs_to_an_earlier_connection_says_so",
        "a_shutdown_beside_loads_gives_them_their_bytes_or_an_error",
        "the_end_of_a_context_is_a_shutdown",
        "a_failure_keeps_the_connection",
        "what_nobody_holds_is_not_copied",
    )


def test_loaded_models_survive_a_shutdown_where_mappings_are_read_only():
    run_script("programs/shutdown.py", "read-only", "weights_stay", RAY_ZEROCOPY_ISOLATION="read-only")


def test_ray_has_the_private_names_that_this_relies_on():
    shutdown = inspect.getsource(inspect.unwrap(ray_worker.shutdown))
    called = {
        node.func.id
        for node in ast.walk(ast.parse(textwrap.dedent(shutdown)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "disconnect" in called, "ray.shutdown() no longer calls the global disconnect(), which we wrap"
    original = inspect.unwrap(ray_worker.disconnect)
    assert original is not ray_worker.disconnect
    assert list(inspect.signature(original).parameters) == ["exiting_interpreter"]
    assert callable(auto_init_hook.auto_init_ray)
    assert inspect.unwrap(ray.put) is not ray.put
    assert hasattr(ray._raylet.CoreWorker, "current_actor_is_asyncio")


def test_the_session_is_the_same_for_all_processes_of_a_cluster(cluster, worker):
    name = connection.session()
    assert name.startswith("session_") and worker(connection.session) == name
    # what older versions of Ray are asked
    assert ray.get_runtime_context().worker.node.session_name == name
    assert any(f"--session-name={name}" in command for command in node_files._raylets())


def test_loads_in_an_async_actor_do_not_warn_and_time_out():
    result = run_script("programs/async_actor.py")
    output = result.stdout + result.stderr
    assert "the log is here" in output
    assert "blocking" not in output, output


@ray.remote(num_cpus=0)
def late() -> None:
    raise TimeoutError("of the task itself")


def test_a_timeout_of_the_task_is_not_ours(cluster):
    assert connection.fetch([ray.put(1), ray.put(2)]) == [1, 2]
    with pytest.raises(TimeoutError, match="of the task itself") as caught:
        connection.fetch(late.remote(), timeout=60)
    assert not isinstance(caught.value, errors.LoadTimeoutError)


@ray.remote(num_cpus=0)
def slow(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


def test_who_waits_long_is_told(cluster, monkeypatch, caplog):
    monkeypatch.setattr(connection, "_PATIENCE", (0.3, 0.5))
    waited: list[float] = []
    assert connection.fetch(slow.remote(3), late=waited.append) == "done"
    assert waited[:2] == [0.3, 0.8]
    waited.clear()
    reference = slow.remote(60)
    with pytest.raises(errors.LoadTimeoutError, match=r"within 0.9 s"):
        connection.fetch(reference, 0.9, waited.append)
    assert waited == [0.3, 0.8]
    with pytest.raises(errors.LoadTimeoutError):
        objects.Reference(reference).fetch(0.5)
    (record,) = caplog.records
    assert record.name == "ray_zerocopy"
    assert "load(timeout=...)" in record.getMessage()
    ray.cancel(reference)
