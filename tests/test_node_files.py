"""With RAY_ZEROCOPY_NODE_FILES, models of the store are mapped from files of the node, and whatever is wrong with those,
loads give what was put."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import ray
import torch

import ray_zerocopy
from helpers import Worker, allocated, mappings, run_script, settled_allocation, settles
from ray_zerocopy import ModelWrapper, errors, settings
from ray_zerocopy.stores import connection, disk, node_files

MB = 1 << 20


def model(seed: int = 0, width: int = 1000) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.Linear(width, 3))


def file_of(loaded: torch.nn.Sequential) -> tuple[str, int]:
    """The path and inode of the file that the weights are mapped from."""
    [line] = mappings(loaded[0].weight.data_ptr())
    fields = line.split(maxsplit=5)
    return fields[5], int(fields[4])


def from_file(loaded: torch.nn.Sequential) -> bool:
    return node_files._IMAGE in file_of(loaded)[0]


def same(loaded: torch.nn.Module, expected: torch.nn.Module) -> bool:
    values = zip(loaded.state_dict().values(), expected.state_dict().values())
    return all(torch.equal(one, other) for one, other in values)


@pytest.fixture
def folder(cluster, tmp_path, monkeypatch):
    """The folder of the node files, for this process."""
    path = tmp_path / "files"
    monkeypatch.setenv(settings.NODE_FILES, str(path))
    monkeypatch.setattr(node_files, "_warned", False)
    yield path
    gc.collect()


def images(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*/*{node_files._IMAGE}"))


def left(folder: Path) -> list[str]:
    """Whatever there is beside images and links to them."""
    ends = (node_files._IMAGE, node_files._KEY)
    return [path.name for path in folder.glob("*/*") if not path.name.endswith(ends) or path.name.startswith(".")]


@contextlib.contextmanager
def warned(match: str):
    """One warning comes, and only one however often one loads."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    texts = [str(each.message) for each in caught if each.category is errors.NodeFilesWarning]
    assert len(texts) == 1 and match in texts[0], texts


def use(folder: str) -> int:
    os.environ[settings.NODE_FILES] = folder
    return os.getpid()


def workers(folder: Path, count: int) -> dict:
    """The process of each of some actors that use the folder, and the actor."""
    actors = [Worker.options(num_cpus=0).remote() for _ in range(count)]
    return dict(zip(ray.get([actor.run.remote(use, str(folder)) for actor in actors]), actors))


# --- what they are for ---------------------------------------------------------------------------------


def test_models_with_and_without_a_name_are_mapped_from_a_file(folder):
    put, x = model(), torch.ones(2, 1000)
    expected = put(x)
    for wrapper in (ModelWrapper.from_model(put), ModelWrapper.from_model(put, name="kept")):
        for _ in range(2):
            loaded = wrapper.load(verify=True)
            assert from_file(loaded) and torch.equal(loaded(x), expected)
        assert same(wrapper.load(into=model(1)), put) and from_file(wrapper.load("model"))
        assert ray_zerocopy.isolation(loaded) == "copy-on-write"
        with torch.no_grad():
            loaded[0].weight += 1
        assert same(wrapper.load(), put)
    assert len(images(folder)) == 1 and not left(folder)  # by their content
    ModelWrapper.delete("kept")


def test_nothing_is_written_unasked_nor_for_small_models(folder, monkeypatch):
    assert not from_file(ModelWrapper.from_model(model(width=200)).load())
    monkeypatch.delenv(settings.NODE_FILES)
    assert not from_file(ModelWrapper.from_model(model()).load())
    assert not folder.exists()


def test_what_is_loaded_pins_nothing_in_the_store(folder):
    before = settled_allocation()
    put = model(width=2000)
    wrapper = ModelWrapper.from_model(put)
    loaded = [wrapper.load(), wrapper.load()]
    assert settles(lambda: allocated() >= before + 15 * MB)
    del wrapper
    assert settles(lambda: allocated() < before + MB)
    assert all(same(each, put) for each in loaded)


def load_and_tell(wrapper):
    loaded = wrapper.load()
    return file_of(loaded), float(loaded(torch.ones(1, 4000)).detach().sum())


def test_of_workers_that_load_at_once_one_writes(folder):
    put = model(width=4000)
    actors = workers(folder, 4).values()
    wrapper = ModelWrapper.from_model(put)
    told = ray.get([actor.run.remote(load_and_tell, wrapper) for actor in actors])
    assert {file for file, _ in told} == {file_of(wrapper.load())}  # a second one would be another inode
    assert {total for _, total in told} == {float(put(torch.ones(1, 4000)).detach().sum())}
    assert len(images(folder)) == 1 and not left(folder)
    for actor in actors:
        ray.kill(actor)


def test_families_share_the_file_of_what_they_share(folder):
    base = model()
    wrapper = ModelWrapper.from_model(base)
    tuned = model()
    tuned[1] = torch.nn.Linear(1000, 3)
    member = ModelWrapper.from_model(tuned, share_with=wrapper)
    assert member.nbytes < MB
    for _ in range(2):
        loaded = member.load(verify=True)
        assert same(loaded, tuned) and same(wrapper.load(), base)
        assert file_of(loaded) == file_of(wrapper.load()) and file_of(loaded)[0].endswith(node_files._IMAGE)
    assert len(images(folder)) == 2
    again = ModelWrapper.from_model(loaded, share_with=member)  # from what lies in files, with what does
    assert again.nbytes < MB and same(again.load(), tuned)
    del loaded
    os.unlink(file_of(wrapper.load())[0])  # half of it is as good as nothing
    assert same(member.load(), tuned) and from_file(member.load())


def test_a_pipeline_with_references_stays_in_the_store(folder):
    wrapper = ModelWrapper.from_model({"model": model(), "reference": ray.put(1)})
    loaded = wrapper.load()
    assert ray.get(loaded["reference"]) == 1 and not from_file(loaded["model"])


# --- names that end ------------------------------------------------------------------------------------


def test_a_deleted_or_replaced_name_is_gone_though_its_file_is_there(folder):
    wrapper = ModelWrapper.from_model(model(), name="ends", lifetime="detached")
    old = wrapper.load()
    ModelWrapper.from_model(model(1), name="ends", lifetime="detached", replace=True)
    newest = wrapper.latest()
    assert same(newest.load(), model(1)) and from_file(newest.load())
    newest.delete()
    for each in (newest, wrapper):
        with pytest.raises(errors.ModelNotFoundError):
            each.load()
    assert same(old, model()) and len(images(folder)) == 2
    ModelWrapper.from_model(model(2)).load()
    assert not list(folder.glob(f"*/{node_files._NAMED}*"))  # no link of what is gone outlives the next write


# --- the bound -----------------------------------------------------------------------------------------


def test_the_least_recently_used_files_go(folder, monkeypatch):
    wrappers = [ModelWrapper.from_model(model(seed)) for seed in range(4)]
    size = wrappers[0].nbytes
    monkeypatch.setenv(settings.NODE_FILES_BYTES, str(3 * size + MB))
    held = wrappers[0].load()
    files = [Path(file_of(wrapper.load())[0]) for wrapper in wrappers[:3]]
    for age, file in enumerate(files):
        os.utime(file, (0, 1000 + age))
    wrappers[1].load()  # which makes the third one the oldest of those that nobody holds
    assert from_file(wrappers[3].load())
    assert [file.exists() for file in files] == [True, True, False] and same(held, model(0))
    assert len(list(folder.glob(f"*/*{node_files._KEY}"))) == 4
    assert from_file(wrappers[2].load()) and len(images(folder)) == 3
    assert len(list(folder.glob(f"*/*{node_files._KEY}"))) == 4  # the one that led nowhere was made anew


def test_a_bound_that_is_too_small_leaves_the_files_alone(folder, monkeypatch):
    first, second = ModelWrapper.from_model(model()), ModelWrapper.from_model(model(1, 2000))
    monkeypatch.setenv(settings.NODE_FILES_BYTES, str(first.nbytes + MB))
    first.load()
    with warned(settings.NODE_FILES_BYTES):
        for _ in range(2):
            loaded = second.load()
    assert same(loaded, model(1, 2000)) and not from_file(loaded)
    assert len(images(folder)) == 1 and not left(folder)


def test_what_others_are_about_to_write_counts(folder, monkeypatch):
    first, second = ModelWrapper.from_model(model()), ModelWrapper.from_model(model(1))
    first.load()
    gc.collect()
    monkeypatch.setenv(settings.NODE_FILES_BYTES, str(2 * first.nbytes + MB))
    with open(images(folder)[0].with_suffix(node_files._LOCK), "w") as other:
        other.truncate(2 * first.nbytes)
        fcntl.flock(other, fcntl.LOCK_EX)
        with warned(settings.NODE_FILES_BYTES):
            assert not from_file(second.load())
    assert from_file(second.load())


# --- what goes wrong -----------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def of_another(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, of_another, emptied])
def test_a_damaged_file_is_written_anew(folder, damage):
    wrapper = ModelWrapper.from_model(model())
    wrapper.load()
    gc.collect()
    [path] = images(folder)
    path.chmod(0o600)
    damage(path)
    loaded = wrapper.load()
    assert same(loaded, model()) and from_file(loaded)


def test_damaged_weights_are_found_by_their_checksums(folder):
    wrapper = ModelWrapper.from_model(model())
    wrapper.load()
    [path] = images(folder)
    path.chmod(0o600)
    with open(path, "r+b") as file:
        file.seek(100_000)
        file.write(b"damage")
    assert not same(wrapper.load(), model())  # as the test below would not fail otherwise
    loaded = wrapper.load(verify=True)
    assert same(loaded, model()) and from_file(loaded)
    wrapper.verify()


def write_slowly(wrapper):
    paced = node_files._paced

    def slow(memory):
        for part in paced(memory):
            yield part
            time.sleep(60)

    node_files._paced = slow
    wrapper.load()


def test_when_the_writer_is_killed_the_next_one_writes(folder):
    wrapper = ModelWrapper.from_model(model(width=2500))  # several pieces
    [(pid, writer)] = workers(folder, 1).items()
    writing = writer.run.remote(write_slowly, wrapper)
    assert settles(lambda: bool(list(folder.glob(f"*/*{node_files._LOCK}"))))
    os.kill(pid, signal.SIGKILL)
    loaded = wrapper.load()
    assert same(loaded, model(width=2500)) and from_file(loaded)
    assert len(images(folder)) == 1 and not left(folder)
    with pytest.raises(ray.exceptions.RayError):
        ray.get(writing)


def test_an_interrupted_writer_leaves_nothing(folder, monkeypatch):
    wrapper = ModelWrapper.from_model(model())
    opened = len(os.listdir("/proc/self/fd"))

    def interrupted(descriptor: int, piece: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(disk, "_write", interrupted)
        wrapper.load()
    assert not images(folder) and not left(folder) and len(os.listdir("/proc/self/fd")) == opened
    assert from_file(wrapper.load())
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == opened


def test_nobody_waits_for_a_writer_that_has_stopped(folder, monkeypatch):
    wrapper = ModelWrapper.from_model(model())
    wrapper.load()
    gc.collect()
    [path] = images(folder)
    path.unlink()
    monkeypatch.setattr(node_files, "PATIENCE", 0.2)
    with open(path.with_suffix(node_files._LOCK), "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        loaded = wrapper.load()
        assert same(loaded, model()) and not from_file(loaded)
    assert from_file(wrapper.load())


def full(descriptor: int, piece: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def slow(descriptor: int, piece: object, write=disk._write) -> None:
    time.sleep(0.4)
    write(descriptor, piece)


@pytest.mark.parametrize("write, text", [(full, "No space left on device"), (slow, "is slow")])
def test_a_disk_that_is_full_or_slow_leaves_the_model_in_the_store(folder, monkeypatch, write, text):
    wrapper = ModelWrapper.from_model(model(width=3000))
    monkeypatch.setattr(node_files, "PATIENCE", 0.3)
    calls = []
    with monkeypatch.context() as patch, warned(text):
        patch.setattr(disk, "_write", lambda *arguments: calls.append(1) or write(*arguments))
        for _ in range(3):
            loaded = wrapper.load()
    assert same(loaded, model(width=3000)) and not from_file(loaded)
    assert len(calls) == 1 and not images(folder)  # others know, for a while
    assert left(folder) == [node_files._FAILED]
    monkeypatch.setattr(node_files, "RETRY", 0)
    monkeypatch.setattr(node_files, "PATIENCE", 60)
    assert from_file(wrapper.load()) and not left(folder)


@pytest.fixture
def mounts(folder):
    """Mount file systems, the last one at the folder; gone in the end."""
    made = []

    def mount(kind: str, options: str, path: Path = folder) -> None:
        path.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", kind, "-o", options, kind, str(path)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip(f"this user cannot mount a {kind}")
        made.append(path)

    yield mount
    gc.collect()
    for path in reversed(made):
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_small_disk(folder, mounts):
    mounts("tmpfs", "size=6M")
    first, second = ModelWrapper.from_model(model()), ModelWrapper.from_model(model(1))
    too_large = ModelWrapper.from_model(model(width=2000))
    held = first.load()
    assert from_file(held)
    with warned("on this disk"):
        assert not from_file(second.load()) and not from_file(too_large.load())
    del held
    gc.collect()
    assert from_file(second.load()) and len(images(folder)) == 1  # room is made for what can fit


def test_a_folder_that_cannot_be_had(folder, monkeypatch):
    wrapper = ModelWrapper.from_model(model())
    folder.write_text("a file")
    with warned(str(folder)):
        assert same(wrapper.load(), model())
    monkeypatch.setattr(node_files, "_warned", False)
    monkeypatch.setenv(settings.NODE_FILES, str(folder.parent / "none" / "here"))
    with warned("No such file"):
        assert same(wrapper.load(), model())


def test_a_folder_that_others_can_write_to_is_not_trusted(folder):
    wrapper = ModelWrapper.from_model(model())
    assert from_file(wrapper.load())
    folder.chmod(0o777)
    with warned("chmod"):
        assert not from_file(wrapper.load())
    folder.chmod(0o1777)
    assert from_file(wrapper.load())
    next(folder.iterdir()).chmod(0o770)
    assert not from_file(wrapper.load())


def test_read_only_memory_that_was_asked_for_is_not_of_files(folder, monkeypatch):
    monkeypatch.setenv(settings.ISOLATION, "read-only")
    with warned(settings.ISOLATION):
        loaded = ModelWrapper.from_model(model()).load()
    assert ray_zerocopy.isolation(loaded) == "read-only"


@pytest.mark.parametrize("variable, value", [(settings.NODE_FILES, "here"), (settings.NODE_FILES_BYTES, "much")])
def test_settings_are_checked(folder, monkeypatch, variable, value):
    wrapper = ModelWrapper.from_model(model())
    monkeypatch.setenv(variable, value)
    with pytest.raises(errors.SettingError, match=f"{variable}={value!r}"):
        wrapper.load()


# --- processes and clusters ----------------------------------------------------------------------------


def is_locked(path: Path) -> bool:
    return not node_files._Entry(True, 0, 0, str(path.parent), path.name).idle()


def test_a_file_is_in_use_as_long_as_what_was_loaded_and_in_forked_children_too(folder):
    loaded = ModelWrapper.from_model(model()).load()
    [path] = images(folder)
    weight = loaded[0].weight.detach()[5]
    del loaded
    gc.collect()
    assert is_locked(path)
    (ready, tell), (go, end) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(end)
            os.read(go, 1)
            os.write(tell, b"1" if torch.equal(weight, model()[0].weight[5]) else b"0")
        finally:
            os._exit(0)
    os.close(go)
    expected, weight = weight.clone(), None
    gc.collect()
    assert is_locked(path)  # by the child
    os.close(end)
    assert os.read(ready, 1) == b"1"
    os.waitpid(child, 0)
    for each in (ready, tell):
        os.close(each)
    assert not is_locked(path) and torch.equal(expected, model()[0].weight[5])


def test_a_file_is_in_use_on_a_container_s_file_system_too(folder, mounts):
    layers = folder.parent / "layers"
    mounts("tmpfs", "size=20M", layers)
    for name in ("lower", "upper", "work"):
        (layers / name).mkdir()
    mounts("overlay", f"lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work")
    loaded = ModelWrapper.from_model(model()).load()
    [path] = images(folder)
    assert is_locked(path) and same(loaded, model())
    del loaded
    gc.collect()
    assert not is_locked(path)


SHUTDOWN = """
import os, sys
import ray, torch
from test_node_files import file_of, from_file, model, same
from ray_zerocopy import ModelWrapper

ray.init(sys.argv[1], log_to_driver=False)
loaded = ModelWrapper.from_model(model(7)).load()
assert from_file(loaded)
ray.shutdown()
os.unlink(file_of(loaded)[0])
assert same(loaded, model(7))
loaded(torch.ones(1, 1000))
"""


def test_what_is_loaded_outlives_ray(folder):
    address = ray.get_runtime_context().gcs_address
    run_script(SHUTDOWN, address, RAY_ZEROCOPY_NODE_FILES=str(folder))
    assert len(list(folder.iterdir())) == 1  # another driver of the same cluster has the same files


def test_the_files_of_a_session_end_with_it_and_with_its_boot(folder):
    held = ModelWrapper.from_model(model()).load()
    boot = node_files._boot()
    names = {
        "gone": f"{boot}-session_gone",
        "crashed": f"{'0' * 8}-0000-0000-0000-{'0' * 12}-{connection.session()}",
        "running": f"{boot}-session_running",
        "in use": f"{boot}-session_in_use",
        "not ours": "something",
    }
    paths = {what: folder / name / f"{'0' * 32}{node_files._IMAGE}" for what, name in names.items()}
    for path in paths.values():
        path.parent.mkdir()
        path.write_bytes(b"after a crash of the machine this may be anything")
    raylet = ["raylet", "-c", "import time; time.sleep(60)", "--session-name=session_running"]
    with open(paths["in use"]) as used, subprocess.Popen(raylet, executable=sys.executable) as other:
        fcntl.flock(used, fcntl.LOCK_SH)
        assert settles(lambda: any("session_running" in command for command in node_files._raylets()))
        ModelWrapper.from_model(model(1)).load()
        other.kill()
    there = {what for what, path in paths.items() if path.exists()}
    assert there == {"running", "in use", "not ours"}
    assert not paths["gone"].parent.exists() and same(held, model())
