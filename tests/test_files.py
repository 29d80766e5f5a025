"""Models in files: what is opened is what was saved, in any process, and nothing half-written or changed is taken."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from safetensors.torch import load_file, save_file

import zoo
from compare import assert_same
from helpers import HERE, anonymous_bytes, mapped_bytes, run_script, settled_allocation, settles
from ray_zerocopy import JITModelWrapper, ModelWrapper, core, errors, huge_pages, image, isolation, reading
from ray_zerocopy.stores import disk, endings, files, keeper


class Pipeline:
    def __init__(self):
        self.encoder = torch.nn.Sequential(torch.nn.Linear(200, 300), torch.nn.BatchNorm1d(300)).eval()
        self.head = torch.nn.Linear(300, 7)
        self.head.register_buffer("scale", torch.full((7,), 3.0), persistent=False)
        self.labels = ["a", "b"]

    def __call__(self, x):
        return self.head(self.encoder(x)) * self.head.scale


def fine_tuned(model, *names):
    """A copy of a model in which some tensors differ."""
    copy = pickle.loads(pickle.dumps(model))
    tensors = {**dict(copy.named_parameters()), **dict(copy.named_buffers())}
    with torch.no_grad():
        for name in names:
            tensors[name] += 1
    return copy


# --- saved and opened --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_every_model_of_the_zoo_comes_back_from_a_file(name, tmp_path):
    model, _ = zoo.ZOO[name]()
    wrapper = ModelWrapper.to_file(model, tmp_path / "model.rzc")
    wrapper.verify()
    assert_same(model, wrapper.load())


ALONE = """
import sys, torch, ray
from ray_zerocopy import ModelWrapper, isolation
from test_files import Pipeline
wrapper = ModelWrapper.open(sys.argv[1])
pipeline = wrapper.load()
torch.manual_seed(0)
print(pipeline(torch.rand(2, 200)).sum().item(), pipeline.labels, isolation(pipeline), ray.is_initialized())
"""


def test_saved_from_the_store_and_opened_by_a_process_without_ray(cluster, tmp_path):
    pipeline, path = Pipeline(), tmp_path / "pipeline.rzc"
    wrapper = ModelWrapper.from_model(pipeline)
    assert wrapper.save(path) is None
    torch.manual_seed(0)
    expected = pipeline(torch.rand(2, 200)).sum().item()
    assert run_script(ALONE, str(path)).stdout.strip() == f"{expected} ['a', 'b'] copy-on-write False"
    opened = ModelWrapper.open(path)
    assert path.stat().st_size == opened.nbytes == wrapper.nbytes
    assert opened.load("head").weight.data_ptr()  # one of its models, as from the store
    assert str(path) in repr(opened)
    assert pickle.loads(pickle.dumps(opened)).load().labels == ["a", "b"]
    assert opened.private_bytes == wrapper.private_bytes
    for attribute in ("name", "namespace", "version"):
        assert getattr(opened, attribute) is None


def test_loaded_models_are_apart_and_the_file_stays_as_it_is(tmp_path):
    model, path = torch.nn.Linear(600, 600), tmp_path / "model.rzc"
    wrapper = ModelWrapper.to_file(model, path)
    before = path.read_bytes()
    assert path.stat().st_mode & 0o222 == 0  # against writes into it, by accident
    one, other = wrapper.load(), wrapper.load()
    with torch.no_grad():
        one.weight.zero_()
    assert torch.equal(other.weight, model.weight)
    assert path.read_bytes() == before
    address = other.weight.data_ptr()
    assert mapped_bytes("Private_Dirty:", address, other.weight.nbytes) == 0  # of the page cache, that all share


def test_a_write_to_a_model_is_seen_by_no_other_process(tmp_path):
    model = torch.nn.Linear(600, 600)
    wrapper = ModelWrapper.to_file(model, tmp_path / "model.rzc")
    with torch.no_grad():
        wrapper.load().weight.zero_()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(total, (wrapper,)) == checksum(model)


def total(wrapper):
    return checksum(wrapper.load())


def checksum(model):
    return zlib.crc32(model.weight.detach().numpy().tobytes())


def test_it_stays_loaded_whatever_becomes_of_the_file_and_of_ray(tmp_path):
    script = """
import os, sys, ray, torch
from helpers import ray_cluster
from ray_zerocopy import ModelWrapper
model, path = torch.nn.Linear(600, 600), sys.argv[1]
wrapper = ModelWrapper.to_file(model, path)
loaded = wrapper.load()
with ray_cluster():
    stored = wrapper.put().load()
    between = wrapper.load()
ModelWrapper.to_file(torch.nn.Linear(600, 600), path)  # replaces it
os.unlink(path)
for each in (loaded, stored, between):
    assert torch.equal(each.weight, model.weight)
"""
    run_script(script, str(tmp_path / "model.rzc"))


def test_in_actors_tasks_and_for_calls_over_one_file(worker, tmp_path):
    pipeline, path = Pipeline(), tmp_path / "pipeline.rzc"
    wrapper = ModelWrapper.to_file(pipeline, path, mode="task")
    x = torch.rand(3, 200)
    called = wrapper.load()
    assert torch.equal(called(x), pipeline(x))
    assert called.labels == ["a", "b"]
    loaded = ModelWrapper.open(path, mode="actor")
    assert torch.equal(worker(lambda wrapper, x: wrapper.load()(x), loaded, x), pipeline(x))
    with pytest.raises(ValueError, match="mode is 'other'"):
        ModelWrapper.open(path, mode="other")


def test_what_belongs_to_the_store_is_refused_with_the_way_out(cluster, tmp_path):
    wrapper = ModelWrapper.to_file(torch.nn.Linear(3, 3), tmp_path / "model.rzc")
    with pytest.raises(TypeError, match=r"put\(\) brings it there"):
        _ = wrapper.model_refs
    with pytest.raises(ValueError, match="in no store"):
        wrapper.release()
    with pytest.raises(ValueError, match="no name"):
        wrapper.delete()
    with pytest.raises(TypeError, match="in the store already"):
        ModelWrapper.from_model(torch.nn.Linear(3, 3)).put()
    holder = {"model": torch.nn.Linear(3, 3), "reference": ray.put(1)}
    for attempt in (
        lambda: ModelWrapper.from_model(holder).save(tmp_path / "holder.rzc"),
        lambda: ModelWrapper.to_file(holder, tmp_path / "holder.rzc"),
    ):
        with pytest.raises(errors.CarriedObjectError, match="ObjectRef"):
            attempt()
    assert os.listdir(tmp_path) == ["model.rzc"]
    with pytest.raises(TypeError, match="TorchScript"):
        JITModelWrapper.to_file(torch.nn.Linear(3, 3), tmp_path / "jit.rzc")


# --- into the store ----------------------------------------------------------------------------------


def test_into_the_store_with_and_without_a_name(cluster, worker, tmp_path):
    model, path = torch.nn.Linear(600, 600), tmp_path / "model.rzc"
    opened = ModelWrapper.to_file(model, path)
    before = settled_allocation()
    wrapper = opened.put()
    assert worker(total, wrapper) == total(opened)
    assert wrapper.nbytes == opened.nbytes
    del wrapper
    assert settles(lambda: settled_allocation() <= before)
    for lifetime in (None, "detached"):
        named = opened.put(name="from a file", lifetime=lifetime)
        assert worker(total, ModelWrapper.get("from a file")) == total(opened)
        assert opened.put(name="from a file", lifetime=lifetime, get_if_exists=True).version == named.version
        with pytest.raises(errors.NameTakenError):
            opened.put(name="from a file", lifetime=lifetime)
        named.delete()
    called = opened.put("task").load()
    x = torch.rand(2, 600)
    assert torch.equal(called(x), model(x))


def test_a_lost_image_comes_back_from_its_file_and_never_as_another_one(cluster, tmp_path):
    model, path = torch.nn.Linear(600, 600), tmp_path / "model.rzc"
    opened = ModelWrapper.to_file(model, path)
    put = opened.put(name="put", lifetime="detached")
    made = ModelWrapper.from_factory(path, name="made", lifetime="detached")
    os.rename(path, path.with_suffix(".away"))
    kill_the_keeper()  # which owns them
    for each in (put, made):
        assert settles(lambda each=each: raises(FileNotFoundError, each.load), 60)
    os.rename(path.with_suffix(".away"), path)
    for each in (put, made):
        assert torch.equal(each.load().weight, model.weight)
    ModelWrapper.to_file(torch.nn.Linear(600, 600), path)
    kill_the_keeper()
    assert settles(lambda: raises(errors.ImageLostError, put.load), 60)
    put.delete()
    made.delete()


def test_a_factory_that_is_a_path(cluster, tmp_path):
    path = tmp_path / "model.rzc"
    ModelWrapper.to_file(torch.nn.Linear(600, 600), path)
    with pytest.raises(FileNotFoundError, match="missing"):
        ModelWrapper.from_factory(tmp_path / "missing.rzc", name="never", lifetime="detached")
    with pytest.raises(TypeError, match="no arguments"):
        ModelWrapper.from_factory(path, 3)
    assert total(ModelWrapper.from_factory(path)) == total(ModelWrapper.open(path))


def kill_the_keeper():
    ray.kill(ray.get_actor(keeper.NAME, endings.NAMESPACE), no_restart=False)


def raises(error, call):
    try:
        call()
    except error:
        return True
    return False


# --- without pickle ----------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return os.abort, ()


def test_opening_and_reading_tensors_runs_no_code(tmp_path):
    model = torch.nn.Linear(30, 40)
    model.bomb = Bomb()  # would end the process
    wrapper = ModelWrapper.to_file(model, tmp_path / "model.rzc")
    wrapper.verify()
    tensors = wrapper.tensors()
    assert {name: torch.equal(tensor, getattr(model, name)) for name, tensor in tensors.items()} == {
        "weight": True,
        "bias": True,
    }
    other = torch.nn.Linear(30, 40)
    assert wrapper.load(into=other, verify=True, prefault=True) is other
    assert torch.equal(other.weight, model.weight)
    wrapper.save(tmp_path / "again.rzc")
    ModelWrapper.open(tmp_path / "again.rzc").save(tmp_path / "shared.rzc", share_with=wrapper)
    ModelWrapper.open(tmp_path / "shared.rzc").tensors()
    assert "class" in files.opened(tmp_path / "model.rzc").about


@pytest.mark.parametrize("name", ["gpt2_with_tied_weights", "torchvision_channels_last", "bert", "llama_in_bfloat16"])
def test_the_tensors_of_real_models_by_name(name, tmp_path):
    model, _ = zoo.ZOO[name]()
    wrapper = ModelWrapper.to_file(model, tmp_path / "model.rzc")
    tensors = wrapper.tensors()
    named = model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    expected = {**dict(named[0]), **dict(named[1])}
    assert set(tensors) == set(expected)
    for key, tensor in expected.items():
        found = tensors[key]
        assert torch.equal(found, tensor) and found.dtype == tensor.dtype and found.stride() == tensor.stride(), key
    places = {key: tensor.data_ptr() for key, tensor in expected.items() if tensor.numel()}
    assert len({tensors[key].data_ptr() for key in places}) == len(set(places.values()))  # what is tied stays tied


def test_into_a_model_of_a_pipeline_and_buffers_that_state_dict_leaves_out(tmp_path):
    pipeline = Pipeline()
    wrapper = ModelWrapper.to_file(pipeline, tmp_path / "pipeline.rzc")
    with torch.device("meta"):
        head = torch.nn.Linear(300, 7)
        head.register_buffer("scale", torch.ones(7), persistent=False)
    assert wrapper.load("head", into=head) is head
    x = torch.rand(2, 300)
    assert torch.equal(head(x) * head.scale, pipeline.head(x) * 3)
    with pytest.raises(errors.NotAModelError, match="encoder, head"):
        wrapper.load(into=head)
    with pytest.raises(errors.NotAModelError, match="'heads'"):
        wrapper.load("heads", into=head)
    for holder, name in (({"head": head}, "head"), ([torch.nn.Linear(3, 3), head], "1")):
        held = ModelWrapper.to_file(holder, tmp_path / "held.rzc")
        assert torch.equal(held.load(name, into=torch.nn.Linear(300, 7)).weight, pipeline.head.weight)
    wrong = torch.nn.Linear(300, 8)
    before = wrong.weight
    with pytest.raises(errors.FillError, match="weight"):
        wrapper.load("head", into=wrong)
    assert wrong.weight is before
    larger = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    file = ModelWrapper.to_file(larger, tmp_path / "larger.rzc")
    less = torch.nn.Sequential(torch.nn.Linear(3, 3))
    with pytest.raises(errors.FillError, match=r"1\.weight"):
        file.load(into=less)
    assert torch.equal(file.load(into=less, strict=False)[0].weight, larger[0].weight)


# --- safetensors -------------------------------------------------------------------------------------


def test_shards_go_into_the_store_by_way_of_a_model_and_back_into_a_file(cluster, worker, tmp_path):
    model, arguments = zoo.ZOO["gpt2_with_tied_weights"]()
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    other = type(model)(model.config).eval()
    wrapper = ModelWrapper.from_safetensors(tmp_path / "shards", into=other)
    loaded = wrapper.load(verify=True)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight  # tied, and in the files once
    assert_same(model.state_dict(), loaded.state_dict())
    with torch.no_grad():
        assert torch.equal(worker(logits, wrapper, arguments), model(*arguments).logits)
    wrapper.save_safetensors(tmp_path / "model.safetensors")
    found = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items() if name in found)
    assert len(set(model.state_dict()) - set(found)) == 1  # once
    with pytest.raises(errors.FillError, match="names of the model without a tensor"):
        ModelWrapper.from_safetensors(tmp_path / "shards", into=torch.nn.Linear(3, 3))


def logits(wrapper, arguments):
    with torch.no_grad():
        return wrapper.load()(*arguments).logits


def test_no_copy_of_a_safetensors_file_is_made_in_this_process(cluster, tmp_path):
    save_file({"weight": torch.rand(4000, 2500)}, tmp_path / "model.safetensors")  # 40 MB
    with torch.device("meta"):
        model = torch.nn.Linear(2500, 4000, bias=False)
    before = anonymous_bytes()
    wrapper = ModelWrapper.from_safetensors(tmp_path / "model.safetensors", into=model)
    wrapper.save_safetensors(tmp_path / "again.safetensors")
    assert anonymous_bytes() - before < 30 << 20
    assert (tmp_path / "again.safetensors").read_bytes()[-1000:] == (tmp_path / "model.safetensors").read_bytes()[
        -1000:
    ]


# --- damage ------------------------------------------------------------------------------------------


def rewrite(path, content):
    path.unlink()
    path.write_bytes(content)


def test_a_file_that_was_cut_or_lengthened_is_refused_before_anything_is_read(tmp_path):
    path = tmp_path / "model.rzc"
    wrapper = ModelWrapper.to_file(torch.nn.Linear(60, 60), path)
    whole = path.read_bytes()
    sizes = [*range(0, 200, 7), 2047, 2048, len(whole) // 2, len(whole) - 1]
    for size in sizes:
        rewrite(path, whole[:size])
        for attempt in (wrapper.load, wrapper.verify, wrapper.tensors, lambda: ModelWrapper.open(path)):
            with pytest.raises((errors.ImageError, errors.FileError), match=r"model\.rzc"):
                attempt()
    rewrite(path, whole + b"\0")
    for attempt in (wrapper.load, lambda: ModelWrapper.open(path)):
        with pytest.raises(errors.DamagedImageError, match=r"model\.rzc.*appended"):
            attempt()
    rewrite(path, whole)
    wrapper.load(verify=True)


def test_a_flipped_bit_in_any_part_is_found_and_named(tmp_path):
    path = tmp_path / "model.rzc"
    model = torch.nn.Sequential(torch.nn.Linear(200, 200), torch.nn.Linear(200, 100))
    wrapper = ModelWrapper.to_file(model, path)
    whole = bytearray(path.read_bytes())
    head = reading.header(np.frombuffer(whole, np.uint8)).head_size
    for at in (3, 9, 40, 90, 300, head - 1000):  # magic, version, counts, tables, the skeleton
        damaged = whole[:]
        damaged[at] ^= 4
        rewrite(path, damaged)
        for attempt in (wrapper.load, lambda: ModelWrapper.open(path)):
            with pytest.raises((errors.ImageError, errors.ImageLostError), match=r"model\.rzc"):
                attempt()
    for name, tensor in model.named_parameters():
        damaged = whole[:]
        damaged[whole.index(tensor.detach().numpy().tobytes()) + 5] ^= 1
        rewrite(path, damaged)
        for attempt in (wrapper.verify, lambda: wrapper.load(verify=True), ModelWrapper.open(path).verify):
            with pytest.raises(errors.DamagedImageError, match=rf"model\.rzc.*tensor '{name}'"):
                attempt()


def test_another_model_in_the_place_of_the_one_that_was_opened(tmp_path):
    path = tmp_path / "model.rzc"
    wrapper = ModelWrapper.to_file(torch.nn.Linear(60, 60), path)
    ModelWrapper.to_file(torch.nn.Linear(60, 60), path)
    with pytest.raises(errors.ImageLostError, match=r"model\.rzc.*another image"):
        wrapper.load()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.rzc"):
        wrapper.load()


def test_what_is_no_model_file(tmp_path):
    for name, content in {"text": b"a text", "zip": b"PK\3\4" * 1000, "empty": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises((errors.ForeignImageError, errors.FileError), match=name):
            ModelWrapper.open(tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(errors.FileError, match="no regular file"):
            ModelWrapper.open(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        ModelWrapper.open(tmp_path / "missing")


def test_what_an_image_says_of_itself_is_checked(tmp_path):
    path = tmp_path / "model.rzc"
    ModelWrapper.to_file(torch.nn.Linear(60, 60), path)
    memory = disk.mapped(path)
    said = json.loads(reading.about_text(memory))
    for changed in (
        {**said, "models": 3},
        {**said, "interface": None},
        {**said, "private": {"bytes": "x", "paths": {}}},
        {"class": "X"},
        [],
        {**said, "bases": 3},
        {**said, "bases": [3]},
        {**said, "bases": ["other.rzc"]},
    ):
        parts, _ = image.again(memory, [], about=lambda text, used, changed=changed: json.dumps(changed))
        disk.write(path, parts)
        with pytest.raises(errors.ImageError, match=r"model\.rzc"):
            ModelWrapper.open(path)
    disk.write(path, image.again(memory, [], about=lambda text, used: "")[0])  # as early images are
    opened = ModelWrapper.open(path)
    assert torch.equal(opened.load().weight, opened.tensors()["weight"])


CUT = """
import os, sys, torch
from ray_zerocopy import ModelWrapper
path = sys.argv[1]
wrapper = ModelWrapper.to_file(torch.nn.Linear(1500, 1500), path)
loaded = wrapper.load()
os.chmod(path, 0o644)
os.truncate(path, 100_000)
print(loaded.weight.sum())
"""


def test_a_process_that_ends_of_a_file_cut_under_it_says_so(tmp_path):
    ended = subprocess.run([sys.executable, "-c", CUT, str(tmp_path / "model.rzc")], capture_output=True, text=True)
    assert ended.returncode < 0
    assert "model file that was cut short" in ended.stderr


# --- written as a whole or not at all ----------------------------------------------------------------


@pytest.mark.parametrize("names", ["unnamed", "named"])
def test_writers_that_are_killed_leave_the_old_file_or_the_new_one(names):
    print(run_script(str(HERE / "programs" / "kill_writers.py"), "100", names).stdout)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "model.rzc"
    wrapper = ModelWrapper.to_file(torch.nn.Linear(60, 60), path)
    before = path.read_bytes()
    monkeypatch.setattr(disk.os, "write", full)
    for target in (path, tmp_path / "new.rzc"):
        with pytest.raises(errors.FileError, match=r"No space left.*Make room") as caught:
            wrapper.save(target)
        assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(target)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert os.listdir(tmp_path) == ["model.rzc"] and path.read_bytes() == before


def full(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(errors.FileError, match="Permission denied"):
        ModelWrapper.to_file(torch.nn.Linear(6, 6), tmp_path / "model.rzc")


def test_bad_paths(tmp_path):
    model = torch.nn.Linear(6, 6)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        ModelWrapper.to_file(model, tmp_path / "missing" / "model.rzc")
    with pytest.raises(IsADirectoryError):
        ModelWrapper.to_file(model, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises((errors.FileError, NotADirectoryError), match="file"):
        ModelWrapper.to_file(model, tmp_path / "file" / "model.rzc")


def test_an_interrupt_while_saving_leaves_nothing(tmp_path, monkeypatch):
    wrapper = ModelWrapper.to_file(torch.nn.Linear(60, 60), tmp_path / "model.rzc")
    for named in (False, True):
        if named:
            monkeypatch.setattr(disk.os, "O_TMPFILE", os.O_DIRECTORY)  # as a file system refuses it

        def interrupted(*arguments):
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(disk.os, "fsync", interrupted)
            with pytest.raises(KeyboardInterrupt):
                wrapper.save(tmp_path / "other.rzc")
        assert os.listdir(tmp_path) == ["model.rzc"]


def test_names_that_are_no_text(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xfe model.rzc"
    model = torch.nn.Linear(6, 6)
    wrapper = ModelWrapper.to_file(model, os.fsdecode(path))
    assert torch.equal(pickle.loads(pickle.dumps(wrapper)).load().weight, model.weight)


# --- families ----------------------------------------------------------------------------------------


def test_a_family_of_files(tmp_path):
    base = torch.nn.Sequential(*(torch.nn.Linear(300, 300) for _ in range(20)))
    root = ModelWrapper.to_file(base, tmp_path / "base.rzc")
    members = []
    for number in range(4):
        child = fine_tuned(base, f"{number}.weight")
        path = tmp_path / f"child{number}.rzc"
        if number % 2:
            ModelWrapper.to_file(child, path, share_with=root)
        else:
            ModelWrapper.to_file(child, tmp_path / "whole.rzc").save(path, share_with=root)
        members.append((child, ModelWrapper.open(path)))
        assert path.stat().st_size < root.nbytes / 8
    for child, wrapper in members:
        assert_same(child, wrapper.load(verify=True))
        assert all(torch.equal(tensor, child.state_dict()[name]) for name, tensor in wrapper.tensors().items())
    child, wrapper = members[0]
    with torch.no_grad():
        changed = wrapper.load()
        for parameter in changed.parameters():
            parameter.zero_()
    for whole, each in [*members, (base, root)]:
        assert_same(whole, each.load())
    grandchild = fine_tuned(child, "7.bias")
    ModelWrapper.to_file(grandchild, tmp_path / "whole.rzc")
    ModelWrapper.open(tmp_path / "whole.rzc").save(tmp_path / "grandchild.rzc", share_with=wrapper)
    assert (tmp_path / "grandchild.rzc").stat().st_size < root.nbytes / 8
    assert_same(grandchild, ModelWrapper.open(tmp_path / "grandchild.rzc").load(verify=True))
    (tmp_path / "moved").mkdir()
    for each in tmp_path.glob("*.rzc"):
        each.rename(tmp_path / "moved" / each.name)
    moved = ModelWrapper.open(tmp_path / "moved" / "grandchild.rzc")
    assert_same(grandchild, moved.load())
    moved.save(tmp_path / "alone.rzc")  # without share_with a file is complete
    assert_same(grandchild, ModelWrapper.open(tmp_path / "alone.rzc").load(verify=True))


def test_a_file_whose_base_is_gone_or_another_one(tmp_path):
    base = torch.nn.Linear(300, 300)
    root = ModelWrapper.to_file(base, tmp_path / "base.rzc")
    ModelWrapper.to_file(fine_tuned(base, "bias"), tmp_path / "whole.rzc")
    ModelWrapper.open(tmp_path / "whole.rzc").save(tmp_path / "child.rzc", share_with=[root])
    child = ModelWrapper.open(tmp_path / "child.rzc")
    with pytest.raises(ValueError, match="with itself"):
        child.save(tmp_path / "base.rzc", share_with=root)
    content = (tmp_path / "base.rzc").read_bytes()
    ModelWrapper.to_file(torch.nn.Linear(300, 300), tmp_path / "base.rzc")
    for attempt in (child.load, child.verify, child.tensors, lambda: ModelWrapper.open(tmp_path / "child.rzc").load()):
        with pytest.raises(errors.BaseImageError, match=r"child\.rzc.*base"):
            attempt()
    (tmp_path / "base.rzc").unlink()
    for attempt in (child.load, lambda: ModelWrapper.open(tmp_path / "child.rzc")):
        with pytest.raises(errors.BaseImageError, match=r"child\.rzc.*base\.rzc"):
            attempt()
    damaged = bytearray(content)
    damaged[content.index(base.weight.detach().numpy().tobytes()) + 1] ^= 1
    (tmp_path / "base.rzc").write_bytes(damaged)
    child.load()  # which does not look
    with pytest.raises(errors.DamagedImageError, match=r"child\.rzc.*tensor 'weight'.*of base 0"):
        child.verify()


def test_a_family_in_the_store(cluster, worker):
    base = torch.nn.Sequential(*(torch.nn.Linear(500, 500) for _ in range(20)))
    before = settled_allocation()
    root = ModelWrapper.from_model(base)
    children = [fine_tuned(base, f"{number}.weight") for number in range(20)]
    wrappers = [ModelWrapper.from_model(child, share_with=root) for child in children]
    assert settled_allocation() - before < 2.2 * root.nbytes  # twenty that differ by 5% each: another one
    size = root.nbytes
    del root
    for child, wrapper in zip(children[::5], wrappers[::5]):
        assert_same(child, wrapper.load(verify=True))
        assert worker(first_weights, wrapper) == first_weights_of(child)
    del wrappers[1:]
    assert settles(lambda: settled_allocation() - before < 1.2 * size)
    assert_same(children[0], wrappers[0].load())  # its base stays as long as it does
    x = torch.rand(2, 500)
    called = ModelWrapper.for_tasks(children[1], share_with=wrappers[0])
    assert torch.equal(called(x), children[1](x))
    loaded = wrappers[0].load()
    del wrappers[:], wrapper, called
    assert_same(children[0], loaded)
    del loaded
    assert settles(lambda: settled_allocation() <= before)


def first_weights_of(model):
    return [float(layer.weight[0, 0].detach()) for layer in model]


def first_weights(wrapper):
    return first_weights_of(wrapper.load())


def test_equal_weights_of_one_model_stay_apart(cluster):
    zeros = torch.nn.Sequential(*(torch.nn.Linear(200, 200) for _ in range(3)))
    for layer in zeros:
        torch.nn.init.zeros_(layer.weight)
    root = ModelWrapper.from_model(zeros)
    loaded = ModelWrapper.from_model(pickle.loads(pickle.dumps(zeros)), share_with=root).load()
    with torch.no_grad():
        loaded[0].weight.fill_(1)
    assert not loaded[1].weight.any() and not loaded[2].weight.any()


def test_families_of_named_models_live_as_long_as_their_members(cluster, worker):
    base = torch.nn.Linear(300, 300)
    root = ModelWrapper.from_model(base, name="base", lifetime="detached")
    short = ModelWrapper.from_model(base)
    child = fine_tuned(base, "bias")
    with pytest.raises(ValueError, match="ends with the process"):
        ModelWrapper.from_model(child, name="child", lifetime="detached", share_with=short)
    bound = ModelWrapper.from_model(base, name="bound")
    with pytest.raises(ValueError, match="'bound'"):
        ModelWrapper.from_model(child, name="child", lifetime="detached", share_with=bound)
    wrapper = ModelWrapper.from_model(child, name="child", lifetime="detached", share_with=root)
    assert wrapper.nbytes < root.nbytes / 5
    plain = ModelWrapper.from_model(child, share_with=root)  # this process's, over what the cluster owns
    root.delete()
    bound.delete()
    assert_same(child, ModelWrapper.get("child").load(verify=True))
    assert worker(total, wrapper) == checksum(child)
    wrapper.delete()
    gc.collect()
    time.sleep(1)  # for the cluster to give up what nobody holds
    assert worker(total, plain) == checksum(child)
    assert_same(child, plain.load(verify=True))


def test_share_with_takes_wrappers_of_the_same_kind(cluster, tmp_path):
    base = torch.nn.Linear(30, 30)
    file, stored = ModelWrapper.to_file(base, tmp_path / "base.rzc"), ModelWrapper.from_model(base)
    with pytest.raises(ValueError, match=r"open\(path\)\.put\(\)"):
        ModelWrapper.from_model(base, share_with=file)
    with pytest.raises(ValueError, match=r"ModelWrapper\.open\(path\)"):
        file.save(tmp_path / "child.rzc", share_with=stored)
    for bad in (base, [base]):
        with pytest.raises(TypeError, match="takes the wrapper"):
            ModelWrapper.from_model(base, share_with=bad)


@ray.remote(num_cpus=0)
class Owner:
    def wrap(self, model):
        self.wrapper = ModelWrapper.from_model(model)
        return self.wrapper


def test_a_child_whose_base_is_lost_says_so(cluster):
    base = torch.nn.Linear(300, 300)
    owner = Owner.remote()
    child = ModelWrapper.from_model(fine_tuned(base, "bias"), share_with=ray.get(owner.wrap.remote(base)))
    assert torch.equal(child.load().weight, base.weight)
    ray.kill(owner)
    assert settles(lambda: raises(errors.ImageLostError, child.load), 60)
    with pytest.raises(errors.ImageLostError, match="shares weights with"):
        child.load()


# --- where it can be used ----------------------------------------------------------------------------


FORKED = """
import os, sys, torch
from ray_zerocopy import ModelWrapper, errors
wrapper = ModelWrapper.to_file(torch.nn.Linear(60, 60), sys.argv[1])
loaded = wrapper.load()
child = os.fork()
if not child:
    loaded.weight.sum()
    try:
        wrapper.load()
    except errors.ForkedProcessError:
        os._exit(7)
    os._exit(8)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


def test_in_a_forked_process_what_was_loaded_works_and_loading_says_what_to_do(tmp_path):
    run_script(FORKED, str(tmp_path / "model.rzc"))


def test_without_descriptors_and_without_memory(tmp_path):
    wrapper = ModelWrapper.to_file(torch.nn.Linear(60, 60), tmp_path / "model.rzc")
    for place, number in (("fcntl", errno.EMFILE), ("mmap", errno.ENOMEM)):
        core.failpoint(place, 0, number)
        try:
            with pytest.raises(core.Scarce):
                wrapper.load()
        finally:
            core.failpoint()
    wrapper.load()


def test_nothing_is_left_of_what_was_loaded(tmp_path):
    wrapper = ModelWrapper.to_file(torch.nn.Linear(600, 600), tmp_path / "model.rzc")

    def held():
        return Path("/proc/self/maps").read_text().count("model.rzc"), len(os.listdir("/proc/self/fd"))

    wrapper.load()
    before = held()
    for _ in range(20):
        wrapper.load()
        wrapper.tensors()
        wrapper.verify()
        with contextlib.suppress(errors.FillError):
            wrapper.load(into=torch.nn.Linear(3, 3))
    assert held() == before
    loaded = wrapper.load()
    assert held()[0] == before[0] + 1 and isolation(loaded) == "copy-on-write"
    assert 0 <= huge_pages(loaded) <= 1
