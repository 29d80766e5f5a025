"""TorchScript modules over shared weights: the same outputs, the same sharing, private writes, typed errors.

Annotations are not postponed here: TorchScript reads them.
"""

import copyreg
import gc
import io
import os
import pickle
import warnings
from typing import Dict, List, NamedTuple, Tuple

import pytest
import ray
import torch
from torch import nn

import zoo
from helpers import Worker, class_not_found, mappings, private_bytes, store_mappings
from ray_zerocopy import JITActorWrapper, JITModelWrapper, ModelWrapper, errors

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")


class Result(NamedTuple):
    sums: torch.Tensor
    name: str


class Net(nn.Module):
    """Tied weights, a buffer, tensors in attributes, state, exported methods, all kinds of values."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.register_buffer("buffer", torch.arange(5.0))
        self.extra = torch.ones(3)
        self.several = [torch.full((7,), 2.0)]
        self.table = {"a": torch.full((2,), 3.0)}
        self.counter = 0
        self.name = "net"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.counter += 1
        x = self.second(torch.relu(self.first(x))) + self.buffer.sum() + self.extra.sum()
        return x + self.several[0].sum() + self.table["a"].sum()

    @torch.jit.export
    def describe(self, parts: Dict[str, torch.Tensor], pair: Tuple[int, str]) -> Tuple[Result, List[str]]:
        total = torch.zeros(1)
        for value in parts.values():
            total = total + value.sum() * pair[0]
        return Result(total, self.name + pair[1]), list(parts.keys())

    @torch.jit.export
    def grow(self) -> None:
        self.buffer.add_(1.0)


class Given(NamedTuple):
    x: torch.Tensor
    label: str


class Talks(nn.Module):
    """Named tuples, tuples, dictionaries, lists and strings as inputs and outputs."""

    def forward(
        self,
        given: Given,
        pair: Tuple[int, str],
        table: Dict[str, List[torch.Tensor]],
    ) -> Tuple[Given, Dict[str, torch.Tensor], List[str], str]:
        sums: Dict[str, torch.Tensor] = {}
        for name, parts in table.items():
            sums[name + pair[1]] = torch.stack(parts).sum() * pair[0]
        return Given(given.x * 2, given.label + "!"), sums, list(table.keys()), given.label.upper()


@torch.jit.script
class Scale:
    """A TorchScript class with a tensor in it."""

    def __init__(self, factor: torch.Tensor, name: str):
        self.factor = factor
        self.name = name

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        self.factor = self.factor + 1
        return x * self.factor


class Scaled(nn.Module):
    scale: Scale

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(64, 64)
        self.scale = Scale(torch.arange(64.0), "scale")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale.apply(self.first(x))


class Sharing(nn.Module):
    """Several scripted submodules over the same parameters."""

    def __init__(self) -> None:
        super().__init__()
        first = mlp()
        second = nn.Sequential(nn.Linear(512, 512), nn.ReLU())
        second[0].weight = first[2].weight
        self.one, self.two, self.same = torch.jit.script(first), torch.jit.script(second), torch.jit.script(first)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x)) + self.same(x)


class Constant(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.full((300,), 2.5)


def quiet(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512)).eval()


def from_a_file():
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(mlp()), file, _extra_files={"note.txt": b"kept by the file"})
    file.seek(0)
    return torch.jit.load(file)


def resnet():
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None).eval()
    return torch.jit.trace(model, torch.randn(1, 3, 64, 64))


def bert():
    model, (ids,) = zoo.ZOO["bert"]()
    model.config.return_dict = False
    return torch.jit.trace(model, ids, strict=False)


X = torch.ones(2, 512)
CASES = {
    "scripted": (lambda: torch.jit.script(mlp()), (X,)),
    "traced": (lambda: torch.jit.trace(mlp(), X), (X,)),
    "frozen": (lambda: torch.jit.freeze(torch.jit.script(mlp())), (X,)),
    "traced_and_frozen": (lambda: torch.jit.freeze(torch.jit.trace(mlp(), X)), (X,)),
    "half": (lambda: torch.jit.script(mlp().half()), (X.half(),)),
    "bfloat16": (lambda: torch.jit.script(mlp().bfloat16()), (X.bfloat16(),)),
    "optimized": (lambda: torch.jit.optimize_for_inference(torch.jit.script(mlp())), (X,)),
    "custom_class": (lambda: torch.jit.script(Scaled()), (torch.ones(2, 64),)),
    "submodules_that_share": (lambda: torch.jit.script(Sharing()), (X,)),
    "with_everything": (lambda: torch.jit.script(Net()), (torch.ones(2, 64),)),
    "constant": (lambda: torch.jit.script(Constant()), (torch.ones(300),)),
    "from_a_file": (from_a_file, (X,)),
    "empty": (lambda: torch.jit.script(nn.Identity()), (X,)),
    "resnet": (resnet, (torch.ones(1, 3, 64, 64),)),
    "bert": (bert, (torch.arange(12).view(2, 6),)),
}


def flat(output):
    return [output] if isinstance(output, torch.Tensor) else list(output)


def check(name, wrapper):
    make, arguments = CASES[name]
    original, loaded = quiet(make), wrapper.load()
    torch.set_num_threads(1)
    for _ in range(3):  # the profiling executor compiles anew in the second and third call
        for left, right in zip(flat(original(*arguments)), flat(loaded(*arguments)), strict=True):
            assert torch.equal(left, right)
    assert list(original.state_dict()) == list(loaded.state_dict())
    for left, right in zip(original.state_dict().values(), loaded.state_dict().values(), strict=True):
        assert (left.dtype, left.shape, left.stride()) == (right.dtype, right.shape, right.stride())
        assert torch.equal(left, right)
    assert [p.requires_grad for p in original.parameters()] == [p.requires_grad for p in loaded.parameters()]
    assert getattr(original, "training", None) == getattr(loaded, "training", None)
    assert original.original_name == loaded.original_name
    if hasattr(original, "forward"):
        assert original.code == loaded.code


@pytest.mark.parametrize("name", CASES)
def test_loads_the_same_here_and_in_a_worker(cluster, worker, name, recwarn):
    original = quiet(CASES[name][0])
    recwarn.clear()
    wrapper = JITActorWrapper(original)
    wrapper.load()
    assert not recwarn.list, [str(warning.message) for warning in recwarn.list]
    check(name, wrapper)
    worker(check, name, wrapper)


@pytest.mark.parametrize("make", [CASES["traced"][0], CASES["frozen"][0], CASES["traced_and_frozen"][0]])
def test_weights_are_stored_once_and_lie_in_the_stores_memory(cluster, make):
    from ray_zerocopy import image

    model = quiet(make)
    built = image.build(model, "model", [])
    weights = sum(p.nbytes for p in mlp().parameters())
    assert weights <= built.size < 1.02 * weights + 32768
    before = store_mappings()
    loaded = ModelWrapper.from_model(model).load()
    loaded(X)
    gc.collect()
    assert store_mappings() == before + 1
    for parameter in loaded.parameters():
        (line,) = mappings(parameter.data_ptr())
        assert "plasma" in line


def test_tied_weights_buffers_and_attributes_keep_what_they_share(cluster):
    loaded = JITActorWrapper(quiet(lambda: torch.jit.script(Net()))).load()
    assert loaded.first.weight.data_ptr() == loaded.second.weight.data_ptr()
    result, keys = loaded.describe({"k": torch.ones(3)}, (2, "!"))
    assert (float(result[0]), result[1], keys) == (6.0, "net!", ["k"])
    assert (loaded.counter, loaded.name) == (0, "net")


def test_parameters_that_submodules_share_are_stored_once(cluster):
    from ray_zerocopy import image

    model = quiet(lambda: torch.jit.script(Sharing()))
    weights = sum({p.data_ptr(): p.nbytes for p in model.parameters()}.values())
    assert weights <= image.build(model, "model", []).size < 1.02 * weights + 32768
    named = dict(JITActorWrapper(model).load().named_parameters(remove_duplicate=False))
    assert named["one.2.weight"].data_ptr() == named["two.0.weight"].data_ptr()
    assert named["one.0.weight"].data_ptr() == named["same.0.weight"].data_ptr()
    with torch.no_grad():
        named["one.2.weight"].zero_()
    assert not named["two.0.weight"].any()


def test_tensors_of_a_custom_class_are_each_loads_own(cluster, worker):
    model = quiet(lambda: torch.jit.script(Scaled()))
    wrapper = JITActorWrapper(model)
    one, two = wrapper.load(), wrapper.load()
    x = torch.ones(1, 64)
    expected = [model(x) for _ in range(3)]
    for loaded in (one, two):
        assert all(torch.equal(loaded(x), answer) for answer in expected)
        assert loaded.scale.name == "scale"


def test_named_tuples_dictionaries_and_strings_go_in_and_out(cluster, worker):
    model = quiet(lambda: torch.jit.script(Talks()))
    arguments = Given(torch.ones(3), "label"), (2, "+"), {"a": [torch.ones(2)], "b": [torch.ones(2), torch.zeros(2)]}

    def call(model, arguments):
        given, sums, names, label = model(*arguments)
        return given.x, given.label, given._fields, list(sums.items()), names, label

    def load_and_call(wrapper, arguments):
        return call(wrapper.load(), (Given(*arguments[0]), *arguments[1:]))

    there = worker(load_and_call, JITActorWrapper(model), arguments)
    for left, right in zip(call(model, arguments), there, strict=True):
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


def test_eager_and_scripted_models_in_one_pipeline_share_their_weights(cluster):
    eager = mlp()
    pipeline = zoo.Holder(eager=eager, scripted=quiet(lambda: torch.jit.script(eager)), more={"again": mlp()})
    loaded = ModelWrapper.from_model(pipeline).load()
    weight, same = loaded.eager[0].weight, dict(loaded.scripted.named_parameters())["0.weight"]
    assert weight.data_ptr() == same.data_ptr()
    with torch.no_grad():
        weight.zero_()
    assert not same.any()
    assert torch.equal(pipeline.scripted(X), ModelWrapper.from_model(pipeline).load().scripted(X))


def test_several_scripted_modules_over_the_same_weights(cluster):
    eager = mlp()
    first, second = quiet(lambda: (torch.jit.script(eager), torch.jit.trace(eager, X)))
    loaded = JITModelWrapper.from_model([first, second]).load()
    assert next(loaded[0].parameters()).data_ptr() == next(loaded[1].parameters()).data_ptr()


def test_state_and_training_change_their_own_process_only(cluster):
    wrapper = JITActorWrapper(quiet(lambda: torch.jit.script(Net())))
    one, two = (Worker.options(num_cpus=0).remote() for _ in range(2))
    ray.get([actor.keep.remote("net", wrapper.load) for actor in (one, two)])

    def grow(net):
        net.grow()
        net(torch.ones(1, 64)).sum().backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= parameter.grad
        return state(net)

    def state(net):
        return [value.sum().item() for value in net.state_dict().values()]

    before = ray.get(two.use.remote("net", state))
    assert ray.get(one.use.remote("net", grow)) != before
    assert ray.get(two.use.remote("net", state)) == before
    assert state(wrapper.load()) == before
    for actor in (one, two):
        ray.kill(actor)


def test_silero_vad_runs_its_own_stream_in_each_worker(cluster):
    import silero_vad

    model = quiet(lambda: silero_vad.load_silero_vad(onnx=False))
    wrapper = JITActorWrapper(model)
    rng = torch.Generator().manual_seed(0)
    streams = [torch.randn(10, 512, generator=rng) * loudness for loudness in (0.01, 0.5)]

    def listen(vad, stream):
        torch.set_num_threads(1)
        return [float(vad(chunk, 16000).detach()) for chunk in stream]

    workers = [Worker.options(num_cpus=0).remote() for _ in streams]
    ray.get([actor.keep.remote("vad", wrapper.load) for actor in workers])
    # interleaved: a state shared between the two would show
    halves = [
        ray.get([a.use.remote("vad", listen, s[part]) for a, s in zip(workers, streams, strict=True)])
        for part in (slice(0, 5), slice(5, 10))
    ]
    threads = torch.get_num_threads()
    for number, stream in enumerate(streams):
        model.reset_states()
        assert halves[0][number] + halves[1][number] == listen(model, stream)
        torch.set_num_threads(threads)
    for actor in workers:
        ray.kill(actor)


def test_private_memory_is_a_small_part_of_the_model(cluster):
    model = quiet(
        lambda: torch.jit.freeze(torch.jit.trace(nn.Sequential(nn.Linear(4000, 4000)).eval(), torch.ones(1, 4000)))
    )
    wrapper = JITActorWrapper(model)
    actor = Worker.options(num_cpus=0).remote()

    def anonymous():
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))

    def measure(wrapper):
        wrapper.load()
        gc.collect()
        before = anonymous()
        loaded = wrapper.load()
        loaded(torch.ones(1, 4000))
        return anonymous() - before

    assert ray.get(actor.run.remote(measure, wrapper)) < 0.02 * 64_000_000 + (8 << 20)
    ray.kill(actor)


def test_names_and_shapes_of_the_jit_wrappers(cluster):
    model = quiet(lambda: torch.jit.script(mlp()))
    wrapper = JITActorWrapper(zoo.Holder(model=model, eager=mlp()), model_attr_names=["model"])
    kwargs = wrapper.constructor_kwargs
    assert set(kwargs) == {"pipeline_skeleton", "model_refs"}
    assert set(kwargs["model_refs"]) == {"model"}
    for again in (
        pickle.loads(pickle.dumps(wrapper)),
        JITModelWrapper.deserialize(kwargs["pipeline_skeleton"], kwargs["model_refs"]),
        JITActorWrapper.deserialize(**wrapper.serialize()),
        JITModelWrapper.from_model(model, mode="actor"),
    ):
        assert torch.equal(getattr(again.load(), "model", again.load())(X), model(X))
    assert type(pickle.loads(pickle.dumps(wrapper))) is JITActorWrapper
    with pytest.raises(ValueError, match="mode is 'both'"):
        JITModelWrapper.from_model(model, mode="both")


@pytest.mark.parametrize("make", [JITActorWrapper, JITModelWrapper.from_model])
def test_a_pipeline_without_torchscript_is_a_type_error(cluster, make):
    for thing in (mlp(), zoo.Pipeline(), {"a": 1}):
        with pytest.raises(TypeError, match="use ModelWrapper for eager models"):
            make(thing)


def test_a_scripted_module_off_the_cpu_is_named_with_its_device(cluster):
    # the meta device stands for a GPU here: torch's own tensors, and not in CPU memory
    model = quiet(lambda: torch.jit.script(nn.Linear(3, 3, device="meta")))
    pipeline = zoo.Holder(stages=[mlp(), {"scripted": model}])
    with pytest.raises(errors.DeviceError, match=r"pipeline\.stages\[1\]\['scripted'\] is on 'meta'.*\.cpu\(\)"):
        JITActorWrapper(pipeline)


def test_what_onednn_optimized_is_refused_with_the_way_out(cluster):
    model = quiet(lambda: torch.jit.optimize_for_inference(torch.jit.script(nn.Conv2d(3, 8, 3).eval())))
    if "mkldnn" not in str(model.graph):  # a torch without oneDNN leaves the module as it is
        JITActorWrapper(model).load()
        return
    with pytest.raises(errors.UnpicklableError, match="wrap the module before it is optimized"):
        JITActorWrapper(model)
    before = quiet(lambda: torch.jit.script(nn.Conv2d(3, 8, 3).eval()))
    loaded = JITActorWrapper(before).load()
    x = torch.ones(1, 3, 8, 8)
    left, right = (quiet(lambda m=m: torch.jit.optimize_for_inference(m))(x) for m in (before, loaded))
    assert torch.equal(left, right)


def test_a_put_and_a_load_change_nothing_in_the_process(cluster):
    def state():
        switches = torch._C._get_graph_executor_optimize(), torch._C._jit_set_profiling_mode(True)
        torch._C._jit_set_profiling_mode(switches[1])
        return (
            *switches,
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            os.getcwd(),
            list(warnings.filters),
            set(copyreg.dispatch_table),
            torch.get_rng_state().tolist(),
        )

    model = quiet(lambda: torch.jit.script(Net()))
    before = state()
    JITActorWrapper(model).load()
    assert state() == before


class Boxes(nn.Module):
    def forward(self, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.ops.torchvision.nms(boxes, scores, 0.5)


def test_an_operator_that_the_worker_does_not_know_is_named_with_its_library(cluster):
    import torchvision  # noqa: F401

    wrapper = JITActorWrapper(quiet(lambda: torch.jit.script(Boxes())))
    actor = Worker.options(num_cpus=0).remote()

    text = ray.get(actor.run.remote(class_not_found, wrapper))
    assert "torchvision::nms" in text
    assert "'torchvision'" in text

    def import_and_load(wrapper):
        __import__("torchvision")
        wrapper.load()

    ray.get(actor.run.remote(import_and_load, wrapper))
    ray.kill(actor)


def test_one_tensor_of_a_scripted_module_keeps_its_memory(cluster):
    model = quiet(lambda: torch.jit.script(mlp()))
    kept = next(JITActorWrapper(model).load().parameters())
    gc.collect()
    assert torch.equal(kept, next(model.parameters()))
    address = kept.data_ptr()
    assert private_bytes(address, kept.nbytes) == 0
    del kept
    gc.collect()
    assert not mappings(address)
