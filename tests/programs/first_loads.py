"""Three nodes, first loads of one model on all of them at once; a node is added, and one is lost: first_loads.py

Each node has one copy afterwards, and every load has the bits that were put.
"""

from __future__ import annotations

import ray
import torch
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

from ray_zerocopy import ModelWrapper

MB = 1 << 20
LOADS = 8


@ray.remote(num_cpus=0)
class Loader:
    def load(self, wrapper) -> float:
        self.model = wrapper.load(timeout=120)
        return float(self.model.weight.double().sum())


def on_each(wrapper, nodes: list[str]) -> list[float]:
    loaders = [
        Loader.options(scheduling_strategy=On(node, soft=False)).remote() for node in nodes for _ in range(LOADS)
    ]
    sums = ray.get([loader.load.remote(wrapper) for loader in loaders])
    for loader in loaders:
        ray.kill(loader)
    return sums


def copies(wrapper) -> int:
    reference = next(iter(wrapper.model_refs.values()))
    return len(ray.experimental.get_object_locations([reference])[reference]["node_ids"])


def main() -> None:
    cluster = Cluster()
    size = {"num_cpus": 1, "object_store_memory": 150 * MB}
    try:
        head = cluster.add_node(**size, include_dashboard=False)
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        others = [cluster.add_node(**size) for _ in range(2)]
        cluster.wait_for_nodes()
        torch.manual_seed(3)
        model = torch.nn.Linear(2000, 2000)
        expected = float(model.weight.double().sum())
        wrapper = ModelWrapper.from_model(model)
        assert on_each(wrapper, [node.node_id for node in (head, *others)]) == [expected] * 3 * LOADS
        assert copies(wrapper) == 3
        cluster.remove_node(others[0])
        fourth = cluster.add_node(**size)
        cluster.wait_for_nodes()
        assert on_each(wrapper, [fourth.node_id, others[1].node_id]) == [expected] * 2 * LOADS
        print(f"{5 * LOADS} first loads on four nodes, one copy each", flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
