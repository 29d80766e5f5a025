"""``python -m ray_zerocopy inspect``, ``verify`` and ``convert``: files of weights, without running what is in them."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import load_file, save_file

from ray_zerocopy import ModelWrapper
from ray_zerocopy import __main__ as command
from ray_zerocopy.cli import contents, convert, progress, tables


class Tied(torch.nn.Module):
    """A weight under two names, a buffer that ``state_dict`` leaves out, two dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(100, 64)
        self.head = torch.nn.Linear(64, 100, bias=False)
        self.head.weight = self.embedding.weight
        self.norm = torch.nn.BatchNorm1d(64)
        self.register_buffer("mask", torch.ones(4, 4, dtype=torch.bool), persistent=False)


class Trap:
    """What runs code when it is unpickled."""

    def __init__(self) -> None:
        self.model = torch.nn.Linear(4, 4)

    def __reduce__(self):
        return _spring, (self.model,)


def _spring(model):
    raise AssertionError("code of the file has run")


def make_tied() -> Tied:
    return Tied()


def fails():
    raise RuntimeError("no such luck")


NOT_A_FUNCTION = 1


@pytest.fixture(autouse=True)
def no_ray():
    """Files need none, and no verb for them starts one."""
    before = ray.is_initialized()
    yield
    assert ray.is_initialized() == before


@pytest.fixture
def file(tmp_path):
    path = str(tmp_path / "tied.rzc")
    ModelWrapper.to_file(Tied(), path)
    return path


@pytest.fixture
def checkpoint(tmp_path):
    path = str(tmp_path / "some.safetensors")
    tensors = {"a.weight": torch.ones(300, 300), "a.bias": torch.ones(300, dtype=torch.bfloat16), "n": torch.tensor(3)}
    save_file(tensors, path, {"format": "pt"})
    return path


def said(capsys, *arguments: str) -> tuple[int, str, str]:
    code = command.main(arguments)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def failed(capsys, *arguments: str) -> str:
    """The one line on stderr of a command that cannot be carried out."""
    code, out, err = said(capsys, *arguments)
    assert code == 1 and not out and err.count("\n") == 1 and err.startswith("ray_zerocopy: "), (code, out, err)
    return err


# --- inspect -----------------------------------------------------------------------------------------


def test_inspect_shows_tensors_totals_and_what_is_shared(file, capsys):
    code, out, _ = said(capsys, "inspect", file)
    assert code == 0
    lines = out.splitlines()
    assert f"{file}: model file, version " in lines[0] and "Tied" in out
    rows = {line.split()[0]: line.split()[1:] for line in lines if "  " in line}
    assert rows["embedding.weight"] == ["float32", "100x64", "25.0", "KiB", "head.weight"]
    assert rows["head.weight"][-1] == "embedding.weight"
    assert rows["norm.num_batches_tracked"] == ["int64", "scalar", "8", "B"]
    assert "mask (not in state_dict)" in out
    assert rows["all"][0] == str(len(Tied().state_dict()) + 1)
    assert "shared memory counts once" in lines[-1]


def test_inspect_gives_json(file, capsys):
    code, out, _ = said(capsys, "inspect", file, "--json")
    found = json.loads(out)
    assert code == 0 and found["nbytes"] == os.path.getsize(file)
    assert found["shared"] == [["embedding.weight", "head.weight"]]
    assert found["about"]["class"] == "Tied"
    state = Tied().state_dict()
    assert {each["name"] for each in found["tensors"] if each["persistent"]} == set(state)
    assert all(each["shape"] == list(state[each["name"]].shape) for each in found["tensors"] if each["persistent"])
    assert found["totals"]["float32"]["nbytes"] == 4 * (100 * 64 + 4 * 64)


def test_nothing_but_load_runs_code_of_the_file(tmp_path, capsys):
    path, other = str(tmp_path / "trap.rzc"), str(tmp_path / "trap.safetensors")
    ModelWrapper.to_file(Trap(), path)
    for arguments in (["inspect", path], ["verify", path], ["convert", path, other]):
        code, _, err = said(capsys, *arguments)
        assert code == 0, err
    assert load_file(other)


def test_inspect_reads_safetensors_without_torch(checkpoint):
    program = (
        "import sys; from ray_zerocopy.__main__ import main; code = main(sys.argv[1:])\n"
        "assert not {'torch', 'ray', 'safetensors'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "inspect", checkpoint], capture_output=True, text=True, check=True
    )
    assert "format=pt" in done.stdout and "a.weight  float32   300x300  351.6 KiB" in done.stdout
    assert "bfloat16" in done.stdout and done.stdout.splitlines()[-1].split()[:3] == ["all", "3", "90,301"]


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    path = str(tmp_path / "many.safetensors")
    save_file({f"weight of layer {n}": torch.ones(1) for n in range(5000)}, path)  # more than a pipe holds
    command = [sys.executable, "-m", "ray_zerocopy", "inspect", path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("data", "name", "word"),
    [
        (b"", "empty", "neither a model file"),
        (b"some text that is none", "text", "neither a model file"),
        (pickle.dumps(Trap), "pickle.pt", "neither a model file"),
        (struct.pack("<Q", 1 << 62) + b"{}", "long.safetensors", "neither a model file"),
        (struct.pack("<Q", 2) + b"[]", "list.safetensors", "neither a model file"),
        (struct.pack("<Q", 2) + b"{]", "broken.safetensors", "damaged"),
        (
            b"\x2c\0\0\0\0\0\0\0" + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'[:44],
            "cut.safetensors",
            "damaged",
        ),
    ],
)
def test_inspect_names_what_is_no_file_of_weights(tmp_path, capsys, data, name, word):
    path = tmp_path / name
    path.write_bytes(data)
    assert word in failed(capsys, "inspect", str(path))


def test_inspect_refuses_tensors_outside_of_the_file(tmp_path, capsys):
    header = json.dumps({"far": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode()
    path = tmp_path / "far.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    assert "8 bytes of data, expected the 36 of its tensors" in failed(capsys, "inspect", str(path))
    assert "No such file" in failed(capsys, "inspect", str(tmp_path / "none"))


def test_names_from_a_file_cannot_steer_the_terminal(tmp_path, capsys):
    path = str(tmp_path / "steer.safetensors")
    save_file({"a\x1b[2J\nb": torch.ones(1)}, path)
    code, out, _ = said(capsys, "inspect", path)
    assert code == 0 and "\x1b" not in out and "a\\x1b[2J\\nb" in out


def test_sizes_of_dtypes_are_those_of_torch():
    for dtype in {value for value in vars(torch).values() if isinstance(value, torch.dtype)}:
        name = str(dtype).replace("torch.", "")
        if not name.startswith(("q", "bits")):
            assert contents.item_size(name) == dtype.itemsize, name


# --- verify ------------------------------------------------------------------------------------------


def test_verify_names_the_damaged_tensor_and_goes_on_with_the_other_files(file, tmp_path, capsys):
    code, out, err = said(capsys, "verify", file)
    assert (code, err) == (0, "") and out.startswith(f"{file}: all ")
    data = bytearray(Path(file).read_bytes())
    weight = ModelWrapper.open(file).tensors()["embedding.weight"]
    at = data.index(weight.numpy().tobytes())
    data[at + 100] ^= 1
    damaged = tmp_path / "damaged.rzc"
    damaged.write_bytes(data)
    code, out, err = said(capsys, "verify", str(damaged), file)
    assert code == 1 and "'embedding.weight'" in err and str(damaged) in err and err.count("\n") == 1
    assert out.startswith(f"{file}: all ")


def test_verify_says_that_safetensors_have_no_checksums(checkpoint, capsys):
    assert f"{checkpoint}: this is no model file" in failed(capsys, "verify", checkpoint)


@pytest.mark.parametrize("bar", [progress.mapped, progress.written])
def test_progress_is_for_terminals_only(monkeypatch, capsys, bar):
    with bar("file", 100):
        pass
    assert not capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "_EVERY", 0.01)
    seen = threading.Event()
    steps = iter([0, 40, 30])  # it may go back

    def counted(path, name):
        step = next(steps, None)
        if step is None:
            seen.set()
        return 90 if step is None else step

    monkeypatch.setattr(progress, "_counted", counted)
    with bar("file", 100):
        assert seen.wait(5)
    assert "file" in capsys.readouterr().err


def test_what_progress_goes_by_is_there():
    assert progress._counted("/proc/self/status", "RssFile:") > 0 < progress._counted("/proc/self/io", "wchar:")
    assert progress._counted("/proc/none", "x:") == 0


# --- convert -----------------------------------------------------------------------------------------


def test_convert_there_and_back_has_the_same_tensors(file, tmp_path, capsys):
    there, back = str(tmp_path / "there.safetensors"), str(tmp_path / "back.rzc")
    code, out, err = said(capsys, "convert", file, there)
    assert code == 0 and out.startswith(f"{there}: "), err
    state = ModelWrapper.open(file).load().state_dict()
    found = load_file(there)
    assert all(torch.equal(found[name], state[name]) for name in found) and len(found) >= len(state) - 1
    code, out, err = said(capsys, "convert", there, back, "--into", "test_cli_files:make_tied")
    assert code == 0, err
    again = ModelWrapper.open(back).load()
    assert isinstance(again, Tied) and again.head.weight is again.embedding.weight
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in state.items())


def test_convert_takes_what_fits_when_told_so(tmp_path, capsys):
    save_file({"embedding.weight": torch.ones(9, 4), "other": torch.ones(3)}, str(tmp_path / "some.safetensors"))
    given = str(tmp_path / "some.safetensors"), str(tmp_path / "some.rzc"), "--into", "test_cli_files:make_plain"
    assert "'other'" in failed(capsys, "convert", *given)
    code, _, err = said(capsys, "convert", *given, "--no-strict")
    assert code == 0 and "left out: other" in err and "kept as built: head.weight" in err
    assert torch.equal(ModelWrapper.open(given[1]).load()["embedding"].weight, torch.ones(9, 4))


def make_plain():
    return torch.nn.ModuleDict({"embedding": torch.nn.Embedding(9, 4), "head": torch.nn.Linear(4, 9)})


def test_convert_does_not_write_over_a_file_unasked(file, tmp_path, capsys):
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"mine")
    assert "--force" in failed(capsys, "convert", file, str(there))
    assert there.read_bytes() == b"mine"
    assert said(capsys, "convert", file, str(there), "--force")[0] == 0
    assert load_file(str(there))
    assert "same file" in failed(capsys, "convert", str(there), str(there), "--force")


@pytest.mark.parametrize(
    ("into", "word"),
    [
        (None, "--into MODULE:FACTORY"),
        ("nonsense", "is not MODULE:FACTORY"),
        ("no_such_module:f", "cannot be imported"),
        ("test_cli_files:no_such_function", "cannot be imported"),
        ("test_cli_files:NOT_A_FUNCTION", "must be a function"),
        ("builtins:dict", "not a torch.nn.Module"),
    ],
)
def test_convert_says_what_the_factory_must_be(checkpoint, tmp_path, capsys, into, word):
    given = [] if into is None else ["--into", into]
    back = tmp_path / "back.rzc"
    assert word in failed(capsys, "convert", checkpoint, str(back), *given)
    assert not back.exists()


def test_an_error_of_the_factory_keeps_its_traceback(checkpoint, tmp_path):
    with pytest.raises(RuntimeError, match="no such luck"):
        command.main(["convert", checkpoint, str(tmp_path / "x"), "--into", "test_cli_files:fails"])


def test_convert_says_which_way_goes(checkpoint, tmp_path, capsys):
    other = str(tmp_path / "other.safetensors")
    assert "a model file is what" in failed(capsys, "convert", checkpoint, other, "--into", "test_cli_files:make_tied")
    assert not os.path.exists(other)


def test_a_factory_is_looked_for_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "factory_of_this_folder.py").write_text(
        "class Made:\n    @staticmethod\n    def small():\n        return 5\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert convert._factory("factory_of_this_folder:Made.small")() == 5


def test_what_a_terminal_acts_on_is_spelled_out():
    assert tables.printable("tür\x07\x9b") == "tür\\x07\\x9b"
