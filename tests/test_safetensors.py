"""Safetensors files, beside the format's own reader and writer; models that are filled with tensors by name."""

from __future__ import annotations

import gc
import json
import math
import pickle
import random
import struct
import weakref

import numpy as np
import pytest
import safetensors
import safetensors.torch as reference
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from helpers import mappings
from ray_zerocopy import core, errors, image
from ray_zerocopy.graph.filling import fill
from ray_zerocopy.stores import checkpoints

DTYPES = list(checkpoints._DTYPES.values())
F32 = '"dtype":"F32","shape":[1],"data_offsets":[0,4]'


def as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert tensor.shape == other[name].shape, name
        assert as_bytes(tensor) == as_bytes(other[name]), name


def random_tensor(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    if dtype is torch.bool:
        return torch.rand(shape) < 0.5
    data = torch.randint(256, (math.prod(shape) * dtype.itemsize,), dtype=torch.uint8)
    return torch.empty((0,), dtype=dtype).set_(data.untyped_storage(), 0, shape)


def every_dtype() -> dict:
    tensors = {f"a {dtype} ü😀\n": random_tensor(dtype, 3, 4) for dtype in DTYPES}
    tensors.update({f"empty {dtype}": random_tensor(dtype, 0, 2) for dtype in DTYPES})
    return {**tensors, "scalar": torch.tensor(1.5), "one": torch.tensor([True]), "odd": random_tensor(torch.int8, 3)}


# --- files -----------------------------------------------------------------------------------------


def test_files_are_the_bytes_that_the_formats_own_writer_makes(tmp_path):
    for tensors in (every_dtype(), {}, {"a": torch.ones(3)}):
        for metadata in (None, {"format": "pt"}):
            checkpoints.write(tmp_path / "ours", tensors, metadata)
            reference.save_file(tensors, tmp_path / "theirs", metadata)
            assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_either_reads_what_the_other_writes(tmp_path):
    tensors = every_dtype()
    checkpoints.write(tmp_path / "ours", tensors, {"k": 'v"\\\u2028', "": "ü"})
    assert_equal(reference.load_file(tmp_path / "ours"), tensors)
    with safetensors.safe_open(tmp_path / "ours", "pt") as opened:
        assert opened.metadata() == {"k": 'v"\\\u2028', "": "ü"}
    reference.save_file(tensors, tmp_path / "theirs")
    assert_equal(checkpoints.read(tmp_path / "theirs"), tensors)
    (tmp_path / "folder").mkdir()
    (tmp_path / "theirs").rename(tmp_path / "folder" / "model.safetensors")
    assert_equal(checkpoints.read(str(tmp_path / "folder")), tensors)


def test_every_dtype_of_the_format_that_torch_has_is_known():
    known = {str(dtype).replace("torch.", "") for dtype in reference._SIZE if dtype is not None}
    assert {str(dtype).replace("torch.", "") for dtype in DTYPES} == known


def test_tensors_lie_in_a_mapping_of_the_file_each_over_its_own_bytes(tmp_path):
    tensors = {"a": torch.randn(300, 300), "b": random_tensor(torch.bfloat16, 7), "c": random_tensor(torch.int8, 3)}
    path = tmp_path / "model.safetensors"
    checkpoints.write(path, tensors)
    before = path.read_bytes()
    read = checkpoints.read(path)
    for name, tensor in read.items():
        assert any(str(path) in line for line in mappings(tensor.data_ptr())), name
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
        assert tensor.storage_offset() == 0 and tensor.is_contiguous() and tensor._base is None
        tensor.view(torch.uint8).zero_()  # in this process alone
    assert path.read_bytes() == before
    assert image.build(read, "read", []).size < sum(tensor.nbytes for tensor in read.values()) + 10_000
    address = read["a"].data_ptr()
    kept = read["c"]
    del read, tensor
    gc.collect()
    assert any(str(path) in line for line in mappings(address))
    del kept
    gc.collect()
    assert not any(str(path) in line for line in mappings(address))


def test_only_tensors_that_are_not_aligned_are_copied(tmp_path):
    values = {"byte": random_tensor(torch.uint8, 1), "f32": torch.randn(5), "f64": torch.randn(5).double()}
    header, data = {}, b""
    for name, dtype in (("f64", "F64"), ("byte", "U8"), ("f32", "F32")):
        begin, data = len(data), data + as_bytes(values[name])
        header[name] = {"dtype": dtype, "shape": list(values[name].shape), "data_offsets": [begin, len(data)]}
    for pad in (0, 1):
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8 + pad)
        path = tmp_path / f"{pad}.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        read = checkpoints.read(path)
        assert_equal(read, values)
        for name, tensor in read.items():
            place = 8 + len(text) + header[name]["data_offsets"][0]
            in_file = any(str(path) in line for line in mappings(tensor.data_ptr()))
            assert in_file == (place % tensor.itemsize == 0), (pad, name)
            assert tensor.data_ptr() % tensor.itemsize == 0
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_tied_tensors_are_written_once_as_save_model_does(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.z, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.c = nn.Linear(4, 4)
            self.b.weight = self.z.weight

    model = Tied()
    reference.save_model(model, tmp_path / "theirs")
    checkpoints.write(tmp_path / "ours", model.state_dict())
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    checkpoints.write(tmp_path / "ours", model.state_dict(), {"z.weight": "the user's own"})
    with safetensors.safe_open(tmp_path / "ours", "pt") as opened:
        assert opened.metadata() == {"z.weight": "the user's own"}
    whole = torch.arange(12.0).reshape(3, 4)
    views = {"whole": whole, "part": whole[1:], "turned": whole.t(), "wide": torch.ones(1).expand(5)}
    complex_values = torch.randn(3, dtype=torch.complex64)
    views.update(values=complex_values, conjugated=complex_values.conj(), imaginary=complex_values.conj().imag)
    checkpoints.write(tmp_path / "ours", views)  # other elements, or another order: each by itself
    assert_equal(checkpoints.read(tmp_path / "ours"), views)


def test_one_tensor_at_a_time_is_copied(tmp_path, monkeypatch):
    alive = []

    def bytes_of(tensor, made=checkpoints.graph.bytes_of):
        address, length, owner = made(tensor)
        alive[:] = [reference for reference in alive if reference() is not None]
        assert len(alive) <= 1  # the generator of the parts still holds the one before
        alive.append(weakref.ref(owner))
        return address, length, owner

    monkeypatch.setattr(checkpoints.graph, "bytes_of", bytes_of)
    tensors = {str(n): torch.randn(100, 100).t() for n in range(10)}
    checkpoints.write(tmp_path / "file", tensors)
    assert_equal(checkpoints.read(tmp_path / "file"), tensors)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"a.b": torch.zeros(2, dtype=torch.complex128)}, "tensor 'a.b' is complex128, and the format holds uint64"),
        ({"a.b": torch.zeros(2).to_sparse()}, "tensor 'a.b' is quantized or nested, or torch.sparse_coo"),
        ({"a.b": torch.zeros(2, device="meta")}, "tensor 'a.b' is on the meta device"),
        (
            {"a.b": torch.nested.nested_tensor([torch.zeros(2)], layout=torch.jagged)},
            "tensor 'a.b' is quantized or nested",
        ),
        ({"a.b": 5}, "'a.b' is a int"),
        ({"__metadata__": torch.zeros(2)}, "no tensor can have the name '__metadata__'"),
        ({5: torch.zeros(2)}, "no tensor can have the name 5"),
        ({"\ud800": torch.zeros(2)}, "which is no character"),
    ],
)
def test_what_the_format_cannot_hold_is_named_before_anything_is_written(tmp_path, tensors, says):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(errors.CheckpointError) as caught:
        checkpoints.write(path, {"fits": torch.zeros(3), **tensors})
    assert says in str(caught.value) and str(path) in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert path.read_text() == "old"


def test_a_tensor_without_memory_is_named_and_the_old_file_stays(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    empty = torch.zeros(5)
    empty.untyped_storage().resize_(0)
    with pytest.raises(errors.CheckpointError, match="'b' cannot be written: this Tensor has a shape and no memory"):
        checkpoints.write(path, {"a": torch.ones(5), "b": empty})
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    with FakeTensorMode():
        fake = torch.zeros(5)
    with pytest.raises(errors.CheckpointError, match="'b' cannot be written: "):
        checkpoints.write(path, {"a": torch.ones(5), "b": fake, "c": fake})
    with pytest.raises(errors.CheckpointError, match="metadata has 'a': 1, expected strings"):
        checkpoints.write(path, {}, {"a": 1})


def test_a_file_can_be_written_over_the_one_that_its_tensors_lie_in(tmp_path):
    path, tensors = tmp_path / "file", {"a": torch.randn(1000), "b": torch.randn(1000)}
    checkpoints.write(path, tensors)
    read = checkpoints.read(path)
    checkpoints.write(path, {"a": read["b"], "b": read["a"]})
    assert_equal(read, tensors)
    assert_equal(checkpoints.read(path), {"a": tensors["b"], "b": tensors["a"]})


# --- shards ----------------------------------------------------------------------------------------


def sharded(folder, weight_map=None, **shards):
    for shard, tensors in shards.items():
        checkpoints.write(folder / f"{shard}.safetensors", tensors)
    if weight_map is None:
        weight_map = {name: f"{shard}.safetensors" for shard, tensors in shards.items() for name in tensors}
    text = weight_map if isinstance(weight_map, str) else json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / checkpoints.INDEX).write_text(text)


def test_shards_are_read_by_their_index(tmp_path):
    one, two = {"a": torch.ones(2), "c": torch.ones(1)}, {"b": torch.zeros(3)}
    sharded(tmp_path, one=one, two=two)
    assert_equal(checkpoints.read(tmp_path), {**one, **two})
    assert_equal(checkpoints.read(tmp_path / checkpoints.INDEX), {**one, **two})
    sharded(tmp_path, {"a": "one.safetensors"})
    assert_equal(checkpoints.read(tmp_path), {"a": one["a"]})
    (tmp_path / "blobs").mkdir()  # as in the cache of a hub
    (tmp_path / "one.safetensors").rename(tmp_path / "blobs" / "123")
    (tmp_path / "one.safetensors").symlink_to("blobs/123")
    assert_equal(checkpoints.read(tmp_path), {"a": one["a"]})
    checkpoints.write(tmp_path / checkpoints.WHOLE, two)  # as transformers has it, a whole file goes first
    assert_equal(checkpoints.read(tmp_path), two)


@pytest.mark.parametrize(
    ("weight_map", "says"),
    [
        (
            {"a": "one.safetensors", "x": "lost-1", "y": "lost-2"},
            "2 of the 3 files that it names are not beside it: 'lost-1', 'lost-2'",
        ),
        (
            {"a": "one.safetensors", "x": "one.safetensors"},
            "it says that 'one.safetensors' has 'x', which that file has not",
        ),
        (
            {"a": "one.safetensors", "b": "two.safetensors"},
            "both 'one.safetensors' and 'two.safetensors' have a tensor 'b'",
        ),
        ({"a": "../one.safetensors"}, "'../one.safetensors' is no plain name of a file beside it"),
        ({"a": "/etc/passwd"}, "'/etc/passwd' is no plain name"),
        ({"a": "sub/one.safetensors"}, "'sub/one.safetensors' is no plain name"),
        ({"a": ".."}, "'..' is no plain name"),
        ({"a": ""}, "'' is no plain name"),
        ({"a": "one\0"}, "is no plain name"),
        ({"a": 5}, "5 is no plain name"),
        ([], "no object with a weight_map"),
        ('{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}', "the key 'a' occurs twice"),
        ("{}", "no object with a weight_map"),
        ("[]", "no object with a weight_map"),
        ("{", "this is no index of shards"),
        ("[" * 100_000, "this is no index of shards"),
    ],
)
def test_an_index_that_does_not_hold_is_refused(tmp_path, weight_map, says):
    folder = tmp_path / "folder"
    folder.mkdir()
    sharded(folder, weight_map, one={"a": torch.ones(2), "b": torch.ones(1)}, two={"b": torch.zeros(3)})
    checkpoints.write(tmp_path / "one.safetensors", {"a": torch.zeros(2)})
    with pytest.raises(errors.CheckpointError) as caught:
        checkpoints.read(folder)
    assert says in str(caught.value) and checkpoints.INDEX in str(caught.value)


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(errors.CheckpointError, match=r"neither model.safetensors nor model.safetensors.index.json"):
        checkpoints.read(tmp_path)
    checkpoints.write(tmp_path / "other.safetensors", {})
    with pytest.raises(errors.CheckpointError, match=r"it has 'other.safetensors': name the one that you mean"):
        checkpoints.read(tmp_path)
    torch.save({"a": torch.ones(3)}, tmp_path / "model.pt")
    with pytest.raises(errors.CheckpointError, match=r"model.pt': not a safetensors file"):
        checkpoints.read(tmp_path / "model.pt")
    whole = (tmp_path / "other.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-1])
    with pytest.raises(errors.CheckpointError, match=r"cut.safetensors': damaged safetensors file: .* cut off"):
        checkpoints.read(tmp_path / "cut.safetensors")
    with pytest.raises(FileNotFoundError):
        checkpoints.read(tmp_path / "nothing")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(errors.FileError, match="this file is empty"):
        checkpoints.read(tmp_path / "empty")


@pytest.mark.parametrize(
    ("dtype", "shape", "size", "says"),
    [
        ("F6_E2M3", [4], 3, "tensor 'a' is F6_E2M3, which this torch has no dtype for"),
        ("F4", [2, 1], 1, "torch packs two values of the last dimension"),
        ("F32", [0, 2**64 - 1], 0, "tensor 'a' has shape"),
    ],
)
def test_tensors_that_torch_does_not_have_are_named(tmp_path, dtype, shape, size, says):
    text = json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}).encode()
    (tmp_path / "file").write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    with pytest.raises(errors.CheckpointError) as caught:
        checkpoints.read(tmp_path / "file")
    assert says in str(caught.value)


# --- headers, beside the format's own reader ---------------------------------------------------------


def ours(file: bytes) -> dict | None:
    """Names with what a file says of them; None for a file that is refused."""
    memory = np.frombuffer(file, np.uint8)
    try:
        header = json.loads(core.safetensors(core.address(memory) if file else 0, len(file), len(file)))
    except errors.ImageError:
        return None
    data = file[header["data"] :]
    return {t["name"]: (t["dtype"], t["shape"], data[t["begin"] : t["end"]]) for t in header["tensors"]}


def theirs(file: bytes) -> dict | None:
    try:
        tensors = safetensors.deserialize(file)
    except safetensors.SafetensorError:
        return None
    return {name: (t["dtype"], t["shape"], bytes(t["data"])) for name, t in tensors}


def file(header: str | bytes, data: int) -> bytes:
    text = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
    return struct.pack("<Q", len(text)) + text + bytes(range(data))


NESTED = [f'{{"a":{{{F32},"x":{"[" * n}{"]" * n}}}}}' for n in (1, 124, 125, 126, 127, 5000)]
NAMED = f'{{"__metadata__":{{"a":"b","c":""}},"a":{{{F32}}},"b":{{"dtype":"U8","shape":[2,0],"data_offsets":[4,4]}}}}'
HEADERS = [
    *["", " ", "{}", "\t\n{} \r", "\ufeff{}", "{}x", "{}\0", "{}{}", "[]", "null", b"\xff", '{"\ud800":1}', NAMED],
    *[f'{{"a":{{{F32}}},"a":{{{F32}}}}}', f'{{"a":{{{F32[:-2]}9]}},"a":{{{F32}}}}}', f'{{"a":{{}},"a":{{{F32}}}}}'],
    *[f'{{"__metadata__":{m},"a":{{{F32}}}}}' for m in ("null", "{}", "[]", '"a"', '{"a":1}', '{"a":null}', '{"a":"b","a":"c"}')],
    *[f'{{"__metadata__":{m},"__metadata__":{m},"a":{{{F32}}}}}' for m in ("null", "{}")],
    *[f'{{"a":[{items}]}}' for items in ('"F32",[1],[0,4]', '"F32",[1]', '"F32",[1],[0,4],0', '[1],"F32",[0,4]')],
    *[f'{{"a":{{"dtype":{dtype},"shape":[1],"data_offsets":[0,4]}}}}' for dtype in (
        '{"F32":null}', '{"F32":{}}', '{"F32":[]}', "{}", '{"F32":null,"F32":null}', '"f32"', "null", "4", '["F32"]', '"F\\u0033\\u0032"',
    )],
    *[f'{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}' for end in (0, 4) for shape in (
        "[]", "[1]", "[-0]", "[0]", "[-1]", "[1.0]", "[1e0]", "[01]", "[null]", '["1"]', "null", "{}", '""', "[[1]]", "[1,1,1]",
        f"[0,{2**64 - 1}]", f"[{2**64 - 1},0]", f"[{2**63},2,0]", f"[{2**64},0]", f"[{2**62},4]", f"[{2**59},0]", f"[{2**63},1]",
    )],
    *[f'{{"a":{{"dtype":"F32","shape":[1],"data_offsets":{offsets}}}}}' for offsets in (
        "[0,4,4]", "[4]", "[]", "{}", "[0,4.0]", "[-0,4]", "[4,0]", "[4,8]", "[1,4]", "[0,3]", f"[0,{2**64}]", f"[0,{2**64 - 1}]",
    )],
    *[f'{{"a":{{{F32},{more}}}}}' for more in (
        '"x":1', '"x":1,"x":2', '"dtype":"F32"', '"__metadata__":[]', '"x":1e400', '"x":-1e400', '"x":0e400', '"x":1e-400', '"x":1e308',
        '"x":123456789012345678901234567890', '"x":01', '"x":-', '"x":1.', '"x":.5', '"x":+1', '"x":1E+5', '"x":NaN', '"x":tru', '"x":"\\x"',
        '"x":"\\/"', '"x":"\\ud800"', '"x":"\\udc00"', '"x":"\\ud800\\udc00"', '"x":"\\ud800\\ud800"', '"x":"\\uD83D\\uDE00"', '"x":"\\ud8"',
        '"x":"\\\\ud800"', '"x":"\\u0000"', '"x":"\x7f"', '"x":"\n"', '"x":{"a":1,"a":2}', '"x":{1:2}', '"x":{,}', '"x":[,]', '"x":[1,]', "",
        '"Dtype":1', '"\\u0064type":"F32"', '"x":[1 2]', '"x":{"a" 1}', '"x":/**/1', "'x':1",
    )],
    *NESTED,
]  # fmt: skip


def test_headers_are_taken_and_refused_as_by_the_formats_own_reader():
    taken = 0
    for header in HEADERS:
        for data in (0, 4):
            expected = theirs(file(header, data))
            assert ours(file(header, data)) == expected, header
            taken += expected is not None
    assert taken > 30
    for dtype in [*checkpoints._NAMES, "F6_E2M3", "F6_E3M2", "F5", ""]:
        for shape in ("[]", "[1]", "[2]", "[3]", "[4]", "[0]"):
            for size in range(33):
                made = file(f'{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{size}]}}}}', size)
                assert ours(made) == theirs(made), (dtype, shape, size)
    for length in (0, 7, 8, 9, 10, 11, 100_000_000, 100_000_001, 2**63, 2**64 - 1):
        for text in (b"", b"{}", b"{} "):
            made = struct.pack("<Q", length) + text
            assert ours(made) == theirs(made), (length, text)
    for made in (b"", b"1234567"):
        assert ours(made) is None and theirs(made) is None


PIECES = [
    '"',
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "0",
    "1",
    "4",
    "-",
    "e",
    ".",
    "null",
    " ",
    "\n",
    "\\",
    "\\u0061",
    "ü",
    '"a"',
    "\\ud800",
]


def changed(header: str, chance: random.Random) -> str:
    """A header with something put in, left out, written twice or changed."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        start = chance.randrange(len(header) + 1)
        end = min(len(header), start + chance.choice((0, 1, 1, 2, 5, 20)))
        put = chance.choice(("", chance.choice(PIECES), header[start:end] * 2, header[end : end + 10]))
        header = header[:start] + put + header[end:]
    return header


def test_headers_changed_at_random_are_taken_and_refused_alike():
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    bases = [header for header in HEADERS if isinstance(header, str) and len(header) < 300]
    bases += [NAMED] * len(bases)
    for number in range(10_000):
        made = file(changed(chance.choice(bases), chance), chance.choice((0, 4)))
        assert ours(made) == theirs(made), (seed, number, made)


# --- models ----------------------------------------------------------------------------------------


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight
        self.rnn, self.norm = nn.LSTM(4, 4), nn.BatchNorm1d(4)
        self.again = self.norm
        self.register_buffer("kept", torch.arange(3.0), persistent=False)
        self.head.requires_grad_(False)

    def forward(self, tokens):
        return self.head(self.norm(self.rnn(self.embed(tokens))[0])) + self.kept.sum()


def on_meta(make=Model):
    with torch.device("meta"):
        model = make()
    if hasattr(model, "kept"):
        model.kept = torch.arange(3.0)
    return model


def state_of(model: nn.Module) -> list:
    """All that a module has, by identity."""
    return [
        (path, {key: id(value) for key, value in vars(module).items()}, dict(module._parameters), dict(module._buffers))
        for path, module in model.named_modules(remove_duplicate=False)
    ]


def same_state(one: list, other: list) -> bool:
    def ids(state):
        return [(p, a, [{k: id(v) for k, v in d.items()} for d in registered]) for p, a, *registered in state]

    return ids(one) == ids(other)


def test_a_model_becomes_the_tensors_of_a_file_without_a_copy(tmp_path):
    model = Model().eval()
    checkpoints.write(tmp_path / "file", model.state_dict())
    tensors = checkpoints.read(tmp_path / "file")
    assert "head.weight" not in tensors
    filled = on_meta().eval()
    assert fill(filled, tensors) == ([], [])
    for name, tensor in filled.state_dict().items():
        if name != "head.weight" and not name.startswith("norm"):  # written under the name that sorts first
            assert tensor.data_ptr() == tensors[name].data_ptr(), name
    assert filled.head.weight is filled.embed.weight
    assert filled.again is filled.norm
    assert filled.rnn._flat_weights[0] is filled.rnn.weight_ih_l0
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in filled.named_parameters()} == wanted
    tokens = torch.tensor([1, 5, 2])
    assert torch.equal(filled(tokens), model(tokens))
    with torch.inference_mode():
        again = on_meta().eval()
        fill(again, tensors)
    assert not again.rnn.weight_ih_l0.is_inference()


def test_what_a_parameter_is_stays_the_models():
    class Own(nn.Parameter):
        pass

    model = nn.Linear(2, 2)
    model.weight = Own(torch.zeros(2, 2), requires_grad=False)
    model.weight.note = model.bias.note = "kept"
    given = {"weight": nn.Parameter(torch.ones(2, 2)), "bias": torch.ones(2, dtype=torch.float16)}
    fill(model, given)
    assert type(model.weight) is Own and type(model.bias) is nn.Parameter
    assert model.weight.note == model.bias.note == "kept"
    assert not model.weight.requires_grad and model.bias.requires_grad
    assert model.bias.dtype == torch.float16
    assert given["weight"].requires_grad and type(given["weight"]) is nn.Parameter  # the source's own
    assert not given["bias"].requires_grad


def test_tied_weights_take_one_tensor_under_any_of_their_names():
    for names in (["embed.weight"], ["head.weight"], ["embed.weight", "head.weight"]):
        model, tensors = on_meta(), Model().state_dict()
        weight = tensors["embed.weight"]
        for name in {"embed.weight", "head.weight"} - set(names):
            del tensors[name]
        if len(names) == 2:
            tensors["head.weight"] = weight.clone()  # the same bytes, in another place
            weight[0] = tensors["head.weight"][0] = float("nan")
        assert fill(model, tensors) == ([], [])
        assert model.head.weight is model.embed.weight
        assert model.head.weight.data_ptr() == weight.data_ptr()
    tensors["head.weight"] = weight + 1
    before = state_of(model)
    with pytest.raises(errors.FillError, match=r"'embed.weight' and 'head.weight' are one tensor in this Model"):
        fill(model, tensors)
    assert same_state(before, state_of(model))
    fill(model, tensors, strict=False)
    assert model.head.weight is model.embed.weight and model.head.weight.data_ptr() == weight.data_ptr()


def test_parameters_over_the_same_memory_stay_so():
    model = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    model[1].weight.data = model[0].weight.data
    tensors = {"0.weight": torch.ones(3, 3), "0.bias": torch.ones(3), "1.bias": torch.ones(3)}
    assert fill(model, tensors) == ([], [])
    assert model[1].weight is not model[0].weight
    assert model[1].weight.data_ptr() == model[0].weight.data_ptr() == tensors["0.weight"].data_ptr()


def test_names_that_do_not_fit_are_listed_with_what_looks_like_them():
    tensors = {f"model.{name}": tensor for name, tensor in Model().state_dict().items()}
    model = on_meta()
    before = state_of(model)
    with pytest.raises(errors.FillError) as caught:
        fill(model, tensors)
    error = caught.value
    assert same_state(before, state_of(model))
    counters = {"norm.num_batches_tracked", "again.num_batches_tracked"}  # old files are allowed to have none
    assert set(error.missing) == set(model.state_dict()) - counters and set(error.unexpected) == set(tensors)
    assert "14 names of the model without a tensor: 'embed.weight' (there is 'model.embed.weight')" in str(error)
    assert "16 tensors that it has no place for: " in str(error) and "and 11 more" in str(error)
    assert len(str(error)) < 2000
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.missing, copy.unexpected) == (str(error), error.missing, error.unexpected)

    model, tensors = Model(), Model().state_dict()
    old = model.rnn.weight_ih_l0
    del tensors["rnn.weight_ih_l0"]
    tensors["more"] = torch.zeros(1)
    missing, unexpected = fill(model, tensors, strict=False)
    assert (missing, unexpected) == (["rnn.weight_ih_l0"], ["more"])
    assert model.rnn.weight_ih_l0 is old and model.rnn.weight_hh_l0.data_ptr() == tensors["rnn.weight_hh_l0"].data_ptr()


@pytest.mark.parametrize("strict", [True, False])
def test_other_shapes_are_named_and_nothing_is_changed(strict):
    model, tensors = Model(), Model().state_dict()
    tensors["rnn.bias_hh_l0"] = torch.zeros(7)
    before, flat = state_of(model), list(model.rnn._flat_weights)
    with pytest.raises(errors.FillError, match=r"'rnn.bias_hh_l0' has \(7,\) and the model \(16,\)") as caught:
        fill(model, tensors, strict)
    assert caught.value.shapes == [("rnn.bias_hh_l0", (16,), (7,))]
    assert same_state(before, state_of(model))
    assert all(one is other for one, other in zip(flat, model.rnn._flat_weights))


@pytest.mark.parametrize("strict", [True, False])
def test_what_would_be_left_on_the_meta_device_is_named(strict):
    with torch.device("meta"):
        model = Model()
    tensors = Model().state_dict()
    with pytest.raises(
        errors.FillError, match=r"1 tensor of this Model would be left on the meta device.* 'kept'"
    ) as caught:
        fill(model, tensors, strict)
    assert caught.value.meta == ["kept"]
    assert all(parameter.is_meta for parameter in model.parameters())


def test_integers_cannot_become_what_is_trained():
    model = nn.Linear(2, 2)
    tensors = {"weight": torch.ones(2, 2, dtype=torch.int8), "bias": torch.ones(2)}
    with pytest.raises(errors.FillError, match=r"'weight' is int8, and the model trains it \(requires_grad\)"):
        fill(model, tensors)
    fill(model.requires_grad_(False), tensors)
    assert model.weight.dtype == torch.int8


class Special(nn.Module):
    """Has a name of old, a state of its own, and its own way to take tensors."""

    def __init__(self):
        super().__init__()
        self.weight, self.extra, self.seen = nn.Parameter(torch.zeros(2)), None, 0
        self.register_load_state_dict_pre_hook(self.renamed)

    @staticmethod
    def renamed(module, state, prefix, *_):
        if prefix + "old" in state:
            state[prefix + "weight"] = state.pop(prefix + "old").reshape(2)

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state

    def _load_from_state_dict(self, state, *rest):
        self.seen += 1
        super()._load_from_state_dict(state, *rest)


@pytest.mark.skipif(not hasattr(nn.Module, "register_load_state_dict_pre_hook"), reason="torch before 2.5")
def test_modules_own_ways_to_load_are_used_and_undone():
    model = nn.ModuleDict({"inner": Special()})
    before, old = state_of(model), model.inner.weight
    tensors = {"inner.old": torch.ones(1, 2), "inner._extra_state": torch.tensor(5), "more": torch.ones(1)}
    with pytest.raises(errors.FillError, match="1 tensor that it has no place for: 'more'"):
        fill(model, tensors)
    assert model.inner.weight is old and model.inner.extra is None and model.inner.seen == 0
    assert same_state(before, state_of(model))
    del tensors["more"]
    assert fill(model, tensors) == ([], [])
    assert model.inner.weight.data_ptr() == tensors["inner.old"].data_ptr()
    assert isinstance(model.inner.weight, nn.Parameter) and model.inner.weight.requires_grad
    assert model.inner.extra == 5 and model.inner.seen == 1


def test_an_error_of_a_modules_own_is_raised_as_it_is():
    class Raises(nn.Linear):
        def _load_from_state_dict(self, *_):
            raise KeyError("on purpose")

    model = nn.Sequential(nn.Linear(2, 2), Raises(2, 2))
    before = state_of(model)
    with pytest.raises(KeyError, match="on purpose"):
        fill(model, {name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert same_state(before, state_of(model))


def test_lazy_modules_and_torchs_swapping():
    model = nn.LazyLinear(3)
    fill(model, {"weight": torch.ones(3, 2), "bias": torch.ones(3)})
    assert torch.equal(model(torch.ones(1, 2)), torch.full((1, 3), 3.0))
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model, tensors = on_meta(), Model().state_dict()
        fill(model, tensors)
        assert torch.__future__.get_swap_module_params_on_conversion()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert model.head.weight is model.embed.weight
    assert model.head.weight.data_ptr() == tensors["embed.weight"].data_ptr()
