"""The ways to get one model into many Ray workers: what `put` makes in the driver, `load` turns into a model in a
worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ray
import torch

from ray_zerocopy import ModelWrapper


class RayZerocopy:
    """This project."""

    def put(self, model: torch.nn.Module) -> Any:
        return ModelWrapper.from_model(model)

    def load(self, put: Any) -> torch.nn.Module:
        return put.load()


class RayPut:
    """``ray.put(model)``, ``ray.get`` in the worker."""

    def put(self, model: torch.nn.Module) -> Any:
        return [ray.put(model)]  # in a list, or Ray would get it before the worker's clock starts

    def load(self, put: Any) -> torch.nn.Module:
        return ray.get(put[0])


@dataclass
class Way:
    """A way, with the environment variables that it needs."""

    title: str
    code: Any
    environment: dict[str, str] = field(default_factory=dict)


WAYS = {
    "ours": Way("ray-zerocopy", RayZerocopy()),
    "flag": Way("ray.put, native flag", RayPut(), {"RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1"}),
    "put": Way("ray.put", RayPut()),
}
