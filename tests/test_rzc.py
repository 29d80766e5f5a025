"""``rzc``, the program in Go, beside ``python -m ray_zerocopy``: the same texts and exit codes, and what it alone does."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import settles
from ray_zerocopy import ModelWrapper
from ray_zerocopy import __main__ as command
from ray_zerocopy.cli import tables
from ray_zerocopy.stores import files

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"


@pytest.fixture(scope="session")
def rzc(tmp_path_factory):
    """The program, built without a C compiler: ``rzc(*arguments)`` gives its exit code, stdout and stderr."""
    program = tmp_path_factory.mktemp("rzc") / "rzc"
    subprocess.run(
        ["go", "build", "-buildvcs=false", "-o", str(program), "./gozc/cmd/rzc"],
        cwd=HERE.parent,
        env={**os.environ, "CGO_ENABLED": "0"},
        check=True,
    )

    def run(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    return run


class Model(torch.nn.Module):
    """What makes entries of every kind: tied, cut, transposed, without elements, left out of ``state_dict``."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(100, 64)
        self.head = torch.nn.Linear(64, 100, bias=False)
        self.head.weight = self.embedding.weight
        self.third = torch.nn.Parameter(self.embedding.weight.detach()[3:5])
        self.norm = torch.nn.BatchNorm1d(64)
        self.register_buffer("turned", torch.arange(6.0).view(2, 3).t())
        self.register_buffer("short", torch.linspace(-2, 2, 9, dtype=torch.bfloat16))
        self.register_buffer("nil", torch.empty(0, 7))
        self.register_buffer("void", torch.empty(0, 7))
        steps = torch.arange(100.0)
        self.register_buffer("head_of", steps[:60])
        self.register_buffer("tail_of", steps[40:])
        self.register_buffer("thirds", torch.arange(3000.0)[::3])
        self.register_buffer("mask", torch.ones(4, 4, dtype=torch.bool), persistent=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of weights, sound ones and others."""
    path = tmp_path_factory.mktemp("files")
    ModelWrapper.to_file(Model(), path / "model.rzc")
    ModelWrapper.to_file({"tür\x1b[2J": torch.nn.Linear(2, 3), "it's": torch.nn.Linear(3, 2)}, path / "pipeline.rzc")
    ModelWrapper.to_file([torch.nn.Flatten()], path / "nothing.rzc")
    tuned = Model()
    tuned.load_state_dict(ModelWrapper.open(path / "model.rzc").load().state_dict())
    torch.nn.init.constant_(tuned.norm.bias, -0.5)
    ModelWrapper.to_file(tuned, path / "tuned.rzc", share_with=ModelWrapper.open(path / "model.rzc"))
    tensors = {
        "a": torch.ones(300, 300),
        "b": torch.ones(3, dtype=torch.bfloat16),
        "n": torch.tensor(3),
        "e": torch.empty(0, 2),
        "f": torch.ones(4).to(torch.float8_e4m3fn),
        "c": torch.ones(2, dtype=torch.complex64),
        "ü\x07": torch.ones(2, dtype=torch.bool),
    }
    save_file(tensors, path / "some.safetensors", {"format": "pt", "author": "tür"})
    data = bytearray((path / "model.rzc").read_bytes())
    data[-1] ^= 1
    data[int.from_bytes(data[24:32], "little") + 100] ^= 1
    (path / "damaged.rzc").write_bytes(data)
    data[1000] ^= 1
    (path / "head.rzc").write_bytes(data)
    (path / "cut.rzc").write_bytes(data[:5000])
    (path / "short.rzc").write_bytes((path / "model.rzc").read_bytes()[:-1])
    (path / "longer.rzc").write_bytes((path / "model.rzc").read_bytes() + b"x")
    (path / "empty").write_bytes(b"")
    (path / "text").write_bytes(b"some text that is neither")
    (path / "broken.safetensors").write_bytes((path / "some.safetensors").read_bytes()[:-1])
    (path / "lonely").mkdir()
    shutil.copy(path / "tuned.rzc", path / "lonely" / "tuned.rzc")
    for name in ("v1", "v2", "v2-shared"):
        shutil.copy(GOLDEN / f"{name}.image", path)
    return path


SOUND = ["model.rzc", "pipeline.rzc", "nothing.rzc", "tuned.rzc", "v1.image", "v2.image", "v2-shared.image"]
CHECKPOINT = "some.safetensors"
OTHERS = [
    "damaged.rzc",
    "head.rzc",
    "cut.rzc",
    "short.rzc",
    "longer.rzc",
    "empty",
    "text",
    "broken.safetensors",
    "lonely/tuned.rzc",
    "lonely",
    "missing",
]


def both(rzc, capsys, *arguments: str) -> tuple[int, str, str]:
    """What the two commands say and end with, which is the same."""
    code = command.main(arguments)
    out, err = capsys.readouterr()
    assert rzc(*arguments) == (code, out, err)
    return code, out, err


# --- what both do --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SOUND, CHECKPOINT, *OTHERS])
def test_inspect_says_the_same(rzc, folder, capsys, monkeypatch, name):
    monkeypatch.chdir(folder)
    code, out, _ = both(rzc, capsys, "inspect", name)
    assert code == (name in OTHERS and name != "damaged.rzc")
    assert ("\x1b" not in out) and ("\x07" not in out)
    both(rzc, capsys, "inspect", "--json", str(folder / name))


def test_verify_says_the_same(rzc, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    sound = [name for name in SOUND if name != "v1.image"]
    code, out, _ = both(rzc, capsys, "verify", *sound)
    assert code == 0 and len(out.splitlines()) == len(sound)
    code, out, err = both(rzc, capsys, "verify", *OTHERS, "v1.image", CHECKPOINT, sound[0])
    assert code == 1 and len(out.splitlines()) == 1 and len(err.splitlines()) == len(OTHERS) + 2
    assert "the bytes of tensor 'third' and 2 that share its memory" in err


@pytest.mark.parametrize("name", SOUND)
def test_convert_to_safetensors_writes_the_same_bytes(rzc, folder, capsys, tmp_path, name):
    mine, others = tmp_path / "mine.safetensors", tmp_path / "others.safetensors"
    assert command.main(["convert", str(folder / name), str(others)]) == 0
    assert (
        capsys.readouterr().out.partition(": ")[2]
        == rzc("convert", str(folder / name), str(mine))[1].partition(": ")[2]
    )
    assert mine.read_bytes() == others.read_bytes()
    assert stat.S_IMODE(mine.stat().st_mode) == stat.S_IMODE(others.stat().st_mode) == 0o444
    assert sorted(os.listdir(tmp_path)) == [mine.name, others.name]
    load_file(str(mine))


def test_convert_refuses_the_same(rzc, folder, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"mine")
    for arguments in (
        ("model.rzc", str(there)),
        ("missing", str(there), "--force"),
        ("model.rzc", "model.rzc", "--force"),
        ("model.rzc", str(tmp_path / "x.rzc")),
        ("missing", str(tmp_path / "x.safetensors")),
        ("head.rzc", str(tmp_path / "x.safetensors")),
        ("model.rzc", str(tmp_path / "none" / "x.safetensors")),
    ):
        code, out, err = both(rzc, capsys, "convert", *arguments)
        assert (code, out, err.count("\n")) == (1, "", 1), arguments
    assert there.read_bytes() == b"mine" and os.listdir(tmp_path) == [there.name]
    assert both(rzc, capsys, "convert", "model.rzc", str(there), "--force")[0] == 0


def test_a_dtype_that_safetensors_do_not_have_is_refused_the_same(rzc, capsys, tmp_path):
    wide = torch.nn.Linear(1, 1)
    wide.register_buffer("wide", torch.ones(2, dtype=torch.complex128))
    ModelWrapper.to_file(wide, tmp_path / "wide.rzc")
    _, _, err = both(rzc, capsys, "convert", str(tmp_path / "wide.rzc"), str(tmp_path / "wide.safetensors"))
    assert "tensor 'wide' is complex128" in err and os.listdir(tmp_path) == ["wide.rzc"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["inspect"],
        ["inspect", "a", "b"],
        ["inspect", "a", "--nonsense"],
        ["verify"],
        ["convert", "a"],
    ],
)
def test_wrong_arguments_end_the_same(rzc, capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    code, out, err = rzc(*arguments)
    assert ended.value.code == code == 2 and not out and "error: " in err


def test_every_verb_teaches_itself(rzc):
    code, out, _ = rzc("--help")
    verbs = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert code == 0 and verbs == ["inspect", "verify", "diff", "convert", "cat", "store", "run"]
    for verb in verbs:
        code, out, err = rzc(verb, "--help")
        assert code == 0 and out.startswith(f"usage: rzc {verb}") and "exit codes: " in out and not err


def test_a_reader_that_has_seen_enough_is_no_error(rzc, tmp_path):
    save_file({f"weight of layer {n}": torch.ones(1) for n in range(5000)}, tmp_path / "many.safetensors")
    program = rzc.__closure__[0].cell_contents
    ended = subprocess.run(
        ["sh", "-c", f"({program} inspect {tmp_path}/many.safetensors; echo $? >&2) | head -1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr == "1\n" and ended.stdout.count("\n") == 1


# --- from safetensors ----------------------------------------------------------------------------------


def test_a_checkpoint_becomes_a_model_file_that_python_loads(rzc, tmp_path):
    layers = torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.BatchNorm1d(200)).eval()
    state = {**layers.state_dict(), "0.weight": torch.randn(200, 300)}
    for name in ("2.odd", "3.odd"):  # segments that end where none may begin
        layers.append(torch.nn.Module())
        layers[-1].register_buffer("odd", torch.zeros(70_001, dtype=torch.uint8))
        state[name] = torch.randint(0, 255, (70_001,), dtype=torch.uint8)
    save_file(state, tmp_path / "in.safetensors")
    code, out, err = rzc("convert", str(tmp_path / "in.safetensors"), str(tmp_path / "out.rzc"))
    assert (code, err) == (0, "") and out.startswith(f"{tmp_path}/out.rzc: ")
    wrapper = ModelWrapper.open(tmp_path / "out.rzc")
    wrapper.verify()
    wrapper.load(into=layers)
    loaded = wrapper.load(verify=True)
    assert all(torch.equal(layers.state_dict()[name], tensor) for name, tensor in state.items())
    assert loaded.keys() == wrapper.tensors().keys() == state.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert all(tensor.data_ptr() % 64 == 0 for tensor in loaded.values())
    assert rzc("verify", str(tmp_path / "out.rzc"))[0] == 0
    assert rzc("convert", str(tmp_path / "out.rzc"), str(tmp_path / "back.safetensors"))[0] == 0
    back = load_file(str(tmp_path / "back.safetensors"))
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)


def test_every_dtype_goes_there_and_back(rzc, folder, tmp_path):
    assert rzc("convert", str(folder / CHECKPOINT), str(tmp_path / "all.rzc"))[0] == 0
    want = load_file(str(folder / CHECKPOINT))
    for found in (ModelWrapper.open(tmp_path / "all.rzc").load(), ModelWrapper.open(tmp_path / "all.rzc").tensors()):
        assert found.keys() == want.keys()
        for name, tensor in want.items():
            assert found[name].dtype is tensor.dtype and found[name].shape == tensor.shape
            assert torch.equal(found[name].float(), tensor.float()) if tensor.dtype.is_floating_point else True
    code, _, err = rzc("convert", str(folder / CHECKPOINT), str(tmp_path / "all.safetensors"))
    assert code == 1 and "a model file is what" in err
    assert rzc("convert", str(folder / "broken.safetensors"), str(tmp_path / "x.rzc"))[0] == 1
    assert os.listdir(tmp_path) == ["all.rzc"]


# --- cat -------------------------------------------------------------------------------------------------


def test_cat_shows_values_in_order_and_their_statistics(rzc, folder):
    code, out, err = rzc("cat", str(folder / "model.rzc"), "turned")
    lines = out.splitlines()
    assert (code, err) == (0, "") and lines[0] == "turned: float32, 3x2, 24 B"
    assert lines[1].startswith("min 0.0, max 5.0, mean 2.5, standard deviation 1.707825; zero: 1, ")
    assert [line.split() for line in lines[3:]] == [["0.0", "3.0"], ["1.0", "4.0"], ["2.0", "5.0"]]
    lines = rzc("cat", str(folder / "model.rzc"), "turned", "--limit", "3")[1].splitlines()
    assert lines[3:] == ["0.0 3.0", "1.0", "and 3 more: --limit 6 shows them"]


def test_cat_gives_json_that_is_the_tensor(rzc, folder, tmp_path):
    tensors = {
        "f32": torch.randn(7, 5),
        "f64": torch.randn(3, dtype=torch.float64),
        "f16": torch.randn(9).half(),
        "bf16": torch.randn(9).bfloat16(),
        **{f"i{bits}": torch.randint(-100, 100, (6,)).to(getattr(torch, f"int{bits}")) for bits in (8, 16, 32, 64)},
        **{f"u{bits}": torch.randint(0, 100, (6,)).to(getattr(torch, f"uint{bits}")) for bits in (8, 16, 32, 64)},
        "flag": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        **{
            name: torch.arange(256, dtype=torch.uint8).view(getattr(torch, name))
            for name in vars(torch)
            if name.startswith("float8_")
        },
    }
    save_file(tensors, tmp_path / "all.safetensors")
    assert rzc("convert", str(tmp_path / "all.safetensors"), str(tmp_path / "all.rzc"))[0] == 0
    for name, tensor in tensors.items():
        for file in ("all.safetensors", "all.rzc"):
            code, out, err = rzc("cat", str(tmp_path / file), name, "--json", "--limit=1000")
            assert code == 0, err
            found = json.loads(out)
            want = tensor.double().numpy()
            assert found["shape"] == list(want.shape)
            assert np.array_equal(np.array(found["values"], np.float64).reshape(want.shape), want, equal_nan=True), name
            finite = want[np.isfinite(want)]
            said = found["statistics"]
            assert said["min"] == finite.min() and said["max"] == finite.max() and said["zeros"] == (want == 0).sum()
            assert np.isclose(said["mean"], finite.mean()) and np.isclose(said["standard_deviation"], finite.std())
            assert (said["nans"], said["infinite"]) == (np.isnan(want).sum(), np.isinf(want).sum())


def test_cat_says_what_it_cannot_show(rzc, folder):
    file = str(folder / "model.rzc")
    code, out, err = rzc("cat", file, "embedding")
    assert (code, out) == (1, "") and "no tensor 'embedding'; it has 'embedding.weight'" in err
    assert rzc("cat", file, "nil")[1].splitlines() == ["nil: float32, 0x7, 0 B", "no values"]
    assert rzc("cat", str(folder / CHECKPOINT), "c")[1].splitlines()[-1] == "1.0+0.0j 1.0+0.0j"
    assert rzc("cat", file, "nil", "--limit", "some")[0] == 1


# --- diff ------------------------------------------------------------------------------------------------


def test_diff_says_which_tensors_differ_and_by_how_much(rzc, tmp_path):
    one = {"a": torch.zeros(3, 4), "b": torch.ones(2), "c": torch.ones(2), "d": torch.ones(2), "e": torch.ones(5)}
    other = {
        "a": torch.zeros(3, 4),
        "b": torch.ones(2, 1),
        "c": torch.ones(2).half(),
        "e": torch.ones(5),
        "x": torch.ones(1),
    }
    other["a"][1, 2], other["a"][2, 3] = 0.25, -1.5
    save_file(one, tmp_path / "one.safetensors")
    save_file(other, tmp_path / "other.safetensors")
    files = str(tmp_path / "one.safetensors"), str(tmp_path / "other.safetensors")
    code, out, err = rzc("diff", *files)
    rows = dict(line.split(None, 1) for line in out.splitlines()[1:-2])
    assert (code, err) == (1, "") and out.splitlines()[-1] == "5 of 6 tensors differ"
    assert rows == {
        "a": "2 of 12 values, by up to 1.5",
        "b": "shape: 2 and 2x1",
        "c": "dtype: float32 and float16; the same values",
        "d": f"only in {files[0]}",
        "x": f"only in {files[1]}",
    }
    code, out, _ = rzc("diff", *files, "--json")
    found = {each["name"]: each for each in json.loads(out)["differences"]}
    assert code == 1 and found["a"]["values"] == 2 and found["a"]["largest"] == 1.5 and found["x"]["a"] is None
    assert rzc("diff", files[0], files[0]) == (0, "0 of 5 tensors differ\n", "")


def test_diff_goes_by_bits_and_sees_what_is_no_number(rzc, tmp_path):
    nan, inf = float("nan"), float("inf")
    one = {"same": torch.tensor([nan, inf, 0.0]), "zero": torch.tensor([0.0]), "nan": torch.tensor([nan, 1.0])}
    other = {"same": torch.tensor([nan, inf, 0.0]), "zero": torch.tensor([-0.0]), "nan": torch.tensor([1.0, 1.0])}
    one["cast"] = one["same"].clone()
    other["cast"] = one["same"].half()
    save_file(one, tmp_path / "one.safetensors")
    save_file(other, tmp_path / "other.safetensors")
    out = rzc("diff", str(tmp_path / "one.safetensors"), str(tmp_path / "other.safetensors"))[1]
    rows = dict(line.split(None, 1) for line in out.splitlines()[1:-2])
    assert rows == {
        "zero": "1 of 1 values, by up to 0",
        "nan": "1 of 2 values, by up to inf",
        "cast": "dtype: float32 and float16; the same values",
    }


def test_diff_of_a_model_and_its_fine_tune(rzc, folder):
    code, out, _ = rzc("diff", str(folder / "model.rzc"), str(folder / "tuned.rzc"))
    assert code == 1 and out.splitlines()[1:] == [
        "norm.bias  64 of 64 values, by up to 0.5",
        "",
        "1 of 16 tensors differ",
    ]


# --- the library -----------------------------------------------------------------------------------------


def test_the_program_of_the_page_runs(tmp_path):
    """docs/go.md has a program that reads a file of a linear layer."""
    page = (HERE.parent / "docs" / "go.md").read_text()
    (tmp_path / "main.go").write_text(page.split("\n```go\n")[1].split("\n```\n")[0])
    model = torch.nn.Linear(3, 2)
    ModelWrapper.to_file(model, tmp_path / "model.rzc")
    command = ["go", "run", "-buildvcs=false", str(tmp_path / "main.go"), str(tmp_path / "model.rzc")]
    env = {**os.environ, "CGO_ENABLED": "0"}
    done = subprocess.run(command, cwd=HERE.parent, env=env, capture_output=True, text=True, check=True)
    first, *rest = done.stdout.splitlines()
    assert first == "weight float32 [2 3]" and rest[0] == "bias float32 [2]"
    value, *stride = rest[1].split()
    assert float(value) == pytest.approx(model.weight[0, 0].item()) and stride == ["[3", "1]"]


# --- everywhere ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64"])
def test_it_compiles_without_a_c_compiler_for(system):
    goos, goarch = system.split("/")
    env = {**os.environ, "CGO_ENABLED": "0", "GOOS": goos, "GOARCH": goarch}
    subprocess.run(
        ["go", "vet", "./gozc/cmd/rzc", "./gozc/image", "./gozc/store"],
        cwd=HERE.parent,
        env=env,
        check=True,
    )


# --- the live store ----------------------------------------------------------------------------------------


def test_what_lies_in_the_store_is_found_and_read_without_ray(rzc, folder, worker, tmp_path):
    raylet = worker(os.getppid)

    def listed():
        code, out, err = rzc("store", "--json")
        assert code == 0, err
        return [each for each in json.loads(out) if each["raylet"] == raylet]

    file = str(folder / "model.rzc")
    fingerprint = files.opened(file).fingerprint
    before = listed()
    stored = ModelWrapper.open(file).put()
    tuned = ModelWrapper.open(file).load()
    torch.nn.init.constant_(tuned.norm.bias, -0.5)
    child = ModelWrapper.from_model(tuned, share_with=stored)
    fresh = [each for each in listed() if each not in before]
    assert len(fresh) == 2 and all(each["models"] == ["model"] for each in fresh)
    one, other = sorted(fresh, key=lambda each: -each["nbytes"])
    assert (one["fingerprint"], one["class"], one["nbytes"]) == (fingerprint, "Model", os.path.getsize(file))
    assert other["nbytes"] == child.nbytes < one["nbytes"]
    assert f"{fingerprint[:12]}  Model" in rzc("store")[1]

    name, family = f"store:{fingerprint[:12]}", f"store:{other['fingerprint']}"
    assert rzc("verify", name, family) == (
        0,
        f"{name}: all {tables.size(one['nbytes'])} are as they were written\n"
        f"{family}: all {tables.size(other['nbytes'])} are as they were written\n",
        "",
    )
    assert rzc("inspect", name)[1].splitlines()[1:] == rzc("inspect", file)[1].splitlines()[1:]
    assert rzc("cat", name, "turned") == rzc("cat", file, "turned")
    assert rzc("diff", name, file)[0] == 0
    assert rzc("diff", name, family)[1].splitlines()[1:2] == ["norm.bias  64 of 64 values, by up to 0.5"]
    assert rzc("convert", family, str(tmp_path / "x.safetensors"))[0] == 0
    assert torch.equal(load_file(str(tmp_path / "x.safetensors"))["norm.bias"], torch.full((64,), -0.5))
    assert "no such image" in rzc("inspect", "store:Nonsense")[2]

    child.release()
    stored.release()
    assert settles(lambda: all(each in before for each in listed()))
    code, out, err = rzc("inspect", name)
    assert (code, out) == (1, "") and "no such image" in err


def test_a_go_service_answers_with_what_an_actor_has_loaded(rzc, worker, tmp_path):
    """examples/go/vectors, over the pages that the actor has mapped."""
    raylet = worker(os.getppid)
    model = torch.nn.Embedding(40_000, 128)  # 20 MB
    wrapper = ModelWrapper.from_model(model)
    rows = [3, 17, 39_999, 3]
    want = worker(vectors, wrapper, rows)
    (entry,) = [
        each
        for each in json.loads(rzc("store", "--json")[1])
        if (each["raylet"], each["nbytes"]) == (raylet, wrapper.nbytes)
    ]
    program = tmp_path / "vectors"
    subprocess.run(
        ["go", "build", "-buildvcs=false", "-o", str(program), "./examples/go/vectors"], cwd=HERE.parent, check=True
    )
    arguments = [str(program), f"store:{entry['fingerprint']}", "weight", "127.0.0.1:0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout
            address = service.stdout.readline().split()[-1]

            def asked(*rows: int):
                query = "&".join(f"row={row}" for row in rows)
                with urllib.request.urlopen(f"http://{address}/vectors?{query}", timeout=30) as answer:
                    return json.load(answer)

            assert torch.equal(torch.tensor(asked(*rows)), want)
            assert torch.equal(torch.tensor(asked(*range(0, 40_000, 40))), model.weight[::40])
            with pytest.raises(urllib.error.HTTPError, match="400"):
                asked(40_000)
            lines = Path(f"/proc/{service.pid}/status").read_text().splitlines()
            found = {line.split()[0]: int(line.split()[1]) << 10 for line in lines if line.startswith("Rss")}
            assert found["RssShmem:"] > 19e6 > found["RssAnon:"]
            wrapper.release()
            assert settles(lambda: gone(asked))
        finally:
            service.kill()


def vectors(wrapper, rows):
    return wrapper.load().weight[rows].detach()


def gone(asked) -> bool:
    """Whether the service refuses to answer from memory that the store may have given to others."""
    try:
        asked(0)
    except urllib.error.HTTPError as error:
        return error.code == 503
    return False
