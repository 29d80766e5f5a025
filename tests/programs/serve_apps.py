"""Applications of Ray Serve that tests deploy, by `serve deploy` and by drivers."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from ray import serve
from ray.serve import Application
from starlette.requests import Request

from ray_zerocopy import ModelWrapper

SIZE = 1024


def model(seed: int, size: int = SIZE) -> torch.nn.Linear:
    """A model of whole numbers: its outputs are exact, whatever the order of the sums and the number of threads."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.nn.Linear(size, size)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randint(-8, 9, parameter.shape, generator=generator))
    return made


def answer(model: torch.nn.Module, x: int) -> str:
    """The bits of a model's output."""
    with torch.no_grad():
        return model(torch.arange(x, x + SIZE).float()).numpy().tobytes().hex()


def private_mappings() -> int:
    """How many models this process has mapped."""
    return sum("rw-p" in line and "plasma" in line for line in Path("/proc/self/maps").read_text().splitlines())


class Base:
    """Answers ``?x=`` and says which process it is."""

    model: torch.nn.Module

    def __call__(self, request: Request) -> dict[str, Any]:
        time.sleep(float(request.query_params.get("sleep", 0)))
        return {"y": answer(self.model, int(request.query_params["x"])), "pid": os.getpid()}


@serve.deployment(ray_actor_options={"num_cpus": 0.1}, graceful_shutdown_timeout_s=1, max_constructor_retry_count=2)
class Service(Base):
    def __init__(self, wrapper: ModelWrapper[torch.nn.Linear]) -> None:
        self.model = wrapper.load()


@serve.deployment(ray_actor_options={"num_cpus": 0.1}, graceful_shutdown_timeout_s=1)
class AsyncService:
    """Loads on the event loop, in its constructor and (three models, two at most at a time) in a request."""

    def __init__(self, wrapper: ModelWrapper[torch.nn.Linear]) -> None:
        self.model = wrapper.load(prefault=True)

    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, name: str) -> torch.nn.Module:
        return ModelWrapper.get(name).load()

    async def __call__(self, request: Request) -> dict[str, Any]:
        name = serve.get_multiplexed_model_id()
        model = await self.get_model(name) if name else self.model
        return {"y": answer(model, int(request.query_params["x"])), "mapped": private_mappings(), "pid": os.getpid()}


# --- builders, whose arguments stand in the configuration -----------------------------------------------


def plain(args: dict[str, Any]) -> Application:
    """The mistake: the image belongs to the process that builds the application, which ends."""
    return Service.bind(ModelWrapper.from_model(model(int(args["seed"]))))


def named(args: dict[str, Any]) -> Application:
    wrapper = ModelWrapper.from_model(
        model(int(args["seed"])), name=args["name"], lifetime="detached", get_if_exists=True
    )
    return Service.bind(wrapper)


def factory(args: dict[str, Any]) -> Application:
    wrapper = ModelWrapper.from_factory(
        model, int(args["seed"]), name=args["name"], lifetime="detached", get_if_exists=True, num_cpus=0.1
    )
    return Service.bind(wrapper)
