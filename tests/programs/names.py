"""Named models, from outside: names.py ADDRESS [publish NAME SEED ... | delete [NAME ...] | end APPLICATION ...]

Prints the bytes in the store before and after, and the models' names and versions; without names, all are deleted."""

from __future__ import annotations

import json
import sys

import ray
from ray import serve

from helpers import allocated, settles
from ray_zerocopy import ModelWrapper
from ray_zerocopy.stores import named
from serve_apps import model

_, address, *words = sys.argv
ray.init(address=address, log_to_driver=False)
before = allocated()
verb, words = words[:1], words[1:]
if verb == ["publish"]:
    for name, seed in zip(words[::2], words[1::2], strict=True):
        ModelWrapper.from_model(model(int(seed)), name=name, lifetime="detached")
if verb == ["delete"]:
    image = max(row["nbytes"] for row in named.listed())
    for name in words or [row["name"] for row in named.listed()]:
        ModelWrapper.delete(name)
    settles(lambda: allocated() < before - image // 2, 10)
if verb == ["end"]:
    for name in words:
        serve.delete(name)
models = {row["name"]: row["version"] for row in named.listed()}
print(json.dumps({"before": before, "after": allocated(), "models": models}))
ray.shutdown()
