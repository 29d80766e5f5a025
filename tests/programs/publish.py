"""A job that publishes a pipeline and ends: publish.py ADDRESS NAME LIFETIME"""

from __future__ import annotations

import sys

import ray

import zoo
from ray_zerocopy import ModelWrapper

_, address, name, lifetime = sys.argv
ray.init(address=address, log_to_driver=False, namespace="another")
ModelWrapper.from_model(zoo.seeded_pipeline(), name=name, lifetime=None if lifetime == "None" else lifetime)
ray.shutdown()
