"""Through Ray Client: a connection that is lost in the middle of sending, since one of its ends dies."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch

from helpers import actor_processes, connect, settles, store_used
from ray_zerocopy import ModelWrapper
from ray_zerocopy.stores import client


class Pid:
    """Unpickled by the client's driver in the cluster, the process id of that."""

    def __reduce__(self) -> Any:
        return os.getpid, ()


def nothing_is_left() -> bool:
    return store_used() < 1 << 20 and not actor_processes("Collector", os.environ["CLUSTER_FOLDER"])


connect()
driver = ray.get(ray.put(Pid()))
assert settles(nothing_is_left, 40)  # of a process before this one
cut = client._cut


def ends_early(parts: Any) -> Iterator[Any]:
    for number, piece in enumerate(cut(parts)):
        if number == 4:
            assert actor_processes("Collector", os.environ["CLUSTER_FOLDER"])
            os.kill({"client": os.getpid(), "server": driver}[sys.argv[1]], signal.SIGKILL)
        yield piece


client._cut = ends_early
with pytest.raises(ConnectionError) as caught:
    ModelWrapper.from_model(torch.nn.Linear(4000, 4000, bias=False))
print(type(caught.value).__name__, caught.value)
client._cut = cut
ray.shutdown()
connect()
assert settles(nothing_is_left, 40)
