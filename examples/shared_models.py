"""A model that several jobs share: whoever comes first has it made, all others use it, and it stays when they end.

python examples/shared_models.py
"""

from __future__ import annotations

import subprocess
import sys

import ray
import torch

from ray_zerocopy import ModelWrapper


def make_encoder(width: int) -> torch.nn.Module:
    """Stands for minutes of downloading and building; runs in a task of its own, once for the whole cluster."""
    torch.manual_seed(0)
    print("building the encoder")
    return torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.Tanh(), torch.nn.Linear(width, 8)).eval()


@ray.remote(num_cpus=0.5)
class Encoder:
    """Needs no wrapper from anybody: the name is enough."""

    def __init__(self) -> None:
        self.wrapper = ModelWrapper.from_factory(
            make_encoder, 1024, name="encoder", lifetime="detached", get_if_exists=True, num_cpus=0.5
        )
        self.model = self.wrapper.load()

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of the encoding."""
        with torch.no_grad():
            return self.model(x).sum()

    def version(self) -> int | None:
        """The version in use: 1 as long as nobody had it made again."""
        return self.wrapper.version


def job(address: str) -> None:
    """One job with two actors."""
    ray.init(address=address)
    actors = [Encoder.remote() for _ in range(2)]
    results = ray.get([actor.encode.remote(torch.ones(1024)) for actor in actors])
    versions = ray.get([actor.version.remote() for actor in actors])
    print(f"version {versions}, results {[round(float(result), 4) for result in results]}")
    ray.shutdown()


def main() -> None:
    """Run the example: a cluster, and two jobs in it, one after the other."""
    ray.init(address="local", num_cpus=2, object_store_memory=200_000_000, include_dashboard=False)
    address = ray.get_runtime_context().gcs_address
    outputs = [
        subprocess.run([sys.executable, __file__, address], check=True, stdout=subprocess.PIPE, text=True).stdout
        for _ in range(2)
    ]
    said = [[line for line in output.splitlines() if line.startswith("version")] for output in outputs]
    assert said[0] == said[1] != [], said
    ModelWrapper.get("encoder")  # still here, though both jobs have ended
    ModelWrapper.delete("encoder")  # until somebody deletes it
    print("two jobs used one model, which was built once")
    ray.shutdown()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        job(sys.argv[1])
    else:
        main()
