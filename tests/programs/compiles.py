"""Load a model from a file, and once another file is there, have torch.compile compile it: how often, and the output."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from ray_zerocopy import ModelWrapper

path, go = sys.argv[1:]
model = ModelWrapper.open(path).load()
import torch._inductor.compile_fx  # noqa: E402  # takes seconds, and not the same time in each process

x = torch.linspace(-1, 1, 4 * 64).reshape(4, 64)
print("ready", flush=True)
while not Path(go).exists():
    time.sleep(0.001)
with torch.no_grad():
    output = model(x)
from torch._dynamo.utils import counters  # noqa: E402

compiled = counters["inductor"]["fxgraph_cache_miss"]
assert compiled + counters["inductor"]["fxgraph_cache_hit"] + counters["aot_autograd"]["autograd_cache_hit"] >= 1
print(json.dumps({"compiled": compiled, "output": output.numpy().tobytes().hex()}))
