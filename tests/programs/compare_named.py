"""A job that loads a pipeline by name: compare_named.py ADDRESS NAME"""

from __future__ import annotations

import sys

import ray

import zoo
from compare import assert_same
from ray_zerocopy import ModelWrapper

_, address, name = sys.argv
ray.init(address=address, log_to_driver=False)
assert_same(zoo.seeded_pipeline(), ModelWrapper.get(name).load())
print("equal")
ray.shutdown()
