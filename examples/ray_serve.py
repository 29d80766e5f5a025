"""A Ray Serve deployment of two replicas over one copy of the model.

python examples/ray_serve.py
"""

from __future__ import annotations

import ray
import torch
from ray import serve

from ray_zerocopy import ModelWrapper


@serve.deployment(num_replicas=2)
class Classifier:
    """Each replica loads the model over the same memory."""

    def __init__(self, model_wrapper: ModelWrapper[torch.nn.Module]) -> None:
        self.model = model_wrapper.load(prefault=True)  # pay for the page tables now, not in the first request

    def __call__(self, x: list[float]) -> int:
        with torch.no_grad():
            return int(self.model(torch.tensor(x)).argmax())


def main() -> None:
    """Run the example."""
    ray.init(num_cpus=4, object_store_memory=200_000_000, include_dashboard=False)
    model = torch.nn.Sequential(torch.nn.Linear(16, 4096), torch.nn.ReLU(), torch.nn.Linear(4096, 5)).eval()
    handle = serve.run(Classifier.bind(ModelWrapper.from_model(model)), route_prefix=None)
    for seed in range(4):
        x = torch.randn(16, generator=torch.Generator().manual_seed(seed))
        assert handle.remote(x.tolist()).result() == int(model(x).argmax())
    print("two replicas answer as the original does")
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
