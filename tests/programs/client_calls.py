"""Through Ray Client: stand-ins are called, in this process and in others."""

from __future__ import annotations

import gc
import inspect
import pickle
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import ray
import torch

from helpers import connect, settles, store_used
from ray_zerocopy import ModelWrapper, errors


class Pipeline:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.encoder = torch.nn.Sequential(torch.nn.Linear(1200, 300), torch.nn.ReLU())
        self.config = {"temperature": 0.5}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x)

    def both(self, x: torch.Tensor, by: float = 2) -> tuple[torch.Tensor, float]:
        """Two results."""
        return self.encoder(x), by

    def count(self, upto: int) -> Iterator[int]:
        yield from range(upto)

    async def count_slowly(self, upto: int) -> AsyncIterator[int]:
        for number in range(upto):
            yield number

    def layers(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        for layer in self.encoder:
            x = layer(x)
            yield x

    def breaks(self) -> Iterator[int]:
        yield 1
        raise KeyError("broken")

    def waits_for(self, event: Any) -> Iterator[int]:
        yield 1
        ray.get(event.wait.remote())
        yield 2

    def fails(self) -> None:
        raise ValueError("no good")


@ray.remote(num_cpus=0, max_concurrency=2)
class Event:
    def __init__(self) -> None:
        self.event = threading.Event()

    def wait(self) -> None:
        self.event.wait()

    def set(self) -> None:
        self.event.set()


@torch.no_grad()
def main() -> None:
    connect()
    torch.set_num_threads(1)  # as many as a task with one CPU has: with more, sums differ in their last bits
    start = store_used()
    pipeline = Pipeline()
    x = torch.randn(4, 1200)
    expected = pipeline(x)
    wrapped = ModelWrapper.for_tasks(pipeline)

    # waited for, not waited for, with options, several at once
    assert torch.equal(wrapped(x), expected)
    assert torch.equal(ray.get(wrapped.remote(x)), expected)
    assert wrapped.both(x, by=3)[1] == 3
    assert torch.equal(wrapped.both(ray.put(x))[0], expected)
    assert torch.equal(wrapped.options(num_cpus=0.5, fresh=True)(x), expected)
    left, right = wrapped.both.options(num_returns=2).remote(x)
    assert torch.equal(ray.get(left), expected)
    assert ray.get(right) == 2
    results = list(wrapped.map([x + number for number in range(6)], max_in_flight=3, progress=True))
    assert all(torch.equal(result, pipeline(x + number)) for number, result in enumerate(results))
    with pytest.raises(ValueError, match="no good"):
        wrapped.fails()
    with pytest.raises(errors.UnpicklableArgumentError, match="argument 0"):
        wrapped(threading.Lock())

    # streams
    assert list(wrapped.count(5)) == [0, 1, 2, 3, 4]
    assert list(wrapped.count_slowly(3)) == [0, 1, 2]
    assert [ray.get(reference) for reference in wrapped.count.remote(3)] == [0, 1, 2]
    assert all(torch.equal(one, two) for one, two in zip(wrapped.layers(ray.put(x)), pipeline.layers(x), strict=True))
    assert list(wrapped.options(num_cpus=0.5).count(2)) == [0, 1]
    assert [list(numbers) for numbers in wrapped.count.map([1, 3, 2])] == [[0], [0, 1, 2], [0, 1]]
    items = wrapped.breaks()
    assert next(items) == 1
    with pytest.raises(KeyError, match="broken"):
        next(items)
    assert list(items) == []
    event = Event.remote()
    items = wrapped.waits_for(event)
    assert next(items) == 1  # before the second is made
    ray.get(event.set.remote())
    assert list(items) == [2]
    abandoned = wrapped.count(1000)
    next(abandoned)
    del abandoned

    # attributes: a model is a stand-in too, a value stays in the cluster
    assert torch.equal(wrapped.encoder(x), expected)
    assert torch.equal(ray.get(wrapped.encoder.forward.remote(x)), expected)
    with pytest.raises(errors.RayClientError, match=r"Reading 'config' of a Pipeline .* Ray Client"):
        _ = wrapped.config
    with pytest.raises(errors.RayClientError, match="'state_dict' of a Sequential"):
        wrapped.encoder.state_dict()
    with pytest.raises(errors.TaskStateError, match="changes a Sequential"):
        wrapped.encoder.train()
    with pytest.raises(errors.TaskStateError, match="cannot be set"):
        wrapped.config = {}
    assert not hasattr(wrapped, "nothing")
    assert {"count", "both", "remote", "map", "options"} <= set(dir(wrapped))
    assert str(inspect.signature(wrapped.both)).startswith("(x: ")
    assert wrapped.both.__doc__ == "Two results."
    assert repr(wrapped) == "<Pipeline, each call a Ray task>"

    # passed on
    @ray.remote(num_cpus=0)
    def elsewhere(wrapped: Any, x: torch.Tensor) -> tuple[torch.Tensor, list[int], Any]:
        return wrapped(x), list(wrapped.count(2)), wrapped.config

    result, numbers, config = ray.get(elsewhere.remote(wrapped, x))
    assert torch.equal(result, expected)
    assert (numbers, config) == ([0, 1], {"temperature": 0.5})
    assert torch.equal(pickle.loads(pickle.dumps(wrapped)).encoder(x), expected)

    # nothing stays behind
    del wrapped, items, event, left, right
    gc.collect()
    assert settles(lambda: store_used() - start < 1 << 20), store_used() - start


main()
