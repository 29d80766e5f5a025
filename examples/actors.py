"""Four Ray actors, one copy of the model; training in one changes nothing for the others.

python examples/actors.py
"""

from __future__ import annotations

import ray
import torch

from ray_zerocopy import ModelWrapper


class Pipeline:
    """Two models and a configuration, as an application would have them."""

    def __init__(self) -> None:
        self.encoder = torch.nn.Sequential(torch.nn.Linear(512, 2048), torch.nn.ReLU()).eval()
        self.decoder = torch.nn.Linear(2048, 10).eval()
        self.config = {"temperature": 0.7}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(x)) / self.config["temperature"]


@ray.remote
class InferenceActor:
    """Loads the pipeline over the one copy of its weights on this node."""

    def __init__(self, model_wrapper: ModelWrapper[Pipeline]) -> None:
        self.pipeline = model_wrapper.load()

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.pipeline(x)

    def train_one_step(self, x: torch.Tensor) -> None:
        optimizer = torch.optim.SGD(self.pipeline.decoder.parameters(), lr=0.1)
        self.pipeline(x).square().sum().backward()
        optimizer.step()


def main() -> None:
    """Run the example."""
    ray.init(address="local", num_cpus=4, object_store_memory=200_000_000, include_dashboard=False)
    pipeline = Pipeline()
    wrapper = ModelWrapper.from_model(pipeline, mode="actor")
    actors = [InferenceActor.remote(wrapper) for _ in range(4)]

    x = torch.randn(8, 512)
    with torch.no_grad():
        expected = pipeline(x)
    for answer in ray.get([actor.predict.remote(x) for actor in actors]):
        torch.testing.assert_close(answer, expected)
    print("four actors agree with the original")

    ray.get(actors[0].train_one_step.remote(x))
    changed, *others = ray.get([actor.predict.remote(x) for actor in actors])
    assert not torch.allclose(changed, expected)
    for answer in others:
        torch.testing.assert_close(answer, expected)
    print("one actor trained, the other three did not notice")
    ray.shutdown()


if __name__ == "__main__":
    main()
