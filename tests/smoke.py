"""Whether an installed wheel works with this Python, torch and Ray: put, load in two actors, write, call in tasks, name.

Exit code 0 if so."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import ray
import torch

import ray_zerocopy


class Pipeline:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.encoder = torch.nn.Linear(512, 512)
        self.decoder = torch.nn.Linear(512, 512).bfloat16()
        self.decoder.register_buffer("quantized", torch.quantize_per_tensor(torch.randn(9), 0.1, 0, torch.qint8))
        self.decoder.register_buffer("float8", torch.randn(9).to(torch.float8_e4m3fn))
        self.decoder.register_buffer("wide", torch.arange(9).to(torch.uint16))
        self.orthogonal = torch.nn.utils.parametrizations.orthogonal(torch.nn.Linear(4, 4))
        self.tied = self.encoder
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that TorchScript is deprecated
            self.scripted = torch.jit.freeze(torch.jit.script(torch.nn.Linear(300, 300).eval()))
            self.exported = torch.export.export(self.encoder, (torch.ones(2, 512),))

    def encode(self, x: torch.Tensor, *, times: int = 1) -> torch.Tensor:
        return self.encoder(x) * times

    def stream(self, count: int) -> Iterator[int]:
        yield from range(count)

    def mappings(self) -> str:
        return "/proc/" + os.readlink("/proc/self") + "/maps"


@ray.remote(num_cpus=0)
class Actor:
    def __init__(self, wrapper: ray_zerocopy.ModelWrapper[Pipeline]) -> None:
        self.pipeline = wrapper.load()

    def digest(self) -> list[bytes]:
        return digest(self.pipeline)

    def write(self) -> None:
        with torch.no_grad():
            self.pipeline.encoder.weight.zero_()


def digest(pipeline: Pipeline) -> list[bytes]:
    models = (pipeline.encoder, pipeline.decoder, pipeline.orthogonal)
    scripted = pipeline.scripted(torch.ones(2, 300))
    exported = pipeline.exported.module()(torch.ones(2, 512))  # over the encoder's weights
    answer = b"".join(output.detach().numpy().tobytes() for output in (scripted, exported))
    found = [bytes(t.untyped_storage().tolist()) for m in models for t in (*m.parameters(), *m.buffers())]
    return [*found, answer, b"tied" if pipeline.tied is pipeline.encoder else b"untied"]


@ray.remote(num_cpus=0)
class ByName:
    def digest(self, name: str) -> list[bytes]:
        return digest(ray_zerocopy.ModelWrapper.get(name).load())


def share_in_files(pipeline: Pipeline) -> None:
    """A model in a file, one that shares weights with it, and the tensors by name."""
    with tempfile.TemporaryDirectory() as folder:
        path, child = os.path.join(folder, "model.rzc"), os.path.join(folder, "child.rzc")
        wrapper = ray_zerocopy.ModelWrapper.to_file(pipeline, path)
        wrapper.verify()
        assert digest(ray_zerocopy.ModelWrapper.open(path).load()) == digest(pipeline)
        wrapper.save(child, share_with=wrapper)
        assert os.path.getsize(child) < os.path.getsize(path) / 2
        assert digest(ray_zerocopy.ModelWrapper.open(child).load(verify=True)) == digest(pipeline)
        assert torch.equal(wrapper.tensors()["encoder.weight"], pipeline.encoder.weight)
        filled = wrapper.load("encoder", into=torch.nn.Linear(512, 512))
        assert torch.equal(filled.weight, pipeline.encoder.weight)
        stored = wrapper.put()
        assert digest(stored.load()) == digest(pipeline)
        shared = ray_zerocopy.ModelWrapper.from_model(pipeline, share_with=stored)
        assert shared.nbytes < stored.nbytes / 2 and digest(shared.load()) == digest(pipeline)
        assert 0 <= ray_zerocopy.huge_pages(stored.load()) <= 1


def share_by_name(pipeline: Pipeline) -> None:
    """A detached model, found by its name in another process; then it is gone."""
    wrapper = ray_zerocopy.ModelWrapper.from_model(pipeline, name="smoke", lifetime="detached")
    other = ByName.remote()
    assert ray.get(other.digest.remote("smoke")) == digest(pipeline) == digest(wrapper.load())
    assert [model.name for model in ray_zerocopy.list_models()] == ["smoke"]
    ray_zerocopy.ModelWrapper.delete("smoke")
    try:
        ray_zerocopy.ModelWrapper.get("smoke")
    except ray_zerocopy.errors.ModelNotFoundError:
        return
    raise AssertionError("a deleted model was found")


def call_in_tasks(pipeline: Pipeline) -> None:
    wrapped = ray_zerocopy.ModelWrapper.for_tasks(pipeline)
    x = torch.ones(2, 512)
    assert torch.equal(wrapped.encode(x, times=2), pipeline.encode(x, times=2))
    assert torch.equal(wrapped.encode(ray.put(x)), pipeline.encode(x))
    assert torch.equal(wrapped.encoder(x), pipeline.encoder(x))
    assert list(wrapped.stream(3)) == [0, 1, 2]
    assert list(wrapped.encode.options(num_cpus=0.5).map([x, x], progress=True))[1].shape == (2, 512)
    maps = Path(wrapped.mappings())
    assert store_mappings(maps) > 0
    del wrapped
    end = time.monotonic() + 30
    while store_mappings(maps) and time.monotonic() < end:  # the worker drops the pipeline soon
        time.sleep(0.5)
    assert not store_mappings(maps)


def store_mappings(maps: Path) -> int:
    try:
        return sum("plasma" in line and " rw-p " in line for line in maps.read_text().splitlines())
    except FileNotFoundError:
        return 0


def main() -> None:
    ray.init(address="local", num_cpus=2, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False)
    pipeline = Pipeline()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrapper = ray_zerocopy.ModelWrapper.from_model(pipeline)
        wrapper.load()
    mode = ray_zerocopy.isolation()
    assert mode == "copy-on-write", mode
    first, second = Actor.remote(wrapper), Actor.remote(wrapper)
    expected = digest(pipeline)
    assert ray.get(first.digest.remote()) == expected
    ray.get(first.write.remote())
    assert ray.get(first.digest.remote()) != expected
    assert ray.get(second.digest.remote()) == expected
    assert digest(wrapper.load()) == expected
    call_in_tasks(pipeline)
    share_by_name(pipeline)
    share_in_files(pipeline)
    ray.shutdown()
    print(f"ray-zerocopy {ray_zerocopy.__version__}: Python {sys.version.split()[0]}, torch {torch.__version__}, "
          f"ray {ray.__version__}: {mode}")  # fmt: skip


if __name__ == "__main__":
    main()
