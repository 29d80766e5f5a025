"""A process that forked after loading the Go core never hangs: loaded models work, and a load raises the typed error."""

from __future__ import annotations

import pytest

from helpers import run_script

DATA_LOADER = """
import torch
from helpers import ray_cluster
from ray_zerocopy import ModelWrapper

class Encoded(torch.utils.data.Dataset):
    def __init__(self, model):
        self.model = model
    def __len__(self):
        return 16
    def __getitem__(self, i):
        with torch.no_grad():
            return self.model(torch.full((300,), float(i)))

torch.set_num_threads(1)
with ray_cluster():
    model = torch.nn.Linear(300, 4)
    loaded = ModelWrapper.from_model(model).load()
    batches = torch.cat(list(torch.utils.data.DataLoader(Encoded(loaded), batch_size=4, num_workers=2)))
    expected = torch.stack([Encoded(model)[i] for i in range(16)])
    assert torch.equal(batches, expected)
    assert torch.equal(loaded.weight, model.weight)
"""

LOAD_IN_CHILD = """
import os, sys, torch
from helpers import ray_cluster
from ray_zerocopy import ModelWrapper, errors

def in_child(action):
    child = os.fork()
    if not child:
        try:
            action()
        except errors.ForkedProcessError as error:
            os._exit(7 if "spawn" in str(error) else 1)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

with ray_cluster():
    model = torch.nn.Linear(300, 300)
    wrapper = ModelWrapper.from_model(model)
    loaded = wrapper.load()
    assert in_child(wrapper.load) == 7
    assert in_child(lambda: ModelWrapper.from_model(model)) == 7

    def drop():
        global loaded
        del loaded  # its mapping goes without a call into Go

    assert in_child(drop) == 0

    def write():
        with torch.no_grad():
            loaded.weight.zero_()
        assert not loaded.weight.any()

    assert in_child(write) == 0
    assert torch.equal(loaded.weight, model.weight)
"""

FORK_WITHOUT_RAY = """
import os, torch
from ray_zerocopy import core, errors
core._call("FormatVersion")
child = os.fork()
if not child:
    try:
        core._call("FormatVersion")
    except errors.ForkedProcessError:
        os._exit(7)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""

FORK_FIRST = """
import os, torch
import ray_zerocopy
from helpers import ray_cluster
child = os.fork()
if not child:
    with ray_cluster():
        model = torch.nn.Linear(300, 300)
        loaded = ray_zerocopy.ModelWrapper.from_model(model).load()
        os._exit(0 if torch.equal(loaded.weight, model.weight) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_a_data_loader_with_workers_uses_a_loaded_model():
    run_script(DATA_LOADER)


def test_load_and_put_in_a_forked_child_raise_and_loaded_models_work():
    run_script(LOAD_IN_CHILD)


def test_the_core_refuses_calls_in_a_forked_child():
    run_script(FORK_WITHOUT_RAY)


def test_a_fork_before_the_first_use_is_no_problem():
    run_script(FORK_FIRST)


@pytest.mark.parametrize("what", ["a_loaded_model", "a_wrapper_and_a_stand_in", "refusals", "during_a_load"])
def test_what_a_forked_child_drops_its_parent_does_not_lose(what):
    run_script("programs/forked_children.py", what)
