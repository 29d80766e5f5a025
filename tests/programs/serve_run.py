"""A driver that deploys an application and ends: serve_run.py ADDRESS APP SEED [MODEL]

Without MODEL, a name, the service's model is a plain wrapper's; APP ``async`` is an `AsyncService`, any other a `Service`
that scales from 1 to 3 replicas."""

from __future__ import annotations

import sys

import ray
from ray import serve

from ray_zerocopy import ModelWrapper
from serve_apps import AsyncService, Service, model

_, address, app, seed, *name = sys.argv
ray.init(address=address, log_to_driver=False)
naming = {"name": name[0], "lifetime": "detached"} if name else {}
wrapper = ModelWrapper.from_model(model(int(seed)), **naming)
scaling = {
    "min_replicas": 1,
    "max_replicas": 3,
    "target_ongoing_requests": 1,
    "upscale_delay_s": 0,
    "look_back_period_s": 1,
    "metrics_interval_s": 0.2,
    "downscale_delay_s": 600,
}
service = AsyncService if app == "async" else Service.options(autoscaling_config=scaling)
serve.run(service.bind(wrapper), name=app, route_prefix=f"/{app}")
ray.shutdown()
