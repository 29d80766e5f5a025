"""``python -m ray_zerocopy inspect FILE``: what a file of weights holds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from . import contents, failures, tables

DESCRIPTION = """\
Shows the tensors of a model file (what wrapper.save(path) writes) or of a .safetensors file: name, dtype, shape, size,
and what shares memory with what; totals by dtype; class and models of the pipeline; version of the format.

Reads the head of the file only, and runs none of its code: a file that is not trusted can be looked at."""

# of what the writer has said of the file: what people want to know, and how it is called here
_ABOUT = {
    "class": "class",
    "models": "models",
    "mode": "mode",
    "bases": "shares weights with",
    "made_with": "made with",
    "metadata": "metadata",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a model file or a .safetensors file")
    parser.add_argument("--json", action="store_true", help="everything that is known, sizes in bytes")


def run(given: argparse.Namespace) -> int:
    with failures.reported() as code:
        found = contents.read(given.file)
        print(json.dumps(_plain(found), indent=2) if given.json else "\n".join(text(found)))
    return code[0]


def text(found: contents.Contents) -> Iterator[str]:
    """Lines for people."""
    kind = found.format if found.version is None else f"{found.format}, version {found.version} of the format"
    yield f"{found.path}: {kind}, {tables.size(found.nbytes)}"
    for key, name in _ABOUT.items():
        if found.about.get(key):
            yield f"{name}: {_words(found.about[key])}"
    if not found.tensors:
        yield "no tensors"
        return
    yield ""
    shares = {name: group for group in found.shared for name in group}
    rows = [_row(tensor, shares.get(tensor.name, [])) for tensor in found.tensors]
    yield tables.table(("TENSOR", "DTYPE", "SHAPE", "SIZE", "SHARES MEMORY WITH"), rows, {"SIZE"})
    yield ""
    totals = found.totals()
    rows = [(dtype, f"{n:,}", f"{elements:,}", tables.size(nbytes)) for dtype, (n, elements, nbytes) in totals.items()]
    if len(totals) > 1:
        count, elements, nbytes = map(sum, zip(*totals.values()))
        rows.append(("all", f"{count:,}", f"{elements:,}", tables.size(nbytes)))
    yield tables.table(("DTYPE", "TENSORS", "ELEMENTS", "SIZE"), rows, {"TENSORS", "ELEMENTS", "SIZE"})
    if found.shared:
        yield "(shared memory counts once)"


def _row(tensor: contents.Tensor, group: list[str]) -> tuple[str, ...]:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    first, *more = [name for name in group[:2] if name != tensor.name][:1] + group[2:] or [""]
    shares = tables.printable(first) + (f" and {len(more)} more" if more else "")
    name = tables.printable(tensor.name) + ("" if tensor.persistent else " (not in state_dict)")
    name += "" if tensor.base is None else f" (in base {tensor.base})"
    return name, tables.printable(tensor.dtype), shape, tables.size(tensor.nbytes), shares


def _words(value: Any) -> str:
    if isinstance(value, dict):
        value = [key if each is None else f"{key}={each}" for key, each in value.items()]
    return tables.printable(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def _plain(found: contents.Contents) -> dict[str, Any]:
    keys = ("tensors", "elements", "nbytes")
    return {**asdict(found), "totals": {dtype: dict(zip(keys, row)) for dtype, row in found.totals().items()}}
