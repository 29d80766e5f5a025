"""The ways to get one model into many Ray workers: what `put` makes in the driver, `load` turns into a model in a
worker.

Each is what its documentation tells a user to write, done with care: the two that read files also restore what
`load_state_dict` leaves on the meta device (buffers that are not persistent), which plain ``assign=True`` gets wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import ray
import torch

import models


class Code(Protocol):
    """How a way puts and loads. ``name`` is the model's in `models`, ``folder`` a place for files."""

    def prepare(self) -> None:
        """What a worker or the driver does before the clock starts."""

    def put(self, model: Any, name: str, folder: Path) -> Any: ...

    def load(self, put: Any) -> Any: ...


class RayZerocopy(Code):
    """This project, and the older package of the same name, which is called in the same way."""

    def prepare(self) -> None:
        import ray_zerocopy  # noqa: F401

    def put(self, model: Any, name: str, folder: Path) -> Any:
        from ray_zerocopy import ModelWrapper

        return ModelWrapper.from_model(model, mode="actor")

    def load(self, put: Any) -> Any:
        return put.load()


class RayPut(Code):
    """``ray.put(model)``, ``ray.get`` in the worker."""

    def put(self, model: Any, name: str, folder: Path) -> Any:
        return [ray.put(model)]  # in a list, or Ray would get it before the worker's clock starts

    def load(self, put: Any) -> Any:
        return ray.get(put[0])


class Build(Code):
    """No sharing: every worker makes the model."""

    def put(self, model: Any, name: str, folder: Path) -> Any:
        return name

    def load(self, put: Any) -> Any:
        return models.build(put)


class TorchFile(Code):
    """``torch.save``; ``torch.load(mmap=True)`` into a model on the meta device."""

    def prepare(self) -> None:
        models.outline("tiny")  # torch imports a second's worth of modules when it first uses the meta device

    def put(self, model: Any, name: str, folder: Path) -> Any:
        path = folder / f"{name}.pt"
        path.unlink(missing_ok=True)  # a worker may still have the old one mapped
        torch.save({key: tensor.detach() for key, tensor in models.tensors(model).items()}, path)
        return name, path

    def load(self, put: Any) -> Any:
        name, path = put
        return assign(models.outline(name), torch.load(path, mmap=True, weights_only=True))


class Safetensors(TorchFile):
    """A safetensors file, into a model on the meta device."""

    def prepare(self) -> None:
        super().prepare()
        import safetensors.torch  # noqa: F401

    def put(self, model: Any, name: str, folder: Path) -> Any:
        from safetensors.torch import save_file

        path = folder / f"{name}.safetensors"
        path.unlink(missing_ok=True)
        kept: dict[int, str] = {}  # the format refuses tensors that share memory
        aliases = {key: kept.setdefault(t.data_ptr(), key) for key, t in models.tensors(model).items()}
        tensors = {key: t.detach() for key, t in models.tensors(model).items() if aliases[key] == key}
        save_file(tensors, path, {"aliases": json.dumps({a: b for a, b in aliases.items() if a != b})})
        return name, path

    def load(self, put: Any) -> Any:
        from safetensors import safe_open

        name, path = put
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dictionary
            aliases = json.loads(file.metadata()["aliases"])
        return assign(models.outline(name), {**tensors, **{a: tensors[b] for a, b in aliases.items()}})


def assign(model: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Give a model on the meta device its tensors."""
    for part, module in models.modules(model):
        module.load_state_dict({name: tensors[f"{part}.{name}"] for name in module.state_dict()}, assign=True)
        for name, buffer in list(module.named_buffers()):
            if buffer.is_meta:
                owner, _, attribute = name.rpartition(".")
                setattr(module.get_submodule(owner), attribute, tensors[f"{part}.{name}"])
    return model


@dataclass
class Way:
    """A way, with what it needs.

    Attributes:
        title: its name in tables and plots.
        environment: variables of the driver and the workers.
        shared: workers have one copy together; otherwise each has its own.
        driver_copies: how many more copies `put` makes in the driver for a while.
    """

    title: str
    code: Code
    environment: dict[str, str] = field(default_factory=dict)
    shared: bool = True
    driver_copies: int = 0


WAYS = {
    "ours": Way("ray-zerocopy", RayZerocopy()),
    "flag": Way("ray.put, native flag", RayPut(), {"RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1"}),
    "put": Way("ray.put", RayPut(), shared=False, driver_copies=2),
    "mmap": Way("torch.load(mmap)", TorchFile()),
    "safetensors": Way("safetensors", Safetensors()),
    "build": Way("build it again", Build(), shared=False),
    "old": Way("ray-zerocopy 0.2.0", RayZerocopy(), driver_copies=2),
}
