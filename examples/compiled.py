"""Batch inference with Ray Data and a compiled model: compiled once, run by four actors over one copy of the weights.

python examples/compiled.py    (needs a C++ compiler)
"""

from __future__ import annotations

import numpy as np
import ray
import torch
from ray.data import ActorPoolStrategy

from ray_zerocopy import CompiledModel, ModelWrapper


class InferenceActor:
    """What Ray Data runs on each batch."""

    def __init__(self, model_wrapper: ModelWrapper[CompiledModel]) -> None:
        self.model = model_wrapper.load()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        batch["score"] = self.model(torch.from_numpy(batch["data"])).numpy()
        return batch


def main() -> None:
    """Run the example."""
    ray.init(address="local", num_cpus=4, object_store_memory=200_000_000, include_dashboard=False)
    model = torch.nn.Sequential(torch.nn.Linear(64, 4096), torch.nn.GELU(), torch.nn.Linear(4096, 3)).eval()
    rows = torch.export.Dim("rows", min=2, max=100)
    model_wrapper = ModelWrapper.from_model(
        model, compile=(torch.ones(100, 64),), dynamic_shapes={"input": {0: rows}}, fallback="eager"
    )

    ds = ray.data.from_numpy(np.random.default_rng(0).standard_normal((1000, 64), dtype=np.float32))
    scored = ds.map_batches(
        InferenceActor,
        fn_constructor_kwargs={"model_wrapper": model_wrapper},
        compute=ActorPoolStrategy(size=4),
        batch_size=100,
    ).take_all()

    x = torch.from_numpy(np.stack([row["data"] for row in scored]))
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(torch.from_numpy(np.stack([row["score"] for row in scored])), expected)
    print(f"{len(scored)} rows scored by 4 actors that compiled nothing")
    ray.shutdown()


if __name__ == "__main__":
    main()
