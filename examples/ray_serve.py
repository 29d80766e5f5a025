"""A Ray Serve deployment of two replicas over one copy of the model, which go on when the program that deployed them
has ended, and come back when they are killed.

python examples/ray_serve.py
"""

from __future__ import annotations

import os
import signal

import ray
import torch
from ray import serve

from ray_zerocopy import ModelWrapper


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.1})
class Classifier:
    """Each replica loads the model over the same memory, whenever it starts."""

    def __init__(self, model_wrapper: ModelWrapper[torch.nn.Module]) -> None:
        self.model = model_wrapper.load(prefault=True)  # pay for the page tables now, not in the first request

    def __call__(self, x: list[float]) -> tuple[int, int]:
        with torch.no_grad():
            return int(self.model(torch.tensor(x)).argmax()), os.getpid()


def make_model() -> torch.nn.Module:
    """A classifier of random weights, always the same ones."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(16, 4096), torch.nn.ReLU(), torch.nn.Linear(4096, 5)).eval()


# What `serve deploy` and `serve run ray_serve:app` call. A model without a name would end with the process that runs
# this, long before the replicas do.
def app(args: dict[str, str]) -> serve.Application:
    """The application: the first that asks publishes the model, and all others use it."""
    wrapper = ModelWrapper.from_model(
        make_model(), name=args.get("model", "classifier"), lifetime="detached", get_if_exists=True
    )
    return Classifier.bind(wrapper)


def main() -> None:
    """Run the example."""
    ray.init(address="local", num_cpus=4, object_store_memory=200_000_000, include_dashboard=False)
    handle = serve.run(app({}), route_prefix=None)
    model = make_model()
    replicas: set[int] = set()
    for restarted in (False, True):
        if restarted:
            for pid in replicas:
                os.kill(pid, signal.SIGKILL)
        seen: set[int] = set()
        while len(seen - replicas) < 2:
            x = torch.randn(16)
            try:
                answer, pid = handle.remote(x.tolist()).result()
            except ray.exceptions.RayError:
                assert restarted  # the request was in a replica that was killed
                continue
            assert answer == int(model(x).argmax())
            seen.add(pid)
        replicas = seen
    print("two replicas answer as the original does, also after they were killed and started again")
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
