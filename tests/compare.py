"""Whether two object graphs are the same: attribute by attribute, bit by bit, and in what they share."""

from __future__ import annotations

import functools
import itertools
import types
from typing import Any

import numpy as np
import torch
import torch._dynamo
import torch.utils.hooks
from torch.nn.parameter import is_lazy

from ray_zerocopy.graph import compiled

_LEAVES = (str, bytes, bytearray, int, float, complex, bool, type(None), type, torch.dtype, torch.device, torch.Size)


def assert_same(expected: Any, actual: Any) -> None:
    """Raise an AssertionError that names the first place where two object graphs differ."""
    _Comparison().run(expected, actual)


class _Comparison:
    def __init__(self) -> None:
        self.pairs: dict[int, int] = {}  # id of an object there -> id of its counterpart here
        self.storages: dict[int, int] = {}
        self.addresses: list[tuple[str, int, int, int, int]] = []
        self.alive: list[Any] = []

    def run(self, expected: Any, actual: Any) -> None:
        self.visit("root", expected, actual)
        # memory that overlaps there overlaps here, by the same distance
        placed = sorted(self.addresses, key=lambda entry: entry[1])
        end, group = 0, []
        for entry in placed:
            if entry[1] >= end:
                group = []
            for path, there, _, here, _ in group:
                assert entry[1] - there == entry[3] - here, f"{entry[0]} no longer overlaps {path}"
            group.append(entry)
            end = max(end, entry[2])
        placed.sort(key=lambda entry: entry[3])
        for left, right in itertools.pairwise(placed):
            if right[3] < left[4]:
                assert right[1] < left[2] and left[1] < right[2], f"{left[0]} and {right[0]} overlap now"

    def visit(self, path: str, expected: Any, actual: Any) -> None:
        assert type(expected).__qualname__ == type(actual).__qualname__, (
            f"{path}: {type(expected)} became {type(actual)}"
        )
        if isinstance(expected, _LEAVES):
            equal = expected == actual or (expected != expected and actual != actual)
            assert equal or isinstance(expected, type), f"{path}: {expected!r} became {actual!r}"
            return
        if id(expected) in self.pairs:
            assert self.pairs[id(expected)] == id(actual), f"{path}: no longer the same object as elsewhere"
            return
        self.pairs[id(expected)] = id(actual)
        self.alive += [expected, actual]
        if isinstance(expected, torch.Tensor):
            self.tensor(path, expected, actual)
        elif isinstance(expected, (torch.UntypedStorage, torch.storage.TypedStorage)):
            self.storage(path, expected, actual)
        elif isinstance(expected, np.ndarray):
            self.array(path, expected, actual)
        elif isinstance(expected, dict):
            assert list(map(repr, expected)) == list(map(repr, actual)) or _free_keys(path, expected), (
                f"{path}: keys {list(expected)} became {list(actual)}"
            )
            for (key, value), other in zip(expected.items(), actual.values(), strict=True):
                self.visit(path if isinstance(key, torch.Tensor) else f"{path}[{key!r}]", value, other)
        elif isinstance(expected, (list, tuple)):
            assert len(expected) == len(actual), path
            for position, (left, right) in enumerate(zip(expected, actual, strict=True)):
                self.visit(f"{path}[{position}]", left, right)
        elif isinstance(expected, (set, frozenset)):
            assert expected == actual, path
        elif isinstance(expected, functools.partial):
            self.visit(path + ".partial", (expected.func, expected.args, expected.keywords),
                       (actual.func, actual.args, actual.keywords))  # fmt: skip
        elif isinstance(expected, types.FunctionType):
            assert expected.__code__.co_code == actual.__code__.co_code, path
            for left, right in zip(expected.__closure__ or (), actual.__closure__ or (), strict=True):
                self.visit(path + ".<closure>", left.cell_contents, right.cell_contents)
        elif isinstance(expected, types.MethodType):
            self.visit(path + ".__self__", expected.__self__, actual.__self__)
        elif isinstance(expected, torch.utils.hooks.RemovableHandle):
            assert expected.hooks_dict_ref() is not None and actual.hooks_dict_ref() is not None, path
            self.visit(path + ".hooks", expected.hooks_dict_ref(), actual.hooks_dict_ref())
        elif isinstance(expected, torch.Generator):
            assert torch.equal(expected.get_state(), actual.get_state()), path
        else:
            if isinstance(expected, torch.nn.Module):
                assert list(expected.state_dict()) == list(actual.state_dict()), path
            left, right = _attributes(expected), _attributes(actual)
            assert left.keys() == right.keys(), f"{path}: attributes {list(left)} became {list(right)}"
            for name in left:
                if name == "_original_object_hash":  # transformers': of strings, so another one in each process
                    continue
                self.visit(f"{path}.{name}", left[name], right[name])

    def tensor(self, path: str, expected: torch.Tensor, actual: torch.Tensor) -> None:
        if is_lazy(expected):
            assert is_lazy(actual), path
            left, right = ((type(x), x.requires_grad, x.data.dtype, x.device) for x in (expected, actual))
            assert left == right, f"{path}: {left} became {right}"
            return
        if expected.is_nested:
            assert actual.is_nested, path
            for left, right in zip(expected.unbind(), actual.unbind(), strict=True):
                assert torch.equal(left, right), path
            return
        for what in ("dtype", "shape", "device", "layout", "requires_grad", "is_leaf", "is_quantized", "is_nested"):
            left, right = getattr(expected, what), getattr(actual, what)
            if what == "is_leaf" and expected.grad_fn is not None:
                continue  # a view of a parameter has no history after loading, as after every pickle
            assert left == right, f"{path}.{what}: {left} became {right}"
        for what in ("is_conj", "is_neg"):
            assert getattr(expected, what)() == getattr(actual, what)(), f"{path}.{what}"
        assert not actual._is_view() or expected._is_view(), f"{path}: became a view"
        self.visit(path + ".__dict__", dict(expected.__dict__), dict(actual.__dict__))
        self.visit(path + "._backward_hooks", dict(expected._backward_hooks or {}), dict(actual._backward_hooks or {}))
        left, right = (dict(each._post_accumulate_grad_hooks or {}) for each in (expected, actual))
        self.visit(path + "._post_accumulate_grad_hooks", left, right)
        if expected.is_meta:
            return
        if expected.layout is not torch.strided:
            for part in ("_indices", "_values", "crow_indices", "col_indices", "values"):
                if _has_part(expected, part):
                    self.visit(f"{path}.{part}", getattr(expected, part)(), getattr(actual, part)())
            return
        assert expected.stride() == actual.stride(), f"{path}.stride: {expected.stride()} became {actual.stride()}"
        assert expected.storage_offset() == actual.storage_offset(), f"{path}.storage_offset"
        if expected.is_quantized:
            assert expected.qscheme() == actual.qscheme(), path
            assert torch.equal(expected.int_repr(), actual.int_repr()), path
        self.storage(path + ".storage", expected.untyped_storage(), actual.untyped_storage())

    def storage(self, path: str, expected: Any, actual: Any) -> None:
        left = expected._untyped_storage if isinstance(expected, torch.storage.TypedStorage) else expected
        right = actual._untyped_storage if isinstance(actual, torch.storage.TypedStorage) else actual
        assert left.nbytes() == right.nbytes(), f"{path}: {left.nbytes()} bytes became {right.nbytes()}"
        if left._cdata in self.storages:
            assert self.storages[left._cdata] == right._cdata, f"{path}: no longer shared"
            return
        assert right._cdata not in self.storages.values(), f"{path}: shared with another one now"
        self.storages[left._cdata] = right._cdata
        self.alive += [left, right]
        if left.nbytes():
            a, b = (np.asarray(torch.tensor([], dtype=torch.uint8).set_(s)) for s in (left, right))
            assert np.array_equal(a, b), f"{path}: other bytes"
            self.addresses.append(
                (
                    path,
                    left.data_ptr(),
                    left.data_ptr() + left.nbytes(),
                    right.data_ptr(),
                    right.data_ptr() + left.nbytes(),
                )
            )

    def array(self, path: str, expected: np.ndarray, actual: np.ndarray) -> None:
        assert expected.dtype == actual.dtype, path
        assert expected.shape == actual.shape, path
        assert expected.flags.writeable == actual.flags.writeable, path
        if type(expected) is not np.ndarray:
            self.visit(path + ".__dict__", dict(expected.__dict__), dict(actual.__dict__))
        if expected.flags.c_contiguous or expected.flags.f_contiguous:
            assert expected.strides == actual.strides or 1 in expected.shape or 0 in expected.shape, path
        if expected.dtype.hasobject:
            assert expected.tolist() == actual.tolist(), path
        else:
            assert expected.tobytes() == actual.tobytes(), path


def _attributes(thing: Any) -> dict[str, Any]:
    if isinstance(thing, torch.fx.Graph):
        return {"text": str(thing), "nodes": [node.name for node in thing.nodes], "tracer": thing._tracer_cls}
    if isinstance(thing, torch.fx.GraphModule):  # has a class of its own
        return {**vars(thing), "code": thing.code, "bases": list(type(thing).__bases__)}
    if isinstance(thing, torch._dynamo.OptimizedModule):  # is made anew around the module
        return {"module": thing._orig_mod, "how": _how(thing.dynamo_ctx)}
    own = getattr(type(thing), "__getstate__", None)
    if own not in (getattr(object, "__getstate__", None), torch.nn.Module.__getstate__):
        try:
            state = thing.__getstate__()  # what the class itself says that it consists of
        except Exception:
            state = None
        if isinstance(state, dict):
            return state
    attributes = dict(getattr(thing, "__dict__", {}))
    if attributes.get("_compiled_call_impl") is not None:
        attributes["_compiled_call_impl"] = compiled.arguments(thing._compiled_call_impl)[1:]
    for base in type(thing).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__") and hasattr(thing, slot):
                attributes[slot] = getattr(thing, slot)
    return attributes


def _how(context: Any) -> Any:
    backend, fullgraph, dynamic = compiled._arguments(context)
    return vars(backend), fullgraph, dynamic


def _free_keys(path: str, mapping: dict[Any, Any]) -> bool:
    """Whether the keys are not the same in every process: an optimizer's state is keyed by parameters, and hooks by
    a counter."""
    return "hooks" in path.rpartition(".")[2] or any(isinstance(key, torch.Tensor) for key in mapping)


def _has_part(tensor: torch.Tensor, part: str) -> bool:
    coo = tensor.layout is torch.sparse_coo
    return (
        part.startswith("_")
        if coo
        else part in ("crow_indices", "col_indices", "values") and (tensor.layout is torch.sparse_csr)
    )
