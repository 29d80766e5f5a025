"""Named models on three nodes: the maker's node and the holder's node are removed, a node is added, loads go on."""

from __future__ import annotations

import time

import ray
import torch
from ray.cluster_utils import Cluster

from helpers import Worker, settles
from ray_zerocopy import ModelWrapper, errors
from ray_zerocopy.stores import named

MB = 1 << 20
NODE = {"num_cpus": 1, "object_store_memory": 150 * MB}


def model(value: float) -> torch.nn.Linear:
    made = torch.nn.Linear(2000, 2000)  # 16 MB
    with torch.no_grad():
        made.weight.fill_(value)
    return made


def value_of(name: str) -> float:
    return float(ModelWrapper.get(name).load().weight[0, 0].detach())


def holders(name: str) -> list[str]:
    return next(row["nodes"] for row in named.listed() if row["name"] == name)


def worker_on(place: str):
    return Worker.options(num_cpus=0, resources={place: 0.01}).remote()


cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
second = cluster.add_node(**NODE, resources={"second": 1, "any": 1})
third = cluster.add_node(**NODE, resources={"third": 1, "any": 1})
ray.init(address=cluster.address, log_to_driver=False)
cluster.wait_for_nodes()
head = ray.get_runtime_context().get_node_id()

maker = worker_on("second")
ray.get(maker.run.remote(lambda: ModelWrapper.from_model(model(1), name="put", lifetime="detached") and None))
made = ModelWrapper.from_factory(
    model, 2, name="made", lifetime="detached", num_cpus=0, resources={"second": 0.01}, max_retries=-1
)
assert holders("put") == [head], "a copy that nothing can make again lies where the cluster does"
assert holders("made") == [second.node_id]

others = [worker_on("third"), worker_on("third")]
assert ray.get([each.run.remote(value_of, name) for each in others for name in ("put", "made")]) == [1, 2, 1, 2]
assert set(holders("put")) == {head, third.node_id}  # one copy for two actors

cluster.remove_node(second, allow_graceful=False)  # the maker's node, and the first holder's
assert value_of("put") == 1
assert value_of("made") == 2  # from the third node's copy
assert ray.get([each.run.remote(value_of, name) for each in others for name in ("put", "made")]) == [1, 2, 1, 2]

# a factory's image whose every holder is gone is made again, as soon as a node is there that can
lonely = ModelWrapper.from_factory(model, 3, name="lonely", lifetime="detached", num_cpus=0, resources={"any": 0.01})
assert holders("lonely") == [third.node_id]
cluster.remove_node(third, allow_graceful=False)
fourth = cluster.add_node(**NODE, resources={"fourth": 1, "any": 1})
cluster.wait_for_nodes()
start = time.perf_counter()
assert value_of("lonely") == 3
print(f"made again after the loss of its node in {time.perf_counter() - start:.1f} s")
assert fourth.node_id in holders("lonely")
assert value_of("put") == 1 and value_of("made") == 2
assert ray.get(worker_on("fourth").run.remote(value_of, "put")) == 1

# what its maker goes on owning ends with its maker's node
keeping = worker_on("fourth")
ray.get(keeping.run.remote(lambda: ModelWrapper.from_model(model(4), name="bound") and None))
assert value_of("bound") == 4
cluster.remove_node(fourth, allow_graceful=False)
assert settles(lambda: "bound" not in [row["name"] for row in named.listed()], 60)
try:
    ModelWrapper.get("bound")
except errors.ModelNotFoundError:
    pass
else:
    raise AssertionError("a model without an owner has a name")
for row in named.listed():
    ModelWrapper.delete(row["name"])
ray.shutdown()
cluster.shutdown()
