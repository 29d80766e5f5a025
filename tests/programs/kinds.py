"""What a script hangs on its models, here, in a worker that has nothing of the script, and wrapped again by that one in
another. Prints what went wrong, by kind."""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch
from torch import nn

import helpers
from ray_zerocopy import ModelWrapper

KINDS: dict[str, Callable[[Path], tuple[Any, Callable[[Any], Any]]]] = {}


def kind(make: Callable[[Path], tuple[Any, Callable[[Any], Any]]]) -> None:
    """One kind: a pipeline, and what is asked of it here and there."""
    KINDS[make.__name__] = make


# --- code that no other process can import ---

CONFIGURATION = """
from transformers import PretrainedConfig

class TinyConfig(PretrainedConfig):
    model_type = "tiny_remote"

    def __init__(self, width=4, **others):
        self.width = width
        super().__init__(**others)
"""
MODELING = """
import torch
from transformers import PreTrainedModel
from .configuration_tiny import TinyConfig
from .doubling import double

class TinyModel(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.linear = torch.nn.Linear(config.width, config.width)
        self.post_init()

    def forward(self, x):
        from .tripling import triple  # imported when it is called
        return triple(double(self.linear(x)))
"""
REMOTE = {
    "configuration_tiny.py": CONFIGURATION,
    "modeling_tiny.py": MODELING,
    "doubling.py": "def double(x):\n    return 2 * x\n",
    "tripling.py": "def triple(x):\n    return 3 * x\n",
    "config.json": json.dumps(
        {
            "model_type": "tiny_remote",
            "auto_map": {"AutoConfig": "configuration_tiny.TinyConfig", "AutoModel": "modeling_tiny.TinyModel"},
        }
    ),
}


@kind
def remote_code(folder: Path) -> Any:
    import transformers

    for name, text in REMOTE.items():
        place = folder / "tiny.model-1.0" / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)
    config = transformers.AutoConfig.from_pretrained(place.parent, trust_remote_code=True)
    model = transformers.AutoModel.from_config(config, trust_remote_code=True)
    pipeline = {"model": model, "config": config}

    def asked(loaded: Any) -> Any:
        import inspect

        x = torch.ones(1, 4)
        return loaded["model"](x), type(loaded["model"]).__name__, inspect.getsource(type(loaded["model"]))

    return pipeline, asked


def forget_remote_code() -> None:
    """What was downloaded is there in the driver's memory only."""
    shutil.rmtree(os.environ["HF_MODULES_CACHE"])


@kind
def module_made_at_run_time(folder: Path) -> Any:
    name = "torch.nn.generated_adder"  # in a library's package, as PyTorch Geometric's are
    place = folder / "generated_adder.py"
    place.write_text("import torch\nBY = 5\nclass Adder(torch.nn.Linear):\n    def forward(self, x):\n"
                     "        return super().forward(x) + BY\ndef add(x):\n    return x + BY\n")  # fmt: skip
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)

    def asked(loaded: Any) -> Any:
        return loaded[0](torch.ones(1, 2)), loaded[1](1), type(loaded[0]).__name__

    return [module.Adder(2, 2), module.add], asked


# --- TorchScript and torch.compile ---

with warnings.catch_warnings():
    warnings.simplefilter("ignore")

    @torch.jit.script
    def scaled(x: torch.Tensor, by: float = 2.0) -> torch.Tensor:
        return x * by + torch.ones(1)


class Scaling:
    def __init__(self) -> None:
        self.model = nn.Linear(2, 2)
        self.function = self.again = scaled
        self.compiled = torch.compile(lambda x: x.relu() + 1, backend="eager", fullgraph=True)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return scaled(self.model(x))


@kind
def functions_of_torchscript(_: Path) -> Any:
    def asked(loaded: Any) -> Any:
        x = torch.ones(1, 2)
        assert loaded.function is loaded.again
        return loaded(x), loaded.function(x), loaded.function(x, 3.0), loaded.again(x, by=4.0)

    return Scaling(), asked


@kind
def compiled_functions(_: Path) -> Any:
    def asked(loaded: Any) -> Any:
        return loaded.compiled(torch.tensor([-1.0, 1.0])), hasattr(loaded.compiled, "_torchdynamo_orig_callable")

    return Scaling(), asked


@kind
def module_compiled_in_place(_: Path) -> Any:
    model = nn.Linear(2, 2)
    model.compile(backend="eager", fullgraph=True)

    def asked(loaded: Any) -> Any:
        from ray_zerocopy.graph import compiled

        return loaded(torch.ones(1, 2)), compiled.arguments(loaded._compiled_call_impl)[1:]

    return model, asked


# --- objects ---


class Forwarding:  # as that of zoo.py, but the script's own: workers cannot import it
    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


def of_forwarding(loaded: Any) -> Any:
    return loaded(torch.ones(1, 2)), loaded.in_features


@kind
def forwarding(_: Path) -> Any:
    return Forwarding(nn.Linear(2, 2)), of_forwarding


@kind
def forwarding_deeper(_: Path) -> Any:
    return {"a": [Forwarding(Forwarding(nn.Linear(2, 2)))]}, lambda loaded: of_forwarding(loaded["a"][0])


@functools.lru_cache(maxsize=7)
def squared(x: int) -> int:
    return x * x


@functools.singledispatch
def described(x: object) -> str:
    return "object"


@described.register
def _(x: int) -> str:
    return f"int {x}"


class Caching:
    def __init__(self) -> None:
        self.model = nn.Linear(2, 2)
        self.squared, self.described = squared, described

    @functools.lru_cache(maxsize=None)  # noqa: B019
    def cubed(self, x: int) -> int:
        return x * squared(x)


@kind
def functions_with_caches(_: Path) -> Any:
    def asked(loaded: Any) -> Any:
        maxsize = loaded.squared.cache_info().maxsize
        return loaded.cubed(2), loaded.cubed(2), maxsize, loaded.described(5), loaded.described("5")

    return Caching(), asked


LOG = logging.getLogger("kinds")
LOG.addHandler(logging.StreamHandler(open(os.devnull, "w")))  # noqa: SIM115


class Logging:
    def __init__(self) -> None:
        import loguru

        loguru.logger.add(open(os.devnull, "w"))  # noqa: SIM115
        self.model = nn.Linear(2, 2)
        self.log, self.bound = loguru.logger, loguru.logger.bind(who="me")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        LOG.info("called")
        self.bound.info("called")
        return self.model(x)


@kind
def loggers(_: Path) -> Any:
    def asked(loaded: Any) -> Any:
        import loguru

        assert loaded.log is loguru.logger
        return loaded(torch.ones(1, 2)), loaded.bound._options[-1]

    return Logging(), asked


@kind
def transformers_that_were_called(_: Path) -> Any:
    import transformers

    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=20
    )
    ids = torch.arange(6).view(1, 6)
    fresh, called = (transformers.BertModel(config).eval() for _ in range(2))
    called(ids, output_hidden_states=True)  # leaves hooks in it

    def asked(loaded: Any) -> Any:
        return [list(model(ids, output_hidden_states=True).hidden_states) for model in loaded]

    return [fresh, called], asked


@kind
def exported_with_types_of_a_library(_: Path) -> Any:
    import transformers

    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
    )
    ids = torch.arange(6).view(1, 6)
    program = torch.export.export(transformers.BertModel(config).eval(), (ids,), strict=False)

    def asked(loaded: Any) -> Any:
        output = loaded.module()(ids)
        return output[0], type(output).__name__

    return program, asked


# --- ---


def same(left: Any, right: Any) -> bool:
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return torch.equal(left, right) if isinstance(left, torch.Tensor) else bool(left == right)


def loaded_and_asked(wrapper: ModelWrapper[Any], asked: Callable[[Any], Any]) -> Any:
    with torch.no_grad():
        return asked(wrapper.load())


def failure(name: str, folder: Path, last: Any) -> str:
    """What is wrong with a kind; nothing if that is empty."""
    try:
        torch.manual_seed(0)
        model, asked = KINDS[name](folder)
        wrapper = ModelWrapper.from_model(model)
        with torch.no_grad():
            expected = asked(model)
            assert same(expected, asked(wrapper.load())), "not the same in the driver"
        if name == "remote_code":
            forget_remote_code()
        worker = helpers.Worker.options(num_cpus=0).remote()
        found = ray.get(worker.run.remote(loaded_and_asked, wrapper, asked))
        assert same(expected, found), f"not the same in a worker: {found}"
        ray.get(worker.keep.remote("model", ModelWrapper.load, wrapper))
        again = ray.get(worker.use.remote("model", ModelWrapper.from_model))
        found = ray.get(last.run.remote(loaded_and_asked, again, asked))
        assert same(expected, found), f"not the same when what was loaded is wrapped again: {found}"
        ray.kill(worker)
    except Exception:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        os.environ["HF_MODULES_CACHE"] = str(Path(place) / "modules")
        with helpers.ray_cluster():
            last = helpers.Worker.options(num_cpus=0).remote()
            print(json.dumps({name: failure(name, Path(place), last) for name in sys.argv[1:] or KINDS}))
