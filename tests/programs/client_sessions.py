"""One process, several connections: through Ray Client twice, then as a driver with a cluster of its own.

An image that the first sends to a detached actor, which owns it, is there for the second.
"""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch

from helpers import connect

ADDRESS = os.environ.pop("RAY_ADDRESS")
connect(ADDRESS, namespace="client_sessions")

from ray_zerocopy import ModelWrapper, errors, image  # noqa: E402  what it declares must not be bound to this connection
from ray_zerocopy.graph import pipeline  # noqa: E402
from ray_zerocopy.stores import client, connection, loading, objects  # noqa: E402


class Counts:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Linear(3000, 2000)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)

    def count(self, upto: int) -> Iterator[int]:
        yield from range(upto)


@torch.no_grad()
def use() -> None:
    original = Counts()
    wrapped = ModelWrapper.for_tasks(original)
    x = torch.ones(1, 3000)
    assert torch.equal(wrapped(x), original(x))
    assert list(wrapped.count(3)) == [0, 1, 2]
    assert torch.equal(wrapped.model(x), original(x))


def fork() -> str:
    """What a forked child says about wrapping a model."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        try:
            ModelWrapper.from_model(Counts())
        except errors.ForkedProcessError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    return os.read(reader, 1000).decode()


class Keeper:
    def __init__(self) -> None:
        self.kept: Any = None

    def keep(self, pieces: client.Pieces) -> None:
        self.kept = client.assemble(pieces)

    def get(self) -> list[Any]:
        return [self.kept]


def is_same(references: list[Any]) -> bool:
    return torch.equal(loading.load(objects.Reference(references[0]))[0].model.weight, Counts().model.weight)


# Ray Client warns of large messages, and of many that carry much, which there never are
warnings.simplefilter("error", UserWarning)

use()
keeper = connection.remote(Keeper, num_cpus=0).options(name="keeper", lifetime="detached").remote()
counts = Counts()
built = image.build(counts, "pipeline", pipeline.named_tensors(counts))
ray.get(keeper.keep.remote(client.send(built.parts, built.carried, built.size)))
earlier = ModelWrapper.from_model(Counts())
ray.shutdown()
with pytest.raises(errors.ImageLostError):
    earlier.model_refs  # noqa: B018

connect(ADDRESS, namespace="client_sessions")
keeper = ray.get_actor("keeper")
assert ray.get(connection.remote(is_same, num_cpus=0).remote(ray.get(keeper.get.remote())))
ray.kill(keeper)
with pytest.raises(errors.ImageLostError):
    pickle.dumps(earlier)
use()
assert "forked" in fork()
use()
ray.shutdown()

ray.init("local", num_cpus=1, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
use()
assert ModelWrapper.from_model(Counts()).load().model.weight.shape == (2000, 3000)
