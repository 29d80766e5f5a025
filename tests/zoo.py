"""Models and pipelines of every kind that must come back the same. Each maker is deterministic, so that a worker can
make the original again and compare."""

from __future__ import annotations

import functools
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrizations

Maker = Callable[[], tuple[Any, tuple[Any, ...] | None]]
ZOO: dict[str, Maker] = {}


def case(maker: Maker) -> Maker:
    @functools.wraps(maker)
    def seeded() -> tuple[Any, tuple[Any, ...] | None]:
        torch.manual_seed(7)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations of torch's own makers; not part of a put or a load
            return maker()

    ZOO[maker.__name__] = seeded
    return seeded


class Holder:
    """A plain object to hang things on."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Pipeline:
    """Several models and a configuration, as users write them."""

    def __init__(self) -> None:
        self.encoder = nn.Sequential(nn.Linear(8, 16), nn.ReLU()).eval()
        self.decoder = nn.Linear(16, 4).eval()
        self.config = {"temperature": 0.5, "labels": ["a", "b"], "limits": (1, 2)}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(x)) / self.config["temperature"]


def seeded_pipeline() -> Pipeline:
    """The same in every process."""
    torch.manual_seed(0)
    return Pipeline()


class Slotted:
    __slots__ = ("model", "note")

    def __init__(self) -> None:
        self.model, self.note = nn.Linear(3, 3), "slots"


class Labelled(torch.Tensor):
    """A tensor subclass with an attribute."""


class WithBuffers(nn.Module):
    def __init__(self, **buffers: torch.Tensor) -> None:
        super().__init__()
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)


def scale(x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    return x * by


def double_first(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (args[0] * 2, *args[1:])


def negate_grad(grad: torch.Tensor) -> torch.Tensor:
    return -grad


# --- where models hang ---------------------------------------------------------------------------


@case
def bare_module():
    return nn.Sequential(nn.Linear(8, 300), nn.GELU(), nn.Linear(300, 8)), (torch.randn(2, 8),)


@case
def pipeline():
    return Pipeline(), (torch.randn(5, 8),)


@case
def models_in_containers_private_attributes_and_children():
    child = Holder(model=nn.Linear(3, 3), deeper=Holder(models={"x": nn.Linear(2, 2)}))
    return Holder(
        several=[nn.Linear(4, 4), nn.Linear(4, 4)],
        named={"a": nn.Linear(5, 5), "b": (nn.Linear(6, 6),)},
        _private=nn.Conv2d(3, 4, 3),
        child=child,
    ), None


@case
def same_module_in_two_attributes():
    model = nn.Linear(7, 7)
    return Holder(first=model, second=model, third=[model]), None


@case
def module_containers():
    return nn.ModuleDict(
        {
            "list": nn.ModuleList([nn.Linear(2, 2)]),
            "p": nn.ParameterList([torch.randn(3)]),
            "d": nn.ParameterDict({"q": torch.randn(2)}),
        }
    ), None


@case
def object_with_slots():
    return Slotted(), None


@case
def lambdas_and_partials_over_tensors():
    weight = torch.randn(6)
    shared = nn.Linear(6, 6)
    return Holder(
        function=lambda x: shared(x) * weight, partial=functools.partial(scale, by=weight), weight=weight, model=shared
    ), None


@case
def bound_method_of_a_model():
    model = nn.Linear(3, 3)
    return Holder(model=model, call=model.forward), None


# --- dtypes and kinds of tensor --------------------------------------------------------------------


@case
def bfloat16_and_half():
    return Holder(b=nn.Linear(9, 9).bfloat16(), h=nn.Linear(9, 9).half(), d=nn.Linear(9, 9).double()), None


@case
def float8():
    kinds = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
    kinds = [kind for kind in kinds if hasattr(torch, kind)]
    return WithBuffers(**{kind: torch.rand(40).to(getattr(torch, kind)) for kind in kinds}), None


@case
def integers_and_booleans():
    kinds = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64)
    buffers = {str(kind)[6:]: torch.arange(11).to(kind) for kind in kinds}
    return WithBuffers(**buffers, bool=torch.arange(11) % 2 == 0), None


@case
def subclass_of_a_new_dtype():
    return WithBuffers(x=torch.arange(5).to(torch.uint16).as_subclass(Labelled)), None


@case
def complex_and_conjugate_views():
    base = torch.randn(5, 5, dtype=torch.complex64)
    return WithBuffers(
        base=base, conj=base.conj(), conj_t=base.mH, neg=base.conj().imag, c128=base.to(torch.complex128)
    ), None


@case
def empty_and_zero_dimensional():
    return WithBuffers(
        empty=torch.empty(0), no_rows=torch.empty(0, 5), scalar=torch.tensor(3.5), ones=torch.randn(1, 1, 3, 1)
    ), None


@case
def non_persistent_buffers():
    model = nn.Linear(3, 3)
    model.register_buffer("hidden", torch.randn(4), persistent=False)
    model.register_buffer("nothing", None)
    return model, (torch.randn(1, 3),)


@case
def transposed_expanded_and_strided():
    base = torch.randn(6, 8)
    return WithBuffers(
        t=base.t(),
        expanded=torch.randn(1, 4).expand(3, 4),
        every_second=base[:, ::2],
        alone=torch.randn(9, 4).t(),
        odd=torch.empty_strided((1, 3), (77, 1)).fill_(2.0),
        part=torch.randn(100)[10:20],
    ), None


@case
def channels_last():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval().to(memory_format=torch.channels_last)
    return model, (torch.randn(2, 3, 9, 9).to(memory_format=torch.channels_last),)


@case
def overlapping_views_of_one_base():
    base = torch.randn(1000)
    return Holder(a=base[:600], b=base[400:], c=base.view(10, 100)[3], base=base), None


@case
def view_of_a_parameter_as_an_attribute():
    model = nn.Linear(5, 5)
    model.row = model.weight[1]
    model.detached = model.weight.detach()[2:4]
    return model, (torch.randn(1, 5),)


@case
def tied_weights():
    class Tied(nn.Module):
        pass

    model = nn.ModuleDict({"embed": nn.Embedding(50, 8), "head": nn.Linear(8, 50, bias=False)})
    model["head"].weight = model["embed"].weight
    return model, None


@case
def weights_that_share_a_storage_but_not_a_parameter():
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    model[1].weight = nn.Parameter(model[0].weight.detach())
    model[1].bias = nn.Parameter(model[0].weight.detach().view(-1)[4:8])
    return model, None


@case
def sparse():
    coo = torch.eye(6).to_sparse()
    return WithBuffers(
        coo=coo, loose=torch.sparse_coo_tensor([[1, 1]], [2.0, 3.0], (4,)), csr=torch.eye(5).to_sparse_csr()
    ), None


@case
def nested():
    return Holder(nested=torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)])), None


@case
def meta():
    return Holder(m=nn.Linear(10, 10, device="meta"), t=torch.empty(3, 4, device="meta")), None


@case
def quantized_tensors():
    x = torch.randn(6, 4)
    per_channel = torch.quantize_per_channel(x, torch.rand(6) + 0.1, torch.zeros(6, dtype=torch.int64), 0, torch.qint8)
    return WithBuffers(t=torch.quantize_per_tensor(x, 0.1, 3, torch.quint8), c=per_channel), None


@case
def subclass_with_attributes():
    tensor = torch.randn(4, 4).as_subclass(Labelled)
    tensor.label = {"x": 1}
    parameter = nn.Parameter(torch.randn(3))
    parameter.tag = "tagged"
    return Holder(tensor=tensor, parameter=parameter, plain=torch.randn(2)), None


@case
def storages_held_as_such():
    tensor = torch.arange(10.0)
    return Holder(untyped=tensor.untyped_storage(), typed=tensor._typed_storage(), tensor=tensor), None


# --- state of modules ------------------------------------------------------------------------------


@case
def frozen_layers_and_mixed_training_modes():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
    model[0].requires_grad_(False)
    model[1].eval()
    return model, None


class OwnParameter(nn.Parameter):
    """As those of libraries that quantize."""

    __slots__ = ("note",)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return super().__torch_function__(function, types, args, kwargs or {})

    def described(self) -> str:
        return f"{self.scale} {self.note}"


@case
def parameters_of_own_classes():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    own = OwnParameter(torch.arange(16.0).view(4, 4))
    own.scale, own.note, own.twin, own.itself = 0.5, "slot", model[0].bias, own
    model[0].weight = model[1].weight = own
    whole = OwnParameter(torch.arange(16, dtype=torch.int8), requires_grad=False)
    whole.scale, whole.note = 2, None
    model.register_parameter("whole", whole)
    model.part = OwnParameter(torch.arange(32.0)[4:12].view(4, 2).t())
    return model, (torch.randn(2, 4),)


@case
def what_hangs_on_parameters():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    for parameter in model.parameters():
        parameter._is_hf_initialized = True  # as transformers does
    model[0].weight.tags = {"a": [1]}
    model[0].weight.register_hook(negate_grad)
    model[1].weight.register_post_accumulate_grad_hook(halve_grad)
    model[1].bias.register_post_accumulate_grad_hook(halve_grad)
    model[1].bias.owner, model[1].bias.itself = model, model[1].bias
    model.register_buffer("table", torch.arange(3.0))
    model.table.unit = "m"
    return model, (torch.randn(2, 4),)


def halve_grad(parameter):
    parameter.grad.div_(2)


@case
def hooks():
    model = nn.Linear(3, 3)
    model.register_forward_pre_hook(double_first)
    model.weight.register_hook(negate_grad)
    return model, (torch.randn(2, 3),)


@case
def parametrized():
    layers = [
        parametrizations.orthogonal(nn.Linear(6, 6)),
        parametrizations.weight_norm(nn.Linear(6, 6)),
        parametrizations.spectral_norm(nn.Linear(6, 6)),
    ]
    return nn.Sequential(*layers).eval(), (torch.randn(2, 6),)


@case
def old_weight_norm():
    return nn.utils.weight_norm(nn.Linear(6, 6)), (torch.randn(2, 6),)


@case
def lazy_module_not_yet_initialized():
    return nn.Sequential(nn.LazyLinear(4)), None


@case
def recurrent():
    return nn.LSTM(6, 7, num_layers=2).eval(), (torch.randn(3, 2, 6),)


@case
def optimizer_over_the_parameters():
    model = nn.Linear(5, 5)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.randn(3, 5)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return Holder(model=model, optimizer=optimizer), None


@case
def generator():
    return Holder(generator=torch.Generator().manual_seed(11), model=nn.Linear(2, 2)), None


@case
def traced_by_fx():
    return torch.fx.symbolic_trace(nn.Sequential(nn.Linear(5, 5), nn.ReLU())), (torch.randn(2, 5),)


@case
def compiled():
    return torch.compile(nn.Sequential(nn.Linear(5, 5), nn.ReLU()), backend="eager"), (torch.randn(2, 5),)


@case
def lazy_in_double():
    return nn.Sequential(nn.LazyConv1d(3, 2), nn.LazyBatchNorm1d()).double().eval(), (torch.randn(2, 3, 5).double(),)


@case
def compiled_in_place():
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU())
    model.compile(backend="eager", fullgraph=True, dynamic=True)
    model[1].compile(backend="eager")
    return model, (torch.randn(2, 5),)


@case
def compiled_with_arguments():
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU())
    return torch.compile(model, mode="reduce-overhead", fullgraph=True, dynamic=False), None


class Runner:
    def __init__(self) -> None:
        self.model = nn.Linear(5, 5)
        self.run = torch.compile(self.run, backend="eager")  # type: ignore[method-assign]

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x)


@case
def compiled_methods():
    runner = Runner()
    return Holder(run=runner.run, runner=runner, again=runner.run), None


@case
def feature_extractor():
    from torchvision.models.feature_extraction import create_feature_extractor

    model = nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.5), nn.Sequential(nn.Linear(5, 3), nn.ReLU()))
    return create_feature_extractor(model, {"0": "first", "2.1": "second"}).eval(), (torch.randn(2, 5),)


@case
def quantized_by_fx():
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)).eval()
    inputs = (torch.randn(2, 3, 3, 3),)
    prepared = quantize_fx.prepare_fx(model, get_default_qconfig_mapping("fbgemm"), inputs)
    prepared(*inputs)
    return quantize_fx.convert_fx(prepared), inputs


class SlottedModule(nn.Linear):
    __slots__ = ("empty", "note", "table")

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.note = ["kept"]
        self.table = torch.arange(5.0)


@case
def module_with_slots():
    return nn.Sequential(SlottedModule(), nn.ReLU()), (torch.randn(2, 3),)


@case
def one_empty_dictionary_in_several_modules():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].known = model[1].known = OrderedDict()
    model[2]._forward_hooks = model[1]._forward_hooks
    handle = model[0].register_forward_hook(lambda *_: None)
    handle.remove()
    return Holder(model=model, handle=handle, hooks=model[0]._forward_hooks), None


class Forwarding:
    """Is its model, for whoever asks for what it does not have itself."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class ForwardingSlots(Forwarding):
    __slots__ = ("note",)


class ForwardingModule(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.model, name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class Items(dict):
    def __getattr__(self, name: str) -> Any:
        return self[name]


@case
def forwarding():
    return Forwarding(ForwardingModule(nn.Sequential(nn.Linear(5, 5), nn.ReLU()))), (torch.randn(2, 5),)


@case
def forwarding_deeper():
    slots = ForwardingSlots(nn.Linear(2, 2))
    slots.note = "kept"
    return Holder(slots=[slots], items=Items(model=Forwarding(Forwarding(nn.Linear(2, 2))), more=Items())), None


@case
def dynamically_quantized():
    model = nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 4)).eval()
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8), (torch.randn(2, 20),)


# --- NumPy -----------------------------------------------------------------------------------------


@case
def numpy_arrays():
    base = np.arange(24000.0).reshape(20, 30, 40)
    frozen = np.arange(10)
    frozen.flags.writeable = False
    return Holder(
        c=base,
        f=np.asfortranarray(base[0]),
        permuted=np.ascontiguousarray(base).transpose(1, 0, 2),
        reversed_axes=base.transpose(2, 0, 1).copy(order="K"),
        gaps=base[:, ::2],
        backwards=base[0, 0, ::-1],
        structured=np.zeros(4, dtype=[("a", "i4"), ("b", "f8")]),
        objects=np.array([{"a": 1}, None], dtype=object),
        strings=np.array(["x", "yy"]),
        tables=np.array([[{"a": 1}, [1, 2], (3,)], ["b", None, 2.5]], dtype=object),
        fortran=np.asfortranarray(np.array([[1, "b"], [None, 2.5]], dtype=object)),
        one_object=np.array({"a": 1}, dtype=object),
        no_objects=np.empty((0, 3), dtype=object),
        records=np.array([(1, "a"), (2, None)], [("number", "i4"), ("object", "O")]),
        empty=np.empty((0, 3)),
        scalar=np.array(3.0),
        frozen=frozen,
        number=np.float32(1.5),
        moments=np.array(["2020-01-01", "NaT"], "M8[us]"),
        dtypes=[
            np.dtype(each) for each in (">i2", "?", "U7", "S3", "O", "m8[3D]", "V5", "g", [("t", "M8[s]"), ("u", "O")])
        ],
        aligned=np.zeros(3, np.dtype([("a", "i1"), ("b", "f8", (2,))], align=True)),
        described=np.dtype("f4", metadata={"unit": "m"}),
    ), None


class Named(np.ndarray):
    """An array with an attribute."""


@case
def numpy_arrays_of_classes():
    base = np.arange(24000.0).reshape(200, 120)
    named = base.view(Named)
    named.units = "m"
    records = np.recarray(300, [("a", "f4"), ("b", "i8")])
    records.a, records.b = 1, np.arange(300)
    masked = np.ma.masked_array(base, base > 50, fill_value=7)
    masked.note = "kept"
    return Holder(
        model=nn.Linear(2, 2),
        named=named,
        matrix=np.asmatrix(base),
        records=records,
        some_records=records[::2],
        masked=masked,
        nothing_masked=np.ma.masked_array(np.arange(5)),
        words=np.char.array(["a", "bb"]),
    ), None


@case
def numpy_arrays_with_gaps():
    base = np.arange(24000.0).reshape(200, 120)
    frozen = np.broadcast_to(np.arange(3.0), (1000, 3))
    return Holder(
        rows=base[::2],
        base=base,
        columns=base[:, ::2],
        backwards=base[::-1, ::-1],
        few=base[:, :3],
        frozen=frozen,
        one=np.broadcast_to(np.float32(3), (7, 5)),
        model=nn.Linear(2, 2),
    ), None


@case
def tensor_over_a_numpy_array():
    array = np.arange(30000.0)
    return Holder(array=array, tensor=torch.from_numpy(array), part=torch.from_numpy(array[100:200])), None


# --- real models -----------------------------------------------------------------------------------


@case
def bert():
    import transformers

    config = transformers.BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
    return transformers.BertModel(config).eval(), (torch.arange(12).view(2, 6),)


@case
def gpt2_with_tied_weights():
    import transformers

    config = transformers.GPT2Config(n_embd=48, n_layer=2, n_head=4, vocab_size=300)
    return transformers.GPT2LMHeadModel(config).eval(), (torch.arange(12).view(2, 6),)


@case
def llama_in_bfloat16():
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=200
    )
    return transformers.LlamaForCausalLM(config).eval().bfloat16(), (torch.arange(12).view(2, 6),)


@case
def timm_model():
    import timm

    return timm.create_model("mobilenetv3_small_050", pretrained=False).eval(), (torch.randn(1, 3, 64, 64),)


@case
def torchvision_channels_last():
    import torchvision

    model = torchvision.models.resnet18(weights=None).eval().to(memory_format=torch.channels_last)
    return model, (torch.randn(1, 3, 64, 64).to(memory_format=torch.channels_last),)
