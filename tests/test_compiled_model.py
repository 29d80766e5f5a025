"""Compiled models: compiled once, loaded anywhere over the shared weights, equal to the driver's bit by bit; what does
not fit is a typed error, or the fallback that was chosen. Needs a C++ compiler."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from torch import nn

from helpers import anonymous_bytes, private_bytes, run_script, store_mappings
from ray_zerocopy import CompiledModel, ModelWrapper, errors, processor
from ray_zerocopy.graph import code_files, compiled_model

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")

WIDTH = 512
PAGE = 4096  # bytes: of the buffer that each call changes


class Net(nn.Module):
    """Tied weights, a view, buffers that are not persistent or change, constants, inputs and outputs with names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)
        self.second.weight = self.first.weight
        self.register_buffer("hidden", torch.randn(WIDTH), persistent=False)
        self.register_buffer("rows", torch.randn(4, WIDTH))
        self.register_buffer("row", self.rows[2])
        self.register_buffer("calls", torch.zeros(8))  # torch 2.8 cannot compile what changes a scalar
        self.plain = torch.randn(WIDTH)

    def forward(self, x: torch.Tensor, *, more: dict[str, Any], scale: int = 2) -> dict[str, Any]:
        self.calls.add_(1)
        x = self.second(torch.relu(self.first(x))) * scale + self.hidden + self.plain + self.row
        return {"sum": torch.softmax(x, -1) + more["bias"], "rest": (x.sum(), self.calls[0] + 0)}


X, MORE = torch.linspace(-1, 1, 6 * WIDTH).reshape(6, WIDTH), {"bias": torch.linspace(0, 1, WIDTH)}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As workers have: with more, sums may differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def inductors_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "INDUCTOR" in name or "TRITON" in name}


@pytest.fixture(scope="module")
def compiled(one_thread):
    """One for all tests, with its fallback."""
    before = inductors_variables()
    rows = torch.export.Dim("rows", min=2, max=64)
    made = CompiledModel.compile(
        Net().eval(),
        (X,),
        {"more": MORE},
        dynamic_shapes={"x": {0: rows}, "more": {"bias": None}},
        fallback="eager",
    )
    assert inductors_variables() == before, "nothing stays in the environment"
    return made


@pytest.fixture(scope="module")
def wrapper(compiled, cluster):
    return ModelWrapper.from_model(compiled)


def outputs(model: Any, x: torch.Tensor = X, **options: Any) -> torch.Tensor:
    return model(x, more=MORE, **options)["sum"]


def close(model: Any, x: torch.Tensor = X) -> bool:
    return torch.allclose(outputs(model, x), outputs(Net().eval(), x), atol=1e-6)


def in_worker(wrapper: ModelWrapper[CompiledModel]) -> dict[str, Any]:
    before = store_mappings()
    loaded = wrapper.load()
    result = outputs(loaded)
    weight = loaded.state_dict()["first.weight"]
    return {
        "result": result,
        "shared": store_mappings() > before,
        "private": private_bytes(weight.data_ptr(), weight.nbytes),
        "imported": "torch._inductor" in sys.modules,
        "code": sorted(os.listdir(code_root())),
    }


def code_root() -> str:
    return f"/tmp/ray-zerocopy-code-{os.geteuid()}"


def folders() -> list[str]:
    return [name for name in os.listdir(code_root()) if "." not in name]


def test_a_worker_has_it_over_the_shared_weights_and_equal_bit_by_bit(compiled, wrapper, worker):
    assert close(compiled)
    got = worker(in_worker, wrapper)
    assert torch.equal(got["result"], outputs(compiled))
    assert got["shared"]
    assert got["private"] <= PAGE
    assert not got["imported"], "a load does not wait for inductor"


def test_it_is_as_large_as_the_weights_and_the_code(compiled, wrapper):
    weights = (WIDTH * WIDTH + 8 * WIDTH) * 4
    code = sum(length for length, _ in compiled._code.files.values())
    assert wrapper.nbytes - weights - code < 300_000  # the fallback's graph is in there, too
    assert set(wrapper.tensors()) >= {"first.weight", "hidden", "row", "calls"}


def test_a_write_stays_in_what_was_loaded_and_shows_in_its_outputs(compiled, wrapper):
    one, other = wrapper.load(), wrapper.load()
    one.state_dict()["first.weight"].zero_()
    assert not torch.equal(outputs(one), outputs(compiled))
    assert torch.equal(outputs(other), outputs(compiled))


def test_buffers_that_the_model_changes_change_in_each_by_itself(compiled):
    one, other = copy.deepcopy(compiled), copy.deepcopy(compiled)
    for call in (1, 2, 3):
        assert one(X, more=MORE)["rest"][1] - compiled.state_dict()["calls"][0] == call
    assert torch.equal(other.state_dict()["calls"], compiled.state_dict()["calls"])


def test_dynamic_dimensions_and_inputs_that_lie_otherwise_in_memory(compiled):
    for rows in (2, 3, 64):
        assert close(compiled, torch.randn(rows, WIDTH))
    for x in (torch.randn(WIDTH, 6).t(), torch.randn(12, WIDTH)[::2], torch.randn(6, 2 * WIDTH)[:, ::2]):
        assert torch.equal(outputs(compiled, x), outputs(compiled, x.contiguous()))


WRONG = {
    "a dtype": (lambda model: outputs(model, X.double()), r"x is a tensor of torch.float64 .* expected torch.float32"),
    "a size": (lambda model: outputs(model, X[:, :9]), r"x has shape \(6, 9\), and its dimension 1 does not fit"),
    "too many rows": (lambda model: outputs(model, torch.ones(65, WIDTH)), r"dimension 0 does not fit.* from 2 to 64"),
    "too few rows": (lambda model: outputs(model, torch.ones(1, WIDTH)), r"dimension 0 does not fit.*dynamic_shapes="),
    "a rank": (lambda model: outputs(model, X[0]), r"x is a tensor of torch.float32 with shape \(512,\)"),
    "no tensor": (lambda model: model(3, more=MORE), r"x is a int, expected a tensor"),
    "too few": (lambda model: model(X), r"the inputs are \(6, 512\), and others in number"),
    "too many": (lambda model: model(X, X, more=MORE), r"others in number, name or structure"),
    "a structure": (lambda model: model(X, more={"Bias": X}), r"others in number, name or structure"),
    "another value": (lambda model: outputs(model, scale=3), r"the inputs are .*scale: int"),
    "sparse": (lambda model: outputs(model, X.to_sparse()), r"x is a torch.sparse_coo tensor"),
}


@pytest.mark.parametrize("name", WRONG)
def test_inputs_that_do_not_fit_are_an_error_and_not_a_wrong_result(name, compiled):
    call, message = WRONG[name]
    with pytest.raises(errors.CompiledInputError, match=message):
        call(compiled)


class Pipeline:
    """Several compiled models beside an eager one that shares their weights."""

    def __init__(self, encoder: CompiledModel, again: CompiledModel, eager: nn.Module) -> None:
        self.encoder, self.again, self.eager, self.name = encoder, again, eager, "pipeline"

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return outputs(self.encoder, x) + self.again(x) + self.eager(x)


@pytest.fixture(scope="module")
def pipeline(one_thread):
    net = Net().eval()
    rows = {"input": {0: torch.export.Dim("rows", min=2, max=64)}}
    again = CompiledModel.compile(net.first, kwargs={"input": X}, dynamic_shapes=rows)
    with pytest.raises(errors.CompiledInputError):
        again(X)
    program = torch.export.export(net, (X,), {"more": MORE})
    return Pipeline(CompiledModel.compile(program), ByName(again), net.first)


class ByName:
    def __init__(self, model: CompiledModel) -> None:
        self.model = model

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(input=x)


def test_a_pipeline_of_several_shares_what_its_models_share(pipeline, cluster):
    wrapper = ModelWrapper.from_model(pipeline)
    assert set(wrapper.model_refs) == {"encoder", "again", "eager"}
    assert wrapper.nbytes < 2 * WIDTH * WIDTH * 4 + 2 * 1_700_000
    loaded = wrapper.load()
    assert torch.equal(loaded(X), pipeline(X))
    weight = loaded.eager.weight
    assert weight.data_ptr() == loaded.encoder.state_dict()["first.weight"].data_ptr()
    assert weight.data_ptr() == loaded.again.model.state_dict()["weight"].data_ptr()
    with torch.no_grad():
        weight.zero_()
    assert torch.equal(loaded.again(X), loaded.eager.bias.expand(6, WIDTH))
    assert torch.equal(outputs(wrapper.load("encoder")), outputs(pipeline.encoder))


def test_calls_as_tasks(compiled, cluster):
    wrapped = ModelWrapper.for_tasks(compiled)
    assert torch.equal(outputs(wrapped), outputs(compiled))
    assert all(torch.equal(each, outputs(compiled)) for each in ray.get([_summed.remote(wrapped) for _ in range(2)]))
    with pytest.raises(errors.CompiledInputError, match=r"x is a tensor of torch\.float64"):
        outputs(wrapped, X.double())


def test_what_is_there_already_is_not_compiled(compiled, cluster, monkeypatch):
    ModelWrapper.from_model(compiled, name="compiled")
    monkeypatch.setattr(CompiledModel, "compile", None)
    found = ModelWrapper.for_tasks(Net(), name="compiled", get_if_exists=True, compile=(X,))
    assert torch.equal(outputs(found), outputs(compiled))
    ModelWrapper.from_model(Net(), name="compiled", get_if_exists=True, compile=(X,)).delete()


@ray.remote(num_cpus=0)
def _summed(wrapped: Any) -> torch.Tensor:
    return outputs(wrapped)


def test_files_and_copies_without_ray(compiled, tmp_path):
    wrapper = ModelWrapper.to_file(compiled, tmp_path / "model.rzc")
    for loaded in (wrapper.load(), copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))):
        assert torch.equal(outputs(loaded), outputs(compiled))
        assert loaded.state_dict().keys() == compiled.state_dict().keys()
    script = f"""
import sys, torch
torch.set_num_threads(1)
from ray_zerocopy import ModelWrapper
x, more, expected = torch.load({str(tmp_path / "expected.pt")!r})
model = ModelWrapper.open({str(tmp_path / "model.rzc")!r}).load()
assert torch.equal(model(x, more=more)["sum"], expected)
assert "torch._inductor" not in sys.modules
"""
    torch.save((X, MORE, outputs(compiled)), tmp_path / "expected.pt")
    run_script(script)


def test_a_thread_for_each_call(compiled):
    inputs = [torch.randn(8, WIDTH) for _ in range(4)]
    expected = [outputs(compiled, x) for x in inputs]
    wrong: list[int] = []

    def call(number: int) -> None:
        torch.set_num_threads(1)
        for _ in range(50):
            if not torch.equal(outputs(compiled, inputs[number]), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


# --- where it does not run ---


def test_a_processor_that_lacks_something_is_an_error_that_says_what(pipeline, monkeypatch):
    has = processor.features()
    assert pipeline.encoder._code.needs["features"] == sorted(has)
    monkeypatch.setattr(processor, "features", lambda: has - {"avx2", "avx512f"})
    with pytest.raises(errors.CompiledCodeError, match=r"it uses avx2.*, which this machine's processor does not have"):
        copy.deepcopy(pipeline.encoder)


def on_another_machine(wrapper: ModelWrapper[CompiledModel]) -> tuple[torch.Tensor, list[str], int]:
    import platform
    import warnings

    platform.machine = lambda: "riscv64"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = wrapper.load()
        weight = loaded.state_dict()["first.weight"]
        result = outputs(loaded)
    said = [str(each.message) for each in caught if each.category is errors.CompiledFallbackWarning]
    return result, said, private_bytes(weight.data_ptr(), weight.nbytes)


def test_its_fallback_is_the_exported_program_over_the_same_weights(compiled, wrapper, worker):
    result, said, private = worker(on_another_machine, wrapper)
    assert torch.allclose(result, outputs(compiled), atol=1e-6)
    assert private <= PAGE
    assert len(said) == 1
    assert "it was compiled for x86_64, and this machine is riscv64" in said[0]


def test_a_library_that_cannot_be_loaded(compiled, monkeypatch):
    code = copy.copy(compiled._code)
    missing = b"libgomp.so.1", b"libnope.so.1"
    library = bytes(code.files[code.library][1][0][1]).replace(*missing)
    code.files = {code.library: (len(library), [(0, torch.frombuffer(bytearray(library), dtype=torch.uint8).numpy())])}
    code._name = code_files.digest(code.files)
    with pytest.raises(errors.CompiledCodeError, match=r"libnope.so.1: cannot open shared object file"):
        CompiledModel(code, compiled._constants, None)
    assert code._name not in folders()


def test_damage_is_found_before_anything_runs(compiled, tmp_path):
    path = tmp_path / "model.rzc"
    ModelWrapper.to_file(compiled, path)
    data = bytearray(path.read_bytes())
    library = bytes(compiled._code.files[compiled._code.library][1][0][1])
    at = data.index(library[:4096])
    data[at + len(library) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(errors.DamagedImageError, match="code or weights are not those that were put"):
        ModelWrapper.open(path).load()


def test_no_compiler_says_what_to_install():
    script = """
import torch
from ray_zerocopy import CompiledModel, errors
try:
    CompiledModel.compile(torch.nn.Linear(8, 8), (torch.ones(1, 8),))
except errors.CompilerMissingError as error:
    assert "apt-get install g++" in str(error)
else:
    raise SystemExit("compiled")
"""
    run_script(script, CXX="/nonexistent/c++", TORCHINDUCTOR_FORCE_DISABLE_CACHES="1")


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


REFUSED = {
    "export": (
        lambda: CompiledModel.compile(Branches(), (X,)),
        errors.CompileError,
        "torch.export refused this Branches",
    ),
    "a device": (lambda: CompiledModel.compile(nn.Linear(2, 2).to("meta"), (X,)), errors.DeviceError, "model.weight"),
    "no model": (lambda: CompiledModel.compile(len, (X,)), TypeError, "only a torch.nn.Module or an ExportedProgram"),
    "no inputs": (lambda: ModelWrapper.from_model(nn.Linear(2, 2), compile=X), TypeError, r"compile=\(x,\)"),
    "no compile": (lambda: ModelWrapper.from_model(nn.Linear(2, 2), fallback="eager"), TypeError, "for compile="),
    "a fallback": (lambda: CompiledModel.compile(nn.Linear(2, 2), (X,), fallback="x"), ValueError, "fallback is 'x'"),
    "itself": (lambda: CompiledModel(nn.Linear(2, 2), {}, None), TypeError, "CompiledModel.compile"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, cluster):
    call, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        call()


def test_what_a_target_needs():
    assert set(compiled_model._needs({}, {"cpp.march": "x86-64-v2"})["features"]) < processor.features()
    assert set(compiled_model._needs({}, {"cpp.march": "native"})["features"]) == processor.features()
    assert processor.of_target("") == frozenset()
    levels = [processor.of_target(f"x86-64-v{level}") for level in (2, 3, 4)]
    assert levels[0] < levels[1] < levels[2]
    assert {"avx2", "fma"} <= levels[1] - levels[0]
    assert processor.of_target("native") is None
    assert processor.of_units("AVX512 AVX512_VNNI") >= {"avx512f", "avx512_vnni"}
    assert processor.lacking("aarch64", ()) is not None
    assert processor.lacking("x86_64", {"avx9"}) == "it uses avx9, which this machine's processor does not have"
    assert processor.features() >= {"sse4_2", "popcnt"}


# --- its files ---


@pytest.fixture(scope="module")
def small(one_thread):
    return CompiledModel.compile(nn.Linear(24, 24), (torch.ones(2, 24),))


def test_the_files_go_with_the_last_user(small):
    name = small._code._name
    assert name in folders()
    loaded = [pickle.loads(pickle.dumps(small)) for _ in range(3)]
    assert folders().count(name) == 1
    assert len({path for each in loaded for path in mapped_libraries() if name in path}) == 1
    del loaded
    gc.collect()
    assert name in folders(), "small itself uses them"


def mapped_libraries() -> set[str]:
    return {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(".so")}


HOLD = """
import sys, time
from ray_zerocopy import ModelWrapper
model = ModelWrapper.open(sys.argv[1]).load()
print("loaded", model._code._name, flush=True)
time.sleep(float(sys.argv[2]))
"""


def test_processes_share_them_and_what_a_killed_one_leaves_is_removed(small, tmp_path):
    changed = copy.copy(small._code)
    changed.files = {**changed.files, "note.txt": changed.files[changed.library]}  # a folder of its own
    changed.__post_init__()
    model = CompiledModel(changed, small._constants, None)
    name = changed._name
    path = tmp_path / "model.rzc"
    ModelWrapper.to_file(model, path)
    del model
    gc.collect()
    assert name not in folders()
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLD, str(path), "60"], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for holder in holders:
            assert holder.stdout.readline().split() == ["loaded", name]
        assert folders().count(name) == 1
        os.kill(holders[0].pid, signal.SIGKILL)
        holders[0].wait()
        pickle.loads(pickle.dumps(small))
        assert name in folders(), "the other one uses them"
        os.kill(holders[1].pid, signal.SIGKILL)
        holders[1].wait()
        assert name in folders(), "a killed process removes nothing"
        pickle.loads(pickle.dumps(small))
        assert name not in folders()
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
    run_script(HOLD, str(path), "0")
    assert name not in folders(), "one that ends takes them along"


def test_a_folder_of_somebody_elses_is_not_used(small, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    root = tmp_path / f"ray-zerocopy-code-{os.geteuid()}"
    root.mkdir(mode=0o777)
    root.chmod(0o777)
    with pytest.raises(errors.FileError, match="is not a folder that this user alone can write to"):
        pickle.loads(pickle.dumps(small))
    root.chmod(0o700)
    pickle.loads(pickle.dumps(small))


# --- packages ---


@pytest.fixture(scope="module")
def package(one_thread, tmp_path_factory):
    """One with weights in it, as torch makes it; so many that malloc gives them back when they are freed."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(WIDTH, 8192), nn.ReLU(), nn.Linear(8192, 1024)).eval()
    path = str(tmp_path_factory.mktemp("package") / "model.pt2")
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(torch.export.export(model, (X,)), package_path=path)
    return model, path


def loaded_package(wrapper: ModelWrapper[CompiledModel]) -> tuple[torch.Tensor, int, int]:
    wrapper.load()(X)  # imports, threads
    gc.collect()
    before = anonymous_bytes()
    loaded = wrapper.load()
    result = loaded(X)
    weight = loaded.state_dict()["2.weight"]
    return result, anonymous_bytes() - before, private_bytes(weight.data_ptr(), weight.nbytes)


def test_a_package_with_weights_in_it_shares_them(package, worker):
    model, path = package
    expected = torch._inductor.aoti_load_package(path)(X)
    wrapper = ModelWrapper.from_model(CompiledModel.from_package(path))
    weights = sum(each.nbytes for each in model.parameters())
    assert wrapper.nbytes < weights + 2_000_000 < os.path.getsize(path) + 2_000_000, "they are stored once"
    result, anonymous, private = worker(loaded_package, wrapper)
    assert torch.equal(result, expected)
    assert private == 0
    assert anonymous < weights / 4, "its own copy was given up"


def test_a_package_over_other_weights(package):
    model, path = package
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.mul_(2)
    assert torch.allclose(CompiledModel.from_package(path, other)(X), other(X), atol=1e-5)
    assert torch.allclose(CompiledModel.from_package(path, other.state_dict())(X), other(X), atol=1e-5)
    with pytest.raises(errors.CompileError, match=r"\w was given as .*float64"):
        CompiledModel.from_package(path, other.double())


def test_packages_that_cannot_be_had(package, tmp_path):
    _, path = package
    with pytest.raises(errors.CompiledCodeError, match=r"has no model 'other' .* it has \['model'\]"):
        CompiledModel.from_package(path, model_name="other")
    (tmp_path / "x.pt2").write_bytes(b"no package")
    with pytest.raises(errors.CompiledCodeError, match="is not a package of torch"):
        CompiledModel.from_package(tmp_path / "x.pt2")
    with pytest.raises(FileNotFoundError):
        CompiledModel.from_package(tmp_path / "nothing.pt2")
    with zipfile.ZipFile(path) as full, zipfile.ZipFile(tmp_path / "y.pt2", "w") as bare:
        for name in full.namelist():
            if not name.endswith(".so"):
                bare.writestr(name, full.read(name))
    with pytest.raises(errors.CompiledCodeError, match="expected one library, found 0"):
        CompiledModel.from_package(tmp_path / "y.pt2")


def test_torchs_own_loader_in_a_pipeline_says_what_to_use(package, cluster):
    with pytest.raises(errors.UnpicklableError, match=r"CompiledModel.from_package"):
        ModelWrapper.from_model({"encoder": torch._inductor.aoti_load_package(package[1])})


# --- in the cluster ---


def make(width: int) -> nn.Module:
    torch.manual_seed(2)
    return nn.Linear(width, width)


def test_a_factory_compiles_in_a_task(cluster):
    x = torch.ones(3, 24)
    wrapper = ModelWrapper.from_factory(make, 24, compile=(x,), num_cpus=1)
    assert torch.allclose(wrapper.load()(x), make(24)(x), atol=1e-6)
