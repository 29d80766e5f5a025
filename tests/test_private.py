"""What each process holds by itself, and slices of large storages."""

from __future__ import annotations

import io
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ray_zerocopy import ModelWrapper, errors

MB = 1 << 20


class Net:
    """Serializes torch itself."""

    def __init__(self) -> None:
        self.module = torch.nn.Linear(1000, 1000)

    def __getstate__(self):
        file = io.BytesIO()
        torch.save(self.module, file)
        return {"module": file.getvalue()}


def test_private_bytes_say_where_they_hang(cluster):
    table = {"words": b"x" * 3 * MB, "few": b"y" * 1000, "text": ["z" * 2 * MB]}
    pipeline = SimpleNamespace(net=Net(), table=table, model=torch.nn.Linear(500, 500))
    wrapper = ModelWrapper.from_model(pipeline)
    assert 9_000_000 < wrapper.private_bytes < 9_500_000
    assert list(wrapper.private_bytes.paths) == [
        "pipeline.net",
        "pipeline.table['words']",
        "pipeline.table['text'][0]",
    ]
    assert 3 * MB <= wrapper.private_bytes.paths["pipeline.table['words']"] < 3 * MB + 100
    assert "pipeline.net: 4,0" in str(wrapper.private_bytes)


def test_weights_and_arrays_are_not_private(cluster):
    base = np.zeros((2000, 1000))
    arrays = [
        base[::2],
        base[:, 1::2],
        base.view(np.matrix),
        np.ma.masked_array(base),
        np.recarray(10**6, [("a", "i4")]),
    ]
    wrapper = ModelWrapper.from_model({"model": torch.nn.Linear(1000, 1000), "arrays": arrays})
    assert wrapper.private_bytes < 10_000
    assert not wrapper.private_bytes.paths


def test_constants_of_torchscript_that_are_copied_are_counted(cluster):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        indices = torch.arange(200_000).repeat(2, 1)

        class Sparse(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("table", torch.sparse_coo_tensor(indices, torch.ones(200_000)))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x

        script = torch.jit.script(Sparse())
    wrapper = ModelWrapper.from_model({"script": script})
    assert wrapper.private_bytes > 3 * MB
    assert list(wrapper.private_bytes.paths) == ["pipeline['script']"]


def test_a_put_of_much_that_is_private_warns(cluster):
    with pytest.warns(errors.PrivateMemoryWarning, match=r"42 MB of this SimpleNamespace .*pipeline\.blob \(42 MB\)"):
        wrapper = ModelWrapper.from_model(SimpleNamespace(model=torch.nn.Linear(2, 2), blob=b"x" * 40 * MB))
    assert wrapper.private_bytes > 40 * MB


def test_private_bytes_of_a_named_model_are_known_to_who_gets_it(cluster):
    pipeline = SimpleNamespace(model=torch.nn.Linear(2, 2), blob=b"x" * 2 * MB)
    ModelWrapper.from_model(pipeline, name="with a blob")
    assert list(ModelWrapper.get("with a blob").private_bytes.paths) == ["pipeline.blob"]
    ModelWrapper.delete("with a blob")


def test_a_memmap_comes_back_as_an_array_over_shared_memory(cluster, tmp_path, worker):
    mapped = np.memmap(tmp_path / "table", mode="w+", dtype="f4", shape=(1000, 100))
    mapped[:] = np.arange(100)
    wrapper = ModelWrapper.from_model({"model": torch.nn.Linear(2, 2), "table": mapped, "part": mapped[::2]})
    (tmp_path / "table").unlink()
    assert wrapper.private_bytes < 10_000

    def check(wrapper):
        loaded = wrapper.load()
        return type(loaded["table"]) is np.ndarray and float(loaded["table"].sum()), float(loaded["part"].sum())

    expected = float(mapped.sum()), float(mapped[::2].sum())
    assert check(wrapper) == expected
    assert worker(check, wrapper) == expected


# --- slices ---


def sliced(base: torch.Tensor) -> torch.nn.Module:
    model = torch.nn.Module()
    model.first = torch.nn.Parameter(base[1001:2001])
    model.inside = torch.nn.Parameter(base[1500:1600].view(10, 10).T)
    model.far = torch.nn.Parameter(base[-100:])
    model.register_buffer("nothing", base[500_000:500_000])
    model.bits = base[3000:3010].view(torch.int32)
    return model


def check_sliced(wrapper: ModelWrapper[torch.nn.Module]) -> None:
    expected, loaded = sliced(torch.arange(1e6)), wrapper.load()
    for name in ("first", "inside", "far", "nothing", "bits"):
        left, right = getattr(expected, name), getattr(loaded, name)
        assert torch.equal(left, right), name
        assert left.stride() == right.stride(), name
        assert type(left) is type(right), name
    with torch.no_grad():
        loaded.first[499] = -1.0
    assert loaded.inside[0, 0] == -1
    assert loaded.far[0] == 1e6 - 100


def test_of_a_large_storage_only_what_is_reachable_is_stored(cluster, worker):
    wrapper = ModelWrapper.from_model(sliced(torch.arange(1e6)))
    assert wrapper.nbytes < 40_000
    check_sliced(wrapper)
    worker(check_sliced, wrapper)
    assert wrapper.load("model") is not None
    wrapper.verify()


def test_slices_of_a_storage_that_is_reachable_share_it(cluster):
    base = torch.arange(1e6)
    loaded = ModelWrapper.from_model({"model": sliced(base), "base": base}).load()
    loaded["base"][1001] = 7
    assert loaded["model"].first[0] == 7


def test_the_index_has_slices(cluster):
    from ray_zerocopy import image
    from ray_zerocopy.graph import pipeline

    model = sliced(torch.arange(1e6))
    built = image.build(model, "model", pipeline.named_tensors(model))
    whole = np.concatenate([np.frombuffer(part, np.uint8) for part in built.parts])
    assert built.tensors == 4
    assert len(whole) < 40_000


def test_the_index_has_an_empty_tensor_whose_storage_was_given_up(cluster):
    from ray_zerocopy import image
    from ray_zerocopy.graph import pipeline

    model = torch.nn.Linear(2, 2)
    nothing = torch.arange(10.0)[5:5]
    nothing.untyped_storage().resize_(0)
    model.register_buffer("nothing", nothing)
    assert image.build(model, "model", pipeline.named_tensors(model)).tensors == 3
