"""``RAY_ZEROCOPY_COMPILE_TURNS``: of processes that torch.compile the same graph at once, one compiles."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from helpers import HERE, run_script
from ray_zerocopy import ModelWrapper, errors, settings


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(64, 64), torch.nn.Linear(64, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.nn.functional.gelu(self.first(x)))


PROGRAM = str(HERE / "programs" / "compiles.py")


@pytest.fixture
def path(tmp_path):
    model = Net().eval()
    model.compile()  # before it is wrapped
    return ModelWrapper.to_file(model, tmp_path / "model.rzc")._skeleton.image.path


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_one_compiles_and_the_others_take_it(path, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv(settings.COMPILE_TURNS, "1")
    command = [sys.executable, PROGRAM, path, str(tmp_path / "go")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for each in running:
        assert each.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()  # all at once
    got = [json.loads(each.communicate(timeout=300)[0]) for each in running]
    assert [each.returncode for each in running] == [0, 0, 0]
    assert sorted(each["compiled"] for each in got) == [0, 0, 1]
    assert len({each["output"] for each in got}) == 1
    assert not list((tmp_path / "cache" / "ray-zerocopy-turns").iterdir())


def test_off_unless_it_is_asked_for(path, monkeypatch):
    script = f"""
import torch
from ray_zerocopy import ModelWrapper
before = torch._TorchCompileInductorWrapper.__call__
ModelWrapper.open({path!r}).load()
assert torch._TorchCompileInductorWrapper.__call__ is before
"""
    run_script(script)
    monkeypatch.setenv(settings.COMPILE_TURNS, "yes")
    with pytest.raises(errors.SettingError, match="RAY_ZEROCOPY_COMPILE_TURNS='yes' is unknown"):
        ModelWrapper.open(path).load()
