"""The models that the benchmarks load, each built from its configuration with a fixed seed, with an input for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def bert_base() -> tuple[torch.nn.Module, dict[str, Any]]:
    """BERT-base, 110 M parameters in float32 (418 MB), and 2 sequences of 64 tokens."""
    import transformers

    model = transformers.BertModel(transformers.BertConfig()).eval()
    return model, {"input_ids": torch.arange(128).view(2, 64)}


MODELS: dict[str, Callable[[], tuple[torch.nn.Module, dict[str, Any]]]] = {"bert-base": bert_base}


def build(name: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A model of `MODELS` and the keyword arguments of one forward."""
    torch.manual_seed(0)
    return MODELS[name]()


def size(model: torch.nn.Module) -> int:
    """Bytes of all parameters and buffers, shared ones once."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors(model)}
    return sum(storages.values())


def tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    """All parameters and buffers."""
    return [*model.parameters(), *model.buffers()]
