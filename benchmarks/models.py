"""The models that the benchmarks share, each built from its configuration with a fixed seed, with an input for it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn


@dataclass
class Spec:
    """A model: what it is, how it is made, its input, and the modules that a worker imports for it."""

    title: str
    build: Callable[[], Any]
    inputs: Callable[[], dict[str, torch.Tensor]]
    imports: tuple[str, ...] = ()


def bert_base() -> nn.Module:
    import transformers

    return transformers.BertModel(transformers.BertConfig())


def gpt2() -> nn.Module:
    import transformers

    return transformers.GPT2LMHeadModel(transformers.GPT2Config(use_cache=False))


def resnet50() -> nn.Module:
    import torchvision

    return torchvision.models.resnet50()


def llama() -> nn.Module:
    """TinyLlama's shape in bfloat16. Filled with the same random block again and again: drawing 1.1 G takes long."""
    from transformers.models.llama import modeling_llama

    config = modeling_llama.LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22,
        num_attention_heads=32, num_key_value_heads=4, use_cache=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = modeling_llama.LlamaForCausalLM(config).to(torch.bfloat16)
    model.model.rotary_emb = modeling_llama.LlamaRotaryEmbedding(config)  # its buffers are computed
    return filled(model)


class Encoder(nn.Module):
    """BERT-base's shape in plain PyTorch: a worker that imports nothing else starts in half the time."""

    def __init__(self, words: int = 30522, width: int = 768, layers: int = 12) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        layer = nn.TransformerEncoderLayer(width, width // 64, 4 * width, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        places = torch.arange(512 * width).view(1, 512, width).sin()
        self.register_buffer("places", places, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.layers(self.words(ids) + self.places[:, : ids.shape[1]])


class SmallTensors(nn.Module):
    """4000 tensors, most of them of 256 bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64)) for _ in range(1000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            x = x + step(x)
        return x


class Pipeline:
    """Three models in a plain object."""

    def __init__(self) -> None:
        import torchvision
        import transformers

        self.text = transformers.BertModel(transformers.BertConfig(num_hidden_layers=6)).eval()
        self.image = torchvision.models.resnet18().eval()
        self.head = nn.Sequential(nn.Linear(1768, 4096), nn.ReLU(), nn.Linear(4096, 10)).eval()

    def __call__(self, input_ids: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.text(input_ids=input_ids).pooler_output, self.image(pixels)], dim=1))


class Layers(nn.Module):
    """Square linear layers: any size in any number of tensors."""

    def __init__(self, size: int, count: int) -> None:
        super().__init__()
        width = Layers.width(size, count)
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False, device="meta") for _ in range(count))
        filled(self)

    @staticmethod
    def width(size: int, count: int) -> int:
        """Rows and columns of one layer."""
        return max(1, math.isqrt(size // (4 * count)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def filled(model: nn.Module) -> nn.Module:
    """Replace parameters on the meta device by small random numbers; on purpose no new ones for each."""
    if torch.get_default_device().type == "meta":
        return model  # only an outline is wanted
    block = torch.randn(1 << 20) * 0.02
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            numbers = torch.empty(parameter.shape, dtype=parameter.dtype)
            for part in numbers.view(-1).split(len(block)):
                part.copy_(block[: len(part)])
            setattr(module, name, nn.Parameter(numbers))
    return model


def restored(model: Any) -> Any:
    """The model as a user of transformers has it: saved, and what `from_pretrained` makes of that, which maps the file
    and leaves an attribute on every parameter."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    if isinstance(model, transformers.PreTrainedModel):
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            return type(model).from_pretrained(folder)
    for name, part in modules(model):
        if part is not model:
            setattr(model, name, restored(part))
    return model


def token_ids(rows: int = 2, vocabulary: int = 30522) -> torch.Tensor:
    return (torch.arange(64 * rows) * 37 % vocabulary).view(rows, 64)


def pixels() -> torch.Tensor:
    return torch.linspace(-1, 1, 3 * 224 * 224).view(1, 3, 224, 224)


BERT = "transformers.models.bert.modeling_bert"
MODELS = {
    "bert-base": Spec("BERT-base", bert_base, lambda: {"input_ids": token_ids()}, (BERT,)),
    "gpt2": Spec(
        "GPT-2", gpt2, lambda: {"input_ids": token_ids()}, ("transformers.models.gpt2.modeling_gpt2",)
    ),
    "resnet50": Spec("ResNet-50", resnet50, lambda: {"x": pixels()}, ("torchvision",)),
    "llama-1.1b": Spec(
        "Llama's shape, 1.1 B in bfloat16", llama, lambda: {"input_ids": token_ids(1, 32000)},
        ("transformers.models.llama.modeling_llama",),
    ),
    "small-tensors": Spec("4000 small tensors", SmallTensors, lambda: {"x": torch.ones(1, 64)}),
    "pipeline": Spec(
        "a pipeline of three models", Pipeline, lambda: {"input_ids": token_ids(1), "pixels": pixels()},
        (BERT, "torchvision"),
    ),
    "encoder": Spec("BERT-base's shape in plain PyTorch", Encoder, lambda: {"ids": token_ids(1)}),
    "tiny": Spec("a tiny encoder", lambda: Encoder(2000, 128, 2), lambda: {"ids": token_ids(1, 2000)}),
}  # fmt: skip


def spec(name: str) -> Spec:
    """A model of `MODELS`, or ``layers:BYTES:COUNT``."""
    if not name.startswith("layers:"):
        return MODELS[name]
    size, count = map(int, name.split(":")[1:])
    return Spec(name, lambda: Layers(size, count), lambda: {"x": torch.ones(1, Layers.width(size, count))})


def build(name: str) -> Any:
    """The model itself, ready for inference; the same weights in every process."""
    torch.manual_seed(0)
    model = spec(name).build()
    for _, module in modules(model):
        module.eval()
    return model


def outline(name: str) -> Any:
    """The model without weights: all of its tensors are on the meta device."""
    with torch.device("meta"):
        return build(name)


def warm(name: str) -> None:
    """Import what the model needs."""
    for module in spec(name).imports:
        import_module(module)


def run(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """One forward, as one tensor."""
    with torch.no_grad():
        output = model(**inputs)
    return output if isinstance(output, torch.Tensor) else next(iter(output.values()))


def modules(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The models of a pipeline by attribute; a bare model has the name ``model``."""
    if isinstance(model, nn.Module):
        yield "model", model
    else:
        yield from ((name, part) for name, part in vars(model).items() if isinstance(part, nn.Module))


def tensors(model: Any) -> dict[str, torch.Tensor]:
    """All parameters and buffers by name, with those that a ``state_dict`` leaves out and all names of shared ones."""
    return {
        f"{part}.{name}": tensor
        for part, module in modules(model)
        for named in (module.named_parameters, module.named_buffers)
        for name, tensor in named(remove_duplicate=False)
    }


def size(model: Any) -> int:
    """Bytes of all parameters and buffers, shared ones once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(model).values()}
    return sum(storages.values())


def outlined_size(name: str) -> int:
    """What `size` will be, without building the model."""
    return sum(t.nbytes for t in {id(t): t for t in tensors(outline(name)).values()}.values())
