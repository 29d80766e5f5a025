"""Exported programs over shared weights: the same program and outputs, the same sharing, private writes, typed errors.

What loads is compared with the original, and its text with what torch's own save and load make of the original (which
loses the place of a lambda, for example).
"""

from __future__ import annotations

import copyreg
import gc
import io
import sys
import threading
import warnings
from typing import NamedTuple

import pytest
import ray
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

import zoo
from compare import assert_same
from helpers import Worker, class_not_found, mappings, private_bytes, run_script, settles, store_mappings, store_used
from ray_zerocopy import ModelWrapper, errors, image
from ray_zerocopy.graph import pipeline

pytestmark = pytest.mark.filterwarnings("ignore:.*(isinstance|treespec|LeafSpec).*:FutureWarning")


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


class Net(nn.Module):
    """Tied weights, buffers that change or are not persistent, constants, nested and named inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.second.bias.requires_grad_(False)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("hidden", torch.randn(8), persistent=False)
        self.register_buffer("view", self.hidden[2:4])
        self.plain = torch.randn(8)

    def forward(self, x: torch.Tensor, *, more: dict):
        self.count.add_(1)
        x = self.second(torch.relu(self.first(x))) + self.hidden + self.plain + torch.arange(8.0) * self.view.sum()
        x = x * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
        return {"sum": x + more["pair"][0], "rest": (self.count + 0, x.shape[0], [x.sum(), None])}


if hasattr(pytree, "_register_namedtuple"):  # not in the oldest torch, which needs none
    pytree._register_namedtuple(Pair, serialized_type_name="test_exported.Pair")


class Named(nn.Module):
    def forward(self, pair: Pair) -> Pair:
        return Pair(pair.right.to(torch.float64) * 2, pair.left.expand(2, 3))


class Odd(nn.Module):
    """Constants that are not finite, other dtypes and strides."""

    def forward(self, x: torch.Tensor):
        wide = torch.nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")
        infinite = torch.full_like(x, float("inf")).clamp(max=3.0) + torch.full((4,), float("-inf"))
        return wide, infinite, x.permute(0, 2, 3, 1).contiguous(), torch.arange(3, dtype=torch.int8), 5


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: self.left(x), lambda x: x - 1.0, (x,))


class ChangesItsInput(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return x * 2


X = torch.ones(2, 64)
MORE = {"more": {"pair": [torch.ones(8), torch.ones(1)]}}


def mlp(width: int = 64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, width), nn.Dropout(), nn.Linear(width, width)).eval()


def net():
    rows = torch.export.Dim("rows", min=2, max=64)
    shapes = {"x": {0: rows}, "more": {"pair": [None, None]}}
    return torch.export.export(Net().eval(), (torch.ones(3, 8),), MORE, dynamic_shapes=shapes)


def exported(make, *arguments, **options):
    return lambda: torch.export.export(make(), arguments, **options)


def from_a_file():
    return torch.export.load(saved(exported(mlp, X)()))


def without_example():
    program = exported(mlp, X)()
    program._example_inputs = None
    return program


def bert():
    model, (ids,) = zoo.ZOO["bert"]()
    model.config.return_dict = False
    return torch.export.export(model, (ids,))


def resnet():
    import torchvision

    torch.manual_seed(0)
    return torch.export.export(torchvision.models.resnet18(weights=None).eval(), (torch.ones(1, 3, 64, 64),))


# name -> (the program, arguments for several calls in a row)
CASES = {
    "mlp": (exported(mlp, X), [(X,)]),
    "in_training": (exported(lambda: nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64)).train(), X), [(X,), (X,)]),
    "bfloat16": (exported(lambda: mlp().bfloat16(), X.bfloat16()), [(X.bfloat16(),)]),
    "everything": (net, [(torch.ones(3, 8),), (torch.randn(5, 8),), (torch.zeros(64, 8),)]),
    "everything_decomposed": (lambda: net().run_decompositions(), [(torch.ones(3, 8),), (torch.ones(7, 8),)]),
    "named_tuples": (exported(Named, Pair(torch.ones(3), torch.ones(3))), [(Pair(torch.ones(3), torch.ones(3)),)]),
    "odd": (exported(Odd, torch.ones(1, 3, 4, 4)), [(torch.ones(1, 3, 4, 4),)]),
    "branches": (exported(Branches, torch.ones(2, 4)), [(torch.ones(2, 4),), (-torch.ones(2, 4),)]),
    "changes_its_input": (exported(ChangesItsInput, torch.ones(3)), [(torch.ones(3),)]),
    "calls_kept": (exported(mlp, X, preserve_module_call_signature=("0",)), [(X,)]),
    "no_weights": (exported(nn.ReLU, X), [(X,)]),
    "from_a_file": (from_a_file, [(X,)]),
    "without_example": (without_example, [(X,)]),
    "bert": (bert, [(torch.arange(12).view(2, 6),)]),
    "resnet": (resnet, [(torch.ones(1, 3, 64, 64),)]),
}


def quiet(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def saved(program) -> io.BytesIO:
    file = io.BytesIO()
    quiet(lambda: torch.export.save(program, file))
    file.seek(0)
    return file


def described(program):
    """What the pickle of a program keeps by itself, and what torch makes of it."""
    return {
        "state_dict": program.state_dict,
        "constants": program.constants,
        "example_inputs": program.example_inputs,
        "parameters": [(name, p.requires_grad) for name, p in program.named_parameters()],
        "buffers": [name for name, _ in program.named_buffers()],
        "calls": str(program.module_call_graph),
        "call_spec": str(program.call_spec),
    }


def text(program):
    """What torch's own description of a program holds."""
    signature, ranges = program.graph_signature, program.range_constraints
    return {"graph": str(program), "signature": str(signature), "ranges": str(ranges)}


def answers(program, calls):
    """What a program gives for several calls in a row, and what these make of its state."""
    torch.set_num_threads(1)
    module = quiet(program.module)
    options = MORE if "more" in str(program.call_spec.in_spec) else {}
    leaves = [pytree.tree_leaves(module(*pytree.tree_map(torch.clone, call), **options)) for call in calls]
    strides = [[leaf.stride() for leaf in call if isinstance(leaf, torch.Tensor)] for call in leaves]
    return leaves, strides, [b.clone() for b in module.buffers()], module.training


def apart(tree):
    """With no two tensors over the same memory: Ray does not keep that when it sends them."""
    return pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.detach().clone(), tree)


def everything(wrapper, calls):
    loaded = wrapper.load()
    return apart(described(loaded)), text(loaded), apart(answers(loaded, calls))


@pytest.mark.parametrize("name", CASES)
def test_loads_the_same_here_and_in_a_worker(cluster, worker, name, recwarn):
    make, calls = CASES[name]
    original = quiet(make)
    reference = text(quiet(lambda: torch.export.load(saved(original))))
    recwarn.clear()
    wrapper = ModelWrapper.from_model(original)
    loaded = wrapper.load()
    assert not recwarn.list, [str(warning.message) for warning in recwarn.list]
    assert type(loaded) is torch.export.ExportedProgram
    threads = torch.get_num_threads()
    try:
        there = worker(everything, wrapper, calls)
        assert_same(described(original), described(loaded))
        assert text(loaded) == reference
        before = apart(described(original))
        expected = answers(original, calls)
        assert_same((before, reference, apart(expected)), there)
        assert_same(expected, answers(loaded, calls))
    finally:
        torch.set_num_threads(threads)


def test_dynamic_shapes_keep_their_range(cluster):
    original = net()
    said = []
    for program in (original, ModelWrapper.from_model(original).load()):
        with pytest.raises((AssertionError, RuntimeError), match=r"<= 64") as caught:
            program.module()(torch.ones(65, 8), **MORE)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_weights_are_stored_once_and_the_module_runs_over_the_stores_memory(cluster):
    original = quiet(exported(lambda: mlp(512), torch.ones(1, 512)))
    weights = sum(tensor.nbytes for tensor in original.state_dict.values())
    assert weights <= image.build(original, "model", []).size < 1.02 * weights + 32768
    gc.collect()
    before = store_mappings()
    loaded = ModelWrapper.from_model(original).load()
    module = loaded.module()
    module(torch.ones(1, 512))
    gc.collect()
    assert store_mappings() == before + 1
    for name, parameter in module.named_parameters():
        assert parameter.data_ptr() == loaded.state_dict[name].data_ptr()
        (line,) = mappings(parameter.data_ptr())
        assert "plasma" in line
        assert private_bytes(parameter.data_ptr(), parameter.nbytes) == 0


def test_buffers_and_constants_of_the_module_are_the_loaded_ones(cluster):
    wrapper = ModelWrapper.from_model([net(), torch.zeros(300, 300)])  # large enough for the store
    loaded = wrapper.load()[0]
    module = quiet(loaded.module)
    constants = [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
    used = {tensor.data_ptr() for tensor in [*module.parameters(), *module.buffers(), *constants]}
    for tensor in [*loaded.state_dict.values(), *loaded.constants.values()]:
        assert tensor.data_ptr() in used
        (line,) = mappings(tensor.data_ptr())
        assert "plasma" in line
    assert loaded.state_dict["first.weight"] is loaded.state_dict["second.weight"]
    assert loaded.state_dict["view"].data_ptr() == loaded.constants["hidden"].data_ptr() + 8


def test_programs_eager_and_scripted_models_share_their_weights(cluster, worker):
    eager = mlp()
    one, two = (quiet(exported(lambda: eager, torch.ones(rows, 64))) for rows in (1, 2))
    made = zoo.Holder(eager=eager, programs=[one, {"two": two}], scripted=quiet(lambda: torch.jit.script(eager)))
    made.again = one
    size = image.build(made, "pipeline", pipeline.named_tensors(made)).size
    assert size < 2 * image.build(eager, "model", pipeline.named_tensors(eager)).size + 65536
    wrapper = ModelWrapper.from_model(made)
    assert set(wrapper.model_refs) == {"eager", "programs", "scripted", "again"}

    def run(wrapper, x):
        torch.set_num_threads(1)
        loaded = wrapper.load()
        weights = [
            loaded.eager[0].weight,
            loaded.programs[0].state_dict["0.weight"],
            loaded.programs[1]["two"].state_dict["0.weight"],
            dict(loaded.scripted.named_parameters())["0.weight"],
        ]
        assert len({weight.data_ptr() for weight in weights}) == 1
        assert weights[0] is weights[1] is weights[2]
        assert loaded.again is loaded.programs[0]
        answers = loaded.eager(x), loaded.programs[1]["two"].module()(x), loaded.scripted(x)
        with torch.no_grad():
            weights[0].zero_()
        assert not any(weight.any() for weight in weights)
        return answers

    with torch.no_grad():
        for answer in worker(run, wrapper, X):
            assert torch.allclose(answer, eager(X))


def test_state_and_training_change_their_own_process_only(cluster):
    wrapper = ModelWrapper.from_model([net(), torch.zeros(300, 300)])
    one, two = (Worker.options(num_cpus=0).remote() for _ in range(2))
    ray.get([actor.keep.remote("net", wrapper.load) for actor in (one, two)])

    def grow(loaded):
        module = loaded[0].module()
        module(torch.ones(4, 8), **MORE)["sum"].sum().backward()
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter -= parameter.grad
        return state(loaded)

    def state(loaded):
        return {name: value.sum().item() for name, value in loaded[0].state_dict.items()}

    before = ray.get(two.use.remote("net", state))
    assert before == state([net()])
    after = ray.get(one.use.remote("net", grow))
    assert {name for name in before if before[name] != after[name]} == {
        "first.weight",
        "first.bias",
        "second.weight",
        "count",
    }
    assert ray.get(two.use.remote("net", state)) == before
    assert state(wrapper.load()) == before
    for actor in (one, two):
        ray.kill(actor)


def test_the_original_stays_as_it_was(cluster):
    original = net()
    state, constants, example = original.state_dict, original.constants, original.example_inputs
    before, described_before = text(original), described(original)
    ModelWrapper.from_model(original)
    assert (original.state_dict, original.constants, original.example_inputs) == (state, constants, example)
    assert original.state_dict is state
    assert original.constants is constants
    assert text(original) == before
    assert_same(described_before, described(original))


def test_a_put_and_a_load_change_nothing_in_the_process_and_warn_of_nothing():
    run_script(
        """
import copyreg, gc, io, os, pickle, sys, warnings
import torch
from helpers import ray_cluster
from ray_zerocopy import ModelWrapper

def state():
    return (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), os.getcwd(),
            list(warnings.filters), set(copyreg.dispatch_table), gc.get_threshold(), torch.get_rng_state().sum())

program = torch.export.export(torch.nn.Linear(300, 300), (torch.ones(1, 300),))
with ray_cluster():
    ModelWrapper.from_model([torch.zeros(1)]).load()
    import torch._export.serde.serialize  # what torch's own modules do when they are imported is theirs
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = state()
        loaded = ModelWrapper.from_model(program).load()
        assert state() == before, (before, state())
    assert torch.equal(loaded.module()(torch.ones(1, 300)), program.module()(torch.ones(1, 300)))
"""
    )


def test_threads_put_and_load_at_the_same_time(cluster):
    originals = [exported(mlp, torch.ones(rows, 64))() for rows in (1, 2, 3, 4)]
    failed, loaded = [], {}

    def work(number):
        try:
            for _ in range(3):
                loaded[number] = ModelWrapper.from_model(originals[number]).load()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    for number, original in enumerate(originals):
        assert_same(described(original), described(loaded[number]))
    assert torch._subclasses.FakeTensor not in copyreg.dispatch_table


def test_private_memory_is_a_small_part_of_the_model(cluster):
    program = exported(lambda: nn.Sequential(nn.Linear(4000, 4000)).eval(), torch.ones(1, 4000))()
    wrapper = ModelWrapper.from_model(program)
    actor = Worker.options(num_cpus=0).remote()

    def anonymous():
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))

    def measure(wrapper):
        wrapper.load().module()(torch.ones(1, 4000))
        gc.collect()
        before = anonymous()
        module = wrapper.load().module()
        module(torch.ones(1, 4000))
        return anonymous() - before

    assert ray.get(actor.run.remote(measure, wrapper)) < 0.02 * 64_000_000 + (8 << 20)
    ray.kill(actor)


def test_the_memory_goes_with_the_last_tensor(cluster):
    used = store_used()
    wrapper = ModelWrapper.from_model(exported(lambda: mlp(2000), torch.ones(1, 2000))())
    kept = wrapper.load().state_dict["0.weight"]
    address = kept.data_ptr()
    gc.collect()
    assert torch.equal(kept, mlp(2000)[0].weight)
    del kept, wrapper
    gc.collect()
    assert not mappings(address)
    assert settles(lambda: store_used() <= used + (1 << 20))


def test_names_and_index(cluster):
    wrapper = ModelWrapper.from_model(net())
    assert list(wrapper.model_refs) == ["model"]
    assert set(ModelWrapper.from_model(zoo.Holder(program=net(), number=1)).model_refs) == {"program"}
    program = net()
    named = {name: persistent for name, _, persistent in pipeline.named_tensors(zoo.Holder(program=program))}
    assert named == {
        **{f"program.{name}": True for name in program.state_dict},
        **{f"program.{name}": False for name in program.constants},
    }
    assert "program.first.weight" in named
    assert not named["program.hidden"]
    assert not pipeline.has_torchscript(zoo.Holder(program=program))


@pytest.mark.parametrize(
    ("part", "path"),
    [
        ("state_dict", r"pipeline\.program\.state_dict\['0\.weight'\]"),
        ("constants", r"pipeline\.program\.constants\['lifted'\]"),
        ("example_inputs", r"pipeline\.program\.example_inputs\[0\]\[0\]"),
    ],
)
def test_a_tensor_on_a_gpu_is_named_with_its_device(cluster, part, path):
    with FakeTensorMode(allow_non_fake_inputs=True):
        weight = torch.nn.Parameter(torch.empty(64, 64, device="cuda"))
    program = exported(mlp, X)()
    if part == "state_dict":
        program.state_dict["0.weight"] = weight
    elif part == "constants":
        program.constants["lifted"] = weight
    else:
        program._example_inputs = ((weight,), {})
    with pytest.raises(errors.DeviceError, match=path + r" is on 'cuda:0'.*\.cpu\(\)"):
        ModelWrapper.from_model(zoo.Holder(program=program))


OPERATORS = """
import torch

@torch.library.custom_op("{name}::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2

@double.register_fake
def _(x):
    return torch.empty_like(x)
"""


class Doubles(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.rzc_operators.double(x) + 1


class Tripled(NamedTuple):
    value: torch.Tensor


class Triples(nn.Module):
    def forward(self, x: torch.Tensor) -> Tripled:
        return Tripled(x * 3)


def test_what_the_worker_has_not_registered_is_named_with_its_library(cluster, tmp_path, monkeypatch):
    (tmp_path / "rzc_operators.py").write_text(OPERATORS.format(name="rzc_operators"))
    monkeypatch.syspath_prepend(tmp_path)
    __import__("rzc_operators")
    program = exported(Doubles, torch.ones(3))()
    wrapper = ModelWrapper.from_model(program)
    actor = Worker.options(num_cpus=0).remote()

    found = ray.get(actor.run.remote(class_not_found, wrapper))
    assert "rzc_operators.double" in found
    assert "('rzc_operators', by its name)" in found

    def import_and_load(wrapper, folder):
        sys.path.insert(0, folder)
        __import__("rzc_operators")
        return wrapper.load().module()(torch.ones(3))

    answer = ray.get(actor.run.remote(import_and_load, wrapper, str(tmp_path)))
    assert torch.equal(answer, program.module()(torch.ones(3)))
    ray.kill(actor)


def test_an_output_type_that_is_not_registered_is_named(cluster):
    name = "rzc_outputs.Tripled"
    pytree._register_namedtuple(Tripled, serialized_type_name=name)
    wrapper = ModelWrapper.from_model(exported(Triples, torch.ones(3))())
    actor = Worker.options(num_cpus=0).remote()

    found = ray.get(actor.run.remote(class_not_found, wrapper))
    assert f"{name!r}, which is not registered" in found
    ray.kill(actor)


def test_the_private_names_of_torch_that_are_used():
    """Fails loudly when one goes; `exported.py` lists them."""
    from torch._export.serde.serialize import ExportedProgramDeserializer, ExportedProgramSerializer

    program = exported(mlp, X)()
    assert program._state_dict is program.state_dict
    assert program._constants is program.constants
    assert program._example_inputs is program.example_inputs
    description = ExportedProgramSerializer().serialize(program).exported_program
    again = ExportedProgramDeserializer().deserialize(
        description, program.state_dict, program.constants, program.example_inputs
    )
    assert again.state_dict is program.state_dict
    assert again.example_inputs is program.example_inputs
