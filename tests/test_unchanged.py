"""A put and a load change nothing global and print nothing; Ray's own tensor flag makes no difference."""

from __future__ import annotations

import pytest

from helpers import run_script

GLOBAL_STATE = """
import io, os, sys, contextlib, random, warnings, logging, signal, gc
import numpy as np, torch
from helpers import ray_cluster
import zoo

with ray_cluster():
    model, _ = zoo.ZOO["bert"]()
    pipeline, _ = zoo.ZOO["quantized_tensors"]()
    import ray, ray_zerocopy

    def state():
        return dict(
            filters=list(warnings.filters), dtype=torch.get_default_dtype(), threads=torch.get_num_threads(),
            interop=torch.get_num_interop_threads(), cwd=os.getcwd(), environ=dict(os.environ), grad=torch.is_grad_enabled(),
            inference=torch.is_inference_mode_enabled(), rng=torch.get_rng_state().tolist(), random=random.getstate(),
            numpy=np.random.get_state()[1].tolist(), path=list(sys.path), argv=list(sys.argv), gc=gc.isenabled(),
            sharing=torch.multiprocessing.get_sharing_strategy(), level=logging.getLogger().level,
            signals=[signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGSEGV)],
            recursion=sys.getrecursionlimit(), umask=os.umask(os.umask(0o22)) or os.umask(0o22),
        )

    before = state()
    errors, output = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
        for thing in (model, pipeline):
            ray_zerocopy.ModelWrapper.from_model(thing).load()
    after = state()
    for name in before:
        assert before[name] == after[name], (name, before[name], after[name])
    assert errors.getvalue() == output.getvalue() == "", errors.getvalue() + output.getvalue()
"""

FLAG = """
import ray, torch, warnings
import zoo
from compare import assert_same
from helpers import Worker, ray_cluster
from ray_zerocopy import ModelWrapper

def check(name, wrapper):
    assert_same(zoo.ZOO[name]()[0], wrapper.load())

with ray_cluster(runtime_env={"env_vars": {"RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": FLAG}}):
    worker = Worker.options(num_cpus=0).remote()
    for name in ("bert", "transposed_expanded_and_strided", "sparse", "complex_and_conjugate_views", "tied_weights", "quantized_tensors"):
        original, _ = zoo.ZOO[name]()
        wrapper = ModelWrapper.from_model(original)
        assert_same(original, wrapper.load())
        ray.get(worker.run.remote(check, name, wrapper))
"""

MAIN_CLASSES = """
import ray, torch
from compare import assert_same
from helpers import Worker, ray_cluster
from ray_zerocopy import ModelWrapper

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = torch.nn.Linear(300, 300)
    def forward(self, x):
        return self.helper(self.fc(x))
    def helper(self, x):
        return x + offset

offset = torch.arange(300.0)

class Pipeline:
    factor = 3
    def __init__(self):
        self.net = Net()
    def __call__(self, x):
        return self.net(x) * self.factor

with ray_cluster():
    pipeline = Pipeline()
    wrapper = ModelWrapper.from_model(pipeline)
    loaded = wrapper.load()
    assert type(loaded) is Pipeline and type(loaded.net) is Net
    assert_same(pipeline, loaded)
    x = torch.ones(300)
    there = ray.get(Worker.options(num_cpus=0).remote().run.remote(lambda w: w.load()(x).detach(), wrapper))
    assert torch.equal(there, pipeline(x))
"""


def test_nothing_global_changes_and_nothing_is_printed():
    run_script(GLOBAL_STATE)


@pytest.mark.parametrize("flag", ["0", "1"])
def test_rays_own_tensor_flag_makes_no_difference(flag):
    run_script(FLAG.replace("FLAG", repr(flag)), RAY_ENABLE_ZERO_COPY_TORCH_TENSORS=flag)


def test_classes_of_the_main_script_travel_with_the_pipeline(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(MAIN_CLASSES)
    run_script(str(script))
