"""A driver that deploys one application again and again: serve_again.py ADDRESS replace|get_if_exists TIMES

Prints how many images the store holds at the end."""

from __future__ import annotations

import json
import sys

import ray
from ray import serve

from helpers import allocated, settles
from ray_zerocopy import ModelWrapper
from serve_apps import Service, model

_, address, way, times = sys.argv
ray.init(address=address, log_to_driver=False)
before = allocated()
for seed in range(int(times)):
    wrapper = ModelWrapper.from_model(model(seed), name=f"again-{way}", lifetime="detached", **{way: True})
    serve.run(Service.bind(wrapper), name=f"again-{way}", route_prefix=f"/again-{way}")


def images() -> float:
    return (allocated() - before) / wrapper.nbytes


settles(lambda: images() < 1.3)
print(json.dumps({"images": images(), "version": wrapper.version}))
serve.delete(f"again-{way}")
wrapper.delete()
ray.shutdown()
