"""``python -m ray_zerocopy``, run as users do."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys

import pytest
import ray
import torch

import ray_zerocopy
from ray_zerocopy import ModelWrapper, errors
from ray_zerocopy import __main__ as command
from ray_zerocopy.cli.list import table
from ray_zerocopy.cli.tables import age, size

SPACE = "command"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ray_zerocopy", *arguments],
        env={**{k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def address(cluster):
    return ray.get_runtime_context().gcs_address


@pytest.fixture
def model(cluster):
    yield ModelWrapper.from_model(torch.nn.Linear(300, 300), name="encoder", namespace=SPACE, lifetime="detached")
    with contextlib.suppress(errors.ModelNotFoundError):
        ModelWrapper.delete("encoder", SPACE)


def test_list_shows_a_readable_table(model, address):
    done = run("list", "--namespace", SPACE, RAY_ADDRESS=address)
    assert done.returncode == 0, done.stderr
    head, row = done.stdout.splitlines()
    assert head.split()[:4] == ["NAMESPACE", "NAME", "VERSION", "CLASS"]
    node = ray.get_runtime_context().get_node_id()[:8]
    assert re.fullmatch(rf"{SPACE} +encoder +1 +Linear +35\d\.\d KiB +2 +{node} +\d+s +ready +driver .*", row)
    assert row.endswith(model.model_refs["model"].hex())


def test_list_gives_json(model, address):
    done = run("list", "--address", address, "--json")
    assert done.returncode == 0, done.stderr
    (row,) = [row for row in json.loads(done.stdout) if row["namespace"] == SPACE]
    (known,) = ray_zerocopy.list_models(SPACE)
    assert row["nbytes"] == model.nbytes
    assert row["object_id"] == known.object_id
    assert set(row) == set(known.__dataclass_fields__)


def test_delete_forgets_a_model_and_says_what_is_missing(model, address):
    done = run("delete", "encoder", "--namespace", SPACE, "--address", address)
    assert (done.returncode, done.stdout) == (0, f"deleted 'encoder' of namespace '{SPACE}'\n"), done.stderr
    assert ray_zerocopy.list_models(SPACE) == []
    done = run("delete", "encoder", "--namespace", SPACE, "--address", address)
    assert done.returncode == 1
    assert "there is no model 'encoder'" in done.stderr and "Traceback" not in done.stderr


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("127.0.0.1:{port}", "no Ray cluster is running at"),
        ("ray://127.0.0.1:{port}", "no Ray cluster is running at"),
        ("nonsense", "is not HOST:PORT"),
        ("local", "would start a new cluster"),
    ],
)
def test_without_a_cluster_it_says_so_and_starts_none(given, said, capsys, monkeypatch):
    monkeypatch.setattr(ray, "init", None)
    assert command.main(["list", "--address", given.format(port=free_port())]) == 1
    out, err = capsys.readouterr()
    assert said in err and err.startswith("ray_zerocopy: ") and err.count("\n") == 1 and not out


def test_the_real_command_has_no_traceback_and_an_exit_code():
    done = run("list", RAY_ADDRESS=f"127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "no Ray cluster is running at" in done.stderr and "Traceback" not in done.stderr
    assert run("list", "--nonsense").returncode == run().returncode == 2


def test_it_looks_for_a_running_cluster_by_itself(capsys, monkeypatch):
    def init(**options):
        assert options["address"] == "auto"  # which never starts one
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    assert command.main(["list"]) == 1
    assert "no Ray cluster is running on this machine" in capsys.readouterr().err


def test_something_else_that_listens_is_given_up():
    program = (
        "import sys; from ray_zerocopy.cli import cluster; from ray_zerocopy.__main__ import main\n"
        "cluster._SECONDS = 2.0\n"
        "sys.exit(main(['list', '--address', sys.argv[1]]))"
    )
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        done = subprocess.run(
            [sys.executable, "-c", program, f"127.0.0.1:{other.getsockname()[1]}"],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert "no Ray cluster has answered at" in done.stderr and "Traceback" not in done.stderr


def test_it_imports_no_torch():
    program = "import sys, ray_zerocopy.__main__, ray_zerocopy.cli.list, ray_zerocopy.cli.delete; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_sizes_and_ages_are_for_people():
    assert [size(n) for n in (0, 1023, 1536, 438_000_000, 5 << 30, 3 << 40)] == [
        "0 B", "1023 B", "1.5 KiB", "417.7 MiB", "5.0 GiB", "3.0 TiB"
    ]  # fmt: skip
    assert [age(n) for n in (0.4, 61, 3600, 90_061)] == ["0s", "1m 1s", "1h 0m", "1d 1h"]


def test_columns_line_up():
    one = ray_zerocopy.ModelInfo("a", "default", 1, "Net", 5, 2, (), 1.0, "driver x", False, "lost", "")
    two = ray_zerocopy.ModelInfo(
        "longer", "default", 12, "Net", 5 << 20, 2, ("a" * 56,), 1.0, "task", True, "ready", "c"
    )
    head, *rows = table([one, two]).splitlines()
    assert all(row[head.index("STATE") :].startswith(state) for row, state in zip(rows, ("lost", "ready"), strict=True))
    assert "driver x (ends with it)" in rows[0]
