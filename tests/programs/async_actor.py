"""Loads in an async actor, whose log goes to this program's output."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import ray
import torch

from ray_zerocopy import ModelWrapper, errors
from ray_zerocopy.stores.objects import Reference

ray.init(address="local", num_cpus=2, object_store_memory=100 << 20, include_dashboard=False)


def first(model) -> float:
    return model.weight[0, 0].item()


@ray.remote(num_cpus=0)
class Service:
    async def run(self, wrapper: ModelWrapper, slow: ModelWrapper, standin) -> list[float]:
        print("the log is here", flush=True)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        found = [first(wrapper.load())]
        found.append(first(await wrapper.load_async(prefault=True)))
        found.append(first(standin))
        found.append(float(standin(torch.ones(300)).shape[0]))
        before, start = ticks, time.monotonic()
        try:
            await slow.load_async(timeout=0.5)
        except errors.LoadTimeoutError as error:
            assert error.seconds == 0.5
        else:
            raise AssertionError("no LoadTimeoutError")
        assert 0.4 < time.monotonic() - start < 5
        assert ticks - before > 10, "the event loop stood still"
        ticking.cancel()
        assert not ray._private.worker.blocking_get_inside_async_warned
        return found


@ray.remote(num_cpus=0)
def never() -> None:
    time.sleep(100)


model = torch.nn.Linear(300, 300)
wrapper = ModelWrapper.from_model(model)
fields = wrapper.serialize()
outline = dataclasses.replace(fields["skeleton"], image=Reference(never.remote()))
slow = ModelWrapper.deserialize(**{**fields, "skeleton": outline})
try:
    slow.load(timeout=0.2)
except errors.LoadTimeoutError as error:
    assert isinstance(error, TimeoutError)
    assert "0.2 s" in str(error)
else:
    raise AssertionError("no LoadTimeoutError")
service = Service.remote()
expected = first(model)
found = ray.get(service.run.remote(wrapper, slow, ModelWrapper.for_tasks(model)))
assert found == [expected, expected, expected, 300.0], found
time.sleep(1)  # until the log has come
