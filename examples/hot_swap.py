"""A new version of a model takes over in running services: no restart, no failed request, never two versions in one
answer.

python examples/hot_swap.py
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import ray
import torch
from ray import serve

from ray_zerocopy import ModelWrapper


class Newest:
    """The newest version of a named model, in a process that goes on while new ones are published.

    `current` is the version's number and the model, always of each other: take both, or the model, once per request.
    """

    def __init__(self, name: str, period: float | None = None) -> None:
        """
        Args:
            name: the model's. Not a wrapper: that is one version, which may be gone when this process is started again.
            period: seconds between two looks for a newer version; None: only `refresh` looks.
        """
        self._lock = threading.Lock()
        self._wrapper = ModelWrapper.get(name)
        self.current = self._wrapper.version, self._wrapper.load(prefault=True)
        if period is not None:
            threading.Thread(target=self._follow, args=[period], daemon=True).start()

    def refresh(self) -> None:
        """Load the newest version, if this is another one, and change over; calls go on meanwhile."""
        with self._lock:
            newest = self._wrapper.latest()  # takes a millisecond
            if newest is not self._wrapper:
                self.current = newest.version, newest.load(prefault=True)
                self._wrapper = newest

    def _follow(self, period: float) -> None:
        while True:
            time.sleep(period)
            try:
                self.refresh()
            except Exception:  # the model was deleted, or the cluster has other worries: go on with what is loaded
                logging.exception("there is no newer version to be had")


@ray.remote(num_cpus=0.1, max_restarts=-1)
class Follower:
    """An actor that looks for a newer version by itself."""

    def __init__(self, name: str, period: float = 1.0) -> None:
        self.newest = Newest(name, period)

    def version(self) -> int | None:
        """The version that answers now: who has published one can wait for it."""
        return self.newest.current[0]

    def __call__(self, x: list[float]) -> list[float]:
        """Answer."""
        _, model = self.newest.current
        with torch.no_grad():
            return model(torch.tensor(x)).tolist()


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Service:
    """A deployment that takes the newest version when its user_config changes, or (period) by itself.

    Once the application is RUNNING again, all replicas have it.
    """

    def __init__(self, name: str, period: float | None = None) -> None:
        self.newest = Newest(name, period)

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Serve calls this in the running replicas when a configuration is deployed of which only this has changed."""
        self.newest.refresh()

    def version(self) -> int | None:
        """The version that answers now."""
        return self.newest.current[0]

    def __call__(self, x: list[float]) -> list[float]:
        _, model = self.newest.current
        with torch.no_grad():
            return model(torch.tensor(x)).tolist()


def app(args: dict[str, str]) -> serve.Application:
    """For a configuration:

    applications:
      - name: hot-swap
        import_path: hot_swap:app
        args: {model: encoder}
        deployments:
          - name: Service
            user_config: {version: 1}  # count up and `serve deploy` again, once the model is published
    """
    return Service.bind(args["model"])


def publish(value: float) -> ModelWrapper[torch.nn.Module]:
    """The next version of a model, as a job that trains it would."""
    model = torch.nn.Linear(512, 512)
    torch.nn.init.constant_(model.weight, value)
    torch.nn.init.zeros_(model.bias)
    return ModelWrapper.from_model(model, name="encoder", lifetime="detached", replace=True)


def main() -> None:
    """Run the example."""
    ray.init(address="local", num_cpus=4, object_store_memory=200_000_000, include_dashboard=False)
    publish(1.0)
    follower = Follower.remote("encoder", period=0.2)
    handle = serve.run(Service.bind("encoder", period=0.2), route_prefix=None)
    x = [1.0] * 512
    for version in 1, 2, 3:
        if version > 1:
            publish(float(version))
        while ray.get(follower.version.remote()) != version or handle.version.remote().result() != version:
            time.sleep(0.1)
        assert ray.get(follower.__call__.remote(x)) == [512.0 * version] * 512
        assert handle.remote(x).result() == [512.0 * version] * 512
    print("three versions answered in turn, and nothing was restarted")
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
