"""Real models of every family that transformers, timm and torchvision have, tiny where their configurations can be made
so: what loads is the same, and so is what it computes in a worker. Prints what differs, and what could not be tried.

python tests/programs/sweep.py [PART OF A NAME ...]
"""

from __future__ import annotations

import gc
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import ray
import torch
from torch import nn
from tqdm import tqdm

import helpers
from compare import assert_same
from ray_zerocopy import ModelWrapper

MOST = 60_000_000  # parameters
# names that configurations have for what makes a model large
TINY = {
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32, "embed_dim": 32, "intermediate_size": 32,
    "ffn_dim": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "d_ff": 32, "num_hidden_layers": 2, "n_layer": 2,
    "n_layers": 2, "num_layers": 2, "encoder_layers": 2, "decoder_layers": 2, "depth": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "n_head": 4, "n_heads": 4, "num_heads": 4, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "vocab_size": 120, "max_position_embeddings": 64, "head_dim": 8,
    "num_experts": 2, "num_local_experts": 2, "moe_intermediate_size": 32, "image_size": 32, "patch_size": 8,
}  # fmt: skip
LAYERS = {"num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "depth"}


def transformers_models() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    import transformers

    for kind in sorted(transformers.MODEL_MAPPING.keys(), key=lambda each: each.__name__):

        def make(kind: Any = kind) -> nn.Module:
            own = kind().to_dict()
            tiny = {name: value for name, value in TINY.items() if isinstance(own.get(name), int)}
            fewer = [{}, {"head_dim", "num_key_value_heads"}, {"image_size", "patch_size"}, {*TINY} - LAYERS, {*TINY}]
            for left_out in fewer:
                names = {name: value for name, value in tiny.items() if name not in left_out}
                try:
                    with torch.device("meta"):
                        transformers.AutoModel.from_config(kind(**names))
                except Exception:
                    if left_out is fewer[-1]:
                        raise
                    continue
                return small(lambda names=names: transformers.AutoModel.from_config(kind(**names)))
            raise AssertionError

        yield f"transformers {kind.__name__.removesuffix('Config')}", make


def timm_models() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    import timm

    for family in timm.list_modules():
        names = timm.list_models(module=family)
        if names:
            yield f"timm {names[0]}", lambda name=names[0]: small(lambda: timm.create_model(name))


def torchvision_models() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    import torchvision

    for name in torchvision.models.list_models():

        def make(name: str = name) -> nn.Module:
            try:  # those with a backbone would download its weights
                return small(lambda: torchvision.models.get_model(name, weights=None, weights_backbone=None))
            except TypeError:
                return small(lambda: torchvision.models.get_model(name, weights=None))

        yield f"torchvision {name}", make


def small(make: Callable[[], nn.Module]) -> nn.Module:
    """A model, if it is not too large."""
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in make().parameters())
    if size > MOST:
        raise OverflowError(f"{size / 1e6:.0f} M parameters")
    return make()


INPUTS: tuple[Callable[[], tuple[tuple[Any, ...], dict[str, Any]]], ...] = (
    lambda: ((torch.linspace(-1, 1, 3 * 224 * 224).view(1, 3, 224, 224),), {}),
    lambda: ((), {"input_ids": torch.arange(1, 9).view(1, 8), "output_hidden_states": True}),
    lambda: ((), {"input_ids": torch.arange(1, 9).view(1, 8)}),
    lambda: ((), {"input_ids": torch.arange(1, 9).view(1, 8), "decoder_input_ids": torch.arange(1, 9).view(1, 8)}),
    lambda: ((), {"pixel_values": torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)}),
)


def outputs(model: nn.Module, number: int) -> list[Any]:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    given, named = INPUTS[number]()
    with torch.no_grad():
        found = model.eval()(*given, **named)
    return [leaf for leaf in torch.utils._pytree.tree_leaves(found) if isinstance(leaf, torch.Tensor)]


def outputs_there(wrapper: Any, number: int) -> list[Any]:
    warnings.simplefilter("ignore")
    return outputs(wrapper.load(), number)


def differs(make: Callable[[], nn.Module], worker: Any) -> str | None:
    """How what loads differs; None if it does not, and "compared only" if no input fits."""
    torch.manual_seed(0)
    model = make()
    wrapper = ModelWrapper.from_model(model)
    try:
        loaded = wrapper.load()
        assert_same(model, loaded)
    except Exception as error:
        return f"differs: {error!r}"[:300]
    del loaded
    for number in range(len(INPUTS)):
        try:
            expected = outputs(model, number)
        except Exception:
            continue
        again = ModelWrapper.from_model(model)  # libraries leave things in a model that was called
        for each in (wrapper, again):
            found = ray.get(worker.run.remote(outputs_there, each, number))
            if len(found) != len(expected):
                return f"gives {len(found)} tensors and not {len(expected)}"
            for left, right in zip(expected, found):
                if not torch.allclose(left, right, 0, 0, equal_nan=True):
                    return "computes something else"
        return None
    return "compared only"


def main() -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    wanted = sys.argv[1:]
    every = [*torchvision_models(), *timm_models(), *transformers_models()]
    every = [(name, make) for name, make in every if not wanted or any(part in name for part in wanted)]
    counts = {"equal": 0, "compared only": 0, "not made": 0, "differ": 0}
    worker = helpers.Worker.options(num_cpus=0).remote()
    for number, (name, make) in enumerate(tqdm(every, unit="model", mininterval=5)):
        if number % 40 == 39:  # it keeps what it has imported
            ray.kill(worker)
            worker = helpers.Worker.options(num_cpus=0).remote()
        try:
            require = make()
            del require
        except Exception as error:  # no tiny configuration, a package that is not here, too large
            counts["not made"] += 1
            print(f"{name}: not made: {error!r}"[:160], flush=True)
            continue
        try:
            found = differs(make, worker)
        except Exception as error:
            found = f"fails: {error!r}"[:300]
        gc.collect()
        if found in (None, "compared only"):
            counts[found or "equal"] += 1
        else:
            counts["differ"] += 1
            print(f"{name}: {found}", flush=True)
    print(json.dumps(counts))
    sys.exit(counts["differ"] > 0)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with helpers.ray_cluster(object_store_memory=2 << 30):
        main()
