"""The image format: what docs/format.md says, read by this test alone; and bytes that do not check out."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import pickle
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from compare import assert_same
from helpers import run_script
from make_golden import aligned, example, fine_tuned, resealed, written
from ray_zerocopy import ModelWrapper, core, errors, image, reading
from ray_zerocopy.graph import pipeline, rebuild

GOLDEN = Path(__file__).parent / "golden"


VERSIONS = (1, 2)
EXAMPLES = ("1", "2", "2-shared")


def golden(version: int | str = 2) -> np.ndarray:
    data = (GOLDEN / f"v{version}.image").read_bytes()
    memory = aligned(len(data))
    memory[:] = np.frombuffer(data, np.uint8)
    return memory


def read(data: bytes, base: bytes = b"") -> dict:
    """A reader made from docs/format.md alone; of an image with one base at most."""
    magic, version, order, image_size, head_size, segments, blocks, _, _, start, length, crc = struct.unpack_from(
        "<8sIIQQQQQQQQI", data
    )
    assert magic == b"\x89RZC\r\n\x1a\n"
    assert version in VERSIONS
    assert order == 0x01020304
    assert image_size == len(data)
    assert zlib.crc32(data[:80] + bytes(4) + data[84:head_size]) == crc
    table = [list(struct.unpack_from("<QQ", data, 128 + 16 * row)) for row in range(segments + blocks)]
    tensors = json.loads(data[start : start + length])["tensors"]
    for tensor in tensors:
        size = 0
        if 0 not in tensor["shape"]:
            last = sum((n - 1) * s for n, s in zip(tensor["shape"], tensor["stride"], strict=True))
            size = (last + 1) * getattr(torch, tensor["dtype"]).itemsize
        assert tensor.get("base", 0) == 0
        within, row = base if "base" in tensor else data, 128 + 16 * tensor["segment"]
        at = sum(struct.unpack_from("<Q", within, place)[0] for place in (24, row)) + tensor["offset"]
        tensor["sha256"] = hashlib.sha256(within[at : at + size]).hexdigest()
    found = {
        "tensors": tensors,
        "image_size": image_size,
        "head_size": head_size,
        "segments": table[:segments],
        "blocks": table[segments:],
        "crc32": crc,
    }
    if version > 1:
        start, count = struct.unpack_from("<QQ", data, 88)
        found["xxh3"] = list(struct.unpack_from(f"<{count}Q", data, start))
        pieces = []
        for offset, length in table[segments:]:
            within, place = data, head_size + offset
            if offset >> 63:
                assert offset >> 48 == 1 << 15  # base 0
                within, place = base, struct.unpack_from("<Q", base, 24)[0] + offset % (1 << 48)
            pieces += [within[place + at : place + min(at + (16 << 20), length)] for at in range(0, length, 16 << 20)]
        assert found["xxh3"] == [xxhash.xxh3_64_intdigest(piece) for piece in pieces]
        about, length, bases = struct.unpack_from("<QQQ", data, 104)
        if length:
            found["about"] = json.loads(data[about : about + length])
        if bases:
            row = -(-(about + length) // 64) * 64
            low, high, size = struct.unpack_from("<QQQ", data, row)
            found["bases"] = [[f"{high:016x}{low:016x}", size]]
            assert xxhash.xxh3_128_hexdigest(base[: struct.unpack_from("<Q", base, 24)[0]]) == found["bases"][0][0]
    return found


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_of_each_version_is_what_its_description_says(name):
    base = (GOLDEN / "v2.image").read_bytes() if "shared" in name else b""
    found = read((GOLDEN / f"v{name}.image").read_bytes(), base)
    assert found == json.loads((GOLDEN / f"v{name}.json").read_text())


def test_the_example_that_shares_blocks_is_a_file_that_opens():
    wrapper = ModelWrapper.open(GOLDEN / "v2-shared.image")
    wrapper.verify()
    assert_same(fine_tuned(), wrapper.load())
    assert wrapper.nbytes < golden().nbytes / 2
    assert torch.equal(wrapper.tensors()["['list'][0].weight"], example()["list"][0].weight)
    assert ModelWrapper.open(GOLDEN / "v1.image").load()["note"] == "format 1"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_example_of_each_version_still_loads(version):
    loaded = reading.load(golden(version), [])
    expected = example()
    assert loaded["note"] == "format 1"
    assert np.array_equal(loaded["array"], expected["array"])
    assert loaded["list"][0] is loaded["list"][1]
    assert torch.equal(loaded["list"][0].weight, expected["list"][0].weight)
    assert loaded["model"].state_dict().keys() == expected["model"].state_dict().keys()
    for name in ("weight", "brain", "transposed", "empty", "tail"):
        left, right = getattr(expected["model"], name), getattr(loaded["model"], name)
        assert (left.dtype, left.shape, left.stride()) == (right.dtype, right.shape, right.stride())
        assert torch.equal(left, right)
    with torch.no_grad():
        loaded["model"].weight.view(-1)[10] = -1.0
    assert loaded["model"].tail[0] == -1.0


def test_the_index_names_every_tensor_that_a_state_dict_has():
    for name in ("pipeline", "bert", "gpt2_with_tied_weights", "models_in_containers_private_attributes_and_children"):
        root, _ = zoo.ZOO[name]()
        found = read(written(root).tobytes())["tensors"]
        names = [tensor["name"] for tensor in found]
        assert len(names) == len(set(names))
        expected = {
            f"{path}.{key}" if path else key: value
            for path, model in pipeline.named_models(root)
            for key, value in model.state_dict(keep_vars=True).items()
        }
        assert {tensor["name"] for tensor in found if tensor["persistent"]} == set(expected)
        for tensor in found:
            if tensor["persistent"]:
                assert tensor["shape"] == list(expected[tensor["name"]].shape)
                assert tensor["stride"] == list(expected[tensor["name"]].stride())


def test_the_core_gives_the_index_that_a_stranger_reads():
    memory = golden()
    described = json.loads((GOLDEN / "v2.json").read_text())["tensors"]
    for tensor in described:
        del tensor["sha256"]
    assert json.loads(core.index(memory.ctypes.data, memory.nbytes))["tensors"] == described


@pytest.mark.parametrize("name", zoo.ZOO)
def test_the_core_accepts_every_index(name):
    memory = written(zoo.ZOO[name]()[0])
    core.index(memory.ctypes.data, memory.nbytes)


def test_a_flipped_bit_of_the_data_is_found_and_named():
    model = torch.nn.Sequential(torch.nn.Linear(3000, 2000), torch.nn.Linear(7, 3), torch.nn.Embedding(5000, 1000))
    tied = torch.nn.ModuleDict({"one": model, "two": torch.nn.ModuleList([model[2]])})
    memory = written(zoo.Holder(tied=tied, array=np.arange(5000)))
    reading.verify(memory)
    head = int(memory[24:32].view(np.uint64)[0])
    loaded = reading.load(memory, [])
    for tensor, says in [
        (loaded.tied["one"][0].weight, r"tensor 'tied\.one\.0\.weight' \(block"),
        (loaded.tied["one"][1].bias, r"tensor 'tied\.one\.1\.bias' \(block"),
        (loaded.tied["two"][0].weight, r"tensor 'tied\.one\.2\.weight' and 1 that share its memory"),
        (torch.from_numpy(loaded.array), "something that is no named tensor"),
    ]:
        size = tensor.numel() * tensor.element_size()
        for at in (0, size // 2, size - 1):
            position = tensor.data_ptr() - memory.ctypes.data + at
            assert head <= position < memory.nbytes
            memory[position] ^= 0x10
            with pytest.raises(errors.DamagedImageError, match=says):
                reading.verify(memory)
            memory[position] ^= 0x10
    reading.verify(memory)
    with pytest.raises(errors.ImageVersionError, match=r"version 1 .*no checksums"):
        reading.verify(golden(1))


def test_every_byte_of_the_head_is_guarded():
    """Each byte of header, tables, skeleton and index changed in turn: always the typed error, never a crash."""
    memory = golden()
    head_size = int(memory[24:32].view(np.uint64)[0])
    for position in range(head_size):
        for mask in (0x01, 0x80, 0xFF):
            memory[position] ^= mask
            with pytest.raises(errors.ImageError):
                core.check_head(memory.ctypes.data, memory.nbytes, memory.nbytes)
            memory[position] ^= mask
    reading.load(memory, [])


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_numbers_of_shared_blocks_that_lie_never_crash(mask):
    original, base = golden("2-shared"), golden()
    head = reading.header(original)
    end = head.about_offset + head.about_size
    for position in (*range(128 + 16 * (head.segment_count + head.block_count)), *range(end, head.head_size)):
        memory = original.copy()
        memory[position] ^= mask
        resealed(memory)
        for read in (
            lambda memory=memory: reading.load(memory, [], bases=[base]),
            lambda memory=memory: reading.named_tensors(memory, [base]),
            lambda memory=memory: reading.verify(memory, [base]),
            lambda memory=memory: image.again(memory, [base], [base]),
        ):
            with contextlib.suppress(errors.ImageError):
                read()


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_numbers_that_lie_under_a_good_checksum_never_crash(mask):
    original = golden()
    segments, blocks = (int(original[at : at + 8].view(np.uint64)[0]) for at in (32, 40))
    start = int(original[48:56].view(np.uint64)[0])
    references = 4 + 4 * 8  # the count and the first references of the skeleton
    for position in (*range(128 + 16 * (segments + blocks)), *range(start, start + references)):
        memory = original.copy()
        memory[position] ^= mask
        try:
            reading.load(resealed(memory), [])
        except errors.ImageError:
            continue


def test_what_images_should_not_say_is_an_error_of_ours_or_a_load():
    """Some thousands of changed images; `make soak` tries a million."""
    done = run_script("programs/hostile.py", "15", "1")
    assert re.search(r"\d{4,} images", done.stdout), done.stdout


def head_of(root) -> tuple[np.ndarray, int, int]:
    memory = written(root)
    start, length = (int(memory[at : at + 8].view(np.uint64)[0]) for at in (48, 56))
    return memory, start, start + length


def replaced(memory: np.ndarray, start: int, end: int, old: bytes, new: bytes) -> np.ndarray:
    skeleton = memory[start:end].tobytes()
    assert skeleton.count(old) == 1 and len(old) == len(new)
    memory[start:end] = np.frombuffer(skeleton.replace(old, new), np.uint8)
    return resealed(memory)


@pytest.mark.parametrize(
    ("root", "old", "new", "says"),
    [
        # pickle, by itself, would make room for what these numbers say
        (bytearray(b"x" * 300), b"\x96\x2c\x01\0\0", b"\x96\x2c\x01\0\x40", "counts"),
        (["a", "b"], b"\x8c\x01b\x94e.", b"r\0\0\0\x7f.", "entry 2130706432 of the memo"),
        # and torch
        (torch.zeros(7, 0, 5), b"K\x07K\0K\x05", b"K\x07K\x09K\x05", r"shape \(7, 9, 5\) over an empty storage"),
        (torch.zeros(77), b"KM\x85", b"KL\x85", r"shape \(76,\) over 308 bytes"),
        (torch.zeros(7, 11), b"K\x07K\x0b\x86", b"K\x09K\x0b\x86", "not resizable"),
    ],
)
def test_numbers_of_a_pickle_that_lie(root, old, new, says):
    memory = replaced(*head_of(root), old, new)
    with pytest.raises(errors.DamagedImageError, match=says):
        reading.load(memory, [])


SOUND = (3, "<", None, ("a", "b"), {"a": (np.dtype("i4"), 0), "b": (np.dtype("i4"), 4)}, 8, 1, 0)


@pytest.mark.parametrize(
    ("constructor", "state"),
    [
        ("i4", (3, "<", None, -1, -1, 0)),  # over which NumPy ends the process
        ("i4", (3, "<", None, None, None, -1, -1)),
        ("i4", [3, "<", None, None, None, -1, -1, 0]),
        ("i4", (3, "<", None, None, None, 2**31 - 1, -1, 0)),
        ("i4", (3, "|", None, None, None, -1, -1, 63)),  # bytes that would be taken for objects
        ("V8", (*SOUND[:5], 7, 1, 0)),
        ("V8", (*SOUND[:7], 63)),
        ("V8", (*SOUND[:3], ("a", "c"), *SOUND[4:])),
        ("V8", (*SOUND[:4], {"a": (np.dtype("i4"), -4), "b": (np.dtype("i4"), 4)}, *SOUND[5:])),
        ("V8", (*SOUND[:4], {"a": ("i4", 0), "b": (np.dtype("i4"), 4)}, *SOUND[5:])),
        ("V8", (3, "|", (np.dtype("i4"), (2, 1 << 40)), None, None, 8, 1, 0)),
        ("V8", (3, "|", (np.dtype("i4"), "x"), None, None, 8, 1, 0)),
    ],
)
def test_states_of_dtypes_that_lie(constructor, state):
    with pytest.raises(errors.DamagedImageError, match="dtype"):
        rebuild._dtype_of_state((constructor, False, True), state)
    assert rebuild._dtype_of_state(("V8", False, True), SOUND) == np.dtype([("a", "i4"), ("b", "i4")])


def test_no_image_has_pickle_set_the_state_of_a_dtype():
    skeleton = written(zoo.ZOO["numpy_arrays"]()[0]).tobytes()
    assert b"\x8c\x05dtype" not in skeleton


def test_sparse_indices_that_lie():
    tensor = torch.sparse_coo_tensor([[1, 2, 3], [4, 5, 6]], torch.ones(3), (10, 10))
    memory = written(tensor)
    numbers = memory[: memory.nbytes // 8 * 8].view(np.int64)
    (at,) = np.flatnonzero((numbers[:-2] == 4) & (numbers[1:-1] == 5) & (numbers[2:] == 6))
    numbers[at] = 1 << 40
    with pytest.raises(errors.DamagedImageError, match="index"):
        reading.load(memory, [])


class Careless:
    """Raises an error of its own when it is rebuilt."""

    def __setstate__(self, state):
        raise ValueError("of its own")


def test_an_error_of_the_pipelines_own_code_stays_what_it_is():
    careless = Careless()
    careless.model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="of its own") as caught:
        reading.load(written(careless), [])
    assert type(caught.value) is ValueError


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=4096))
def test_foreign_bytes_are_refused(data):
    memory = np.frombuffer(data or b"x", np.uint8)
    with pytest.raises(errors.ForeignImageError):
        core.check_head(memory.ctypes.data, memory.nbytes, memory.nbytes)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 2047, 2048, 4000])
def test_a_truncated_image_is_refused(size):
    memory = golden()[:size]
    with pytest.raises(errors.ImageError):
        core.check_head(memory.ctypes.data if size else 0, size, size)


def test_a_later_version_and_another_byte_order_are_told_apart():
    later = golden()
    later[8] = 3
    with pytest.raises(errors.ImageVersionError, match="version 3"):
        reading.load(resealed(later), [])
    swapped = golden()
    swapped[12:16] = swapped[12:16][::-1].copy()
    with pytest.raises(errors.ForeignImageError):
        reading.load(resealed(swapped), [])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]),
            st.lists(st.integers(0, 5), max_size=4),
            st.booleans(),
        ),
        max_size=12,
    ),
    st.integers(0, 70_000),
)
def test_any_set_of_tensors_comes_back(kinds, padding):
    base = torch.zeros(100_000, dtype=torch.uint8)
    tensors = [base[padding:], base[padding // 2 : padding]]
    for dtype, shape, flipped in kinds:
        tensor = torch.ones(shape).to(dtype)
        tensors.append(tensor.permute(*reversed(range(tensor.dim()))) if flipped and shape else tensor)
    assert_same(tensors, reading.load(written(tensors), []))


def test_overlapping_memory_is_stored_once():
    base = torch.zeros(1 << 20, dtype=torch.uint8)
    array = base.numpy()
    root = [base, torch.from_numpy(array[1000:]), torch.from_numpy(array[:500_000]), array[7:9000]]
    assert written(root).nbytes < (1 << 20) + 8192
    assert_same(root, reading.load(written(root), []))


def test_building_copies_nothing_but_the_small_blocks():
    model = torch.nn.Sequential(torch.nn.Linear(1000, 1000), torch.nn.Linear(1000, 1000))
    built = image.build(model, "model", [])
    weights = {model[0].weight.data_ptr(), model[1].weight.data_ptr()}
    own = [part for part in built.parts if part.ctypes.data not in weights]
    assert len(own) == len(built.parts) - 2
    assert sum(part.nbytes for part in own) < 16384


class Completed(torch.nn.Linear):
    """Completes the state that it is given, as torch's convolutions do; here by a note of what that was."""

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.given = [(name, type(value), bool(value)) for name, value in state.items() if "hooks" in name]


def test_a_class_with_a_setstate_of_its_own_is_given_what_pickle_gives_it():
    model = Completed(2, 2)
    model.register_forward_hook(print)
    loaded, pickled = reading.load(written(model), []), pickle.loads(pickle.dumps(model))
    assert len(loaded.given) > 9
    assert loaded.given == pickled.given
    assert_same(pickled, loaded)


class Stubborn:
    """Cannot be loaded."""

    def __getstate__(self) -> str:
        return "no"

    def __setstate__(self, state: str) -> None:
        raise ValueError(state)


def collected_during(action) -> int:
    """How often the garbage collector runs meanwhile."""
    runs: list[str] = []

    def note(phase: str, info: dict) -> None:
        runs.append(phase)

    gc.callbacks.append(note)
    try:
        action()
    finally:
        gc.callbacks.remove(note)
    return runs.count("start")


def test_the_garbage_collector_rests_while_an_image_is_made_or_loaded_and_only_then():
    model = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(1500)))
    memory = written(model)
    assert collected_during(lambda: pickle.loads(pickle.dumps(model))) > 2  # what it would do
    for action in (lambda: image.build(model, "model", []), lambda: reading.load(memory, [])):
        gc.collect(0)
        assert collected_during(action) <= 1  # once it is allowed to again
        assert gc.isenabled()
    stubborn = written(Stubborn())
    with pytest.raises(ValueError, match="no"):
        reading.load(stubborn, [])
    assert gc.isenabled()


def test_a_garbage_collector_that_was_off_stays_off():
    memory = written(zoo.tied_weights())
    gc.disable()
    try:
        reading.load(memory, [])
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_array_of_objects_that_says_it_has_more_is_an_error_of_ours():
    from ray_zerocopy.graph import rebuild

    made = rebuild._no_objects(np.dtype(object))
    for shape in ((130,), (1 << 60,), (-1, -2), (2, 2)):
        with pytest.raises(errors.DamagedImageError):
            rebuild._set_objects(made, (shape, [1], True))
