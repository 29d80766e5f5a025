"""``python -m ray_zerocopy list``: a table of the named models."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from ..stores.listing import ModelInfo, list_models
from . import cluster

_HEAD = ("NAMESPACE", "NAME", "VERSION", "CLASS", "SIZE", "TENSORS", "NODES", "AGE", "STATE", "MADE BY", "OBJECT")
_RIGHT = {"VERSION", "SIZE", "TENSORS", "AGE"}
_NODE = 8  # digits of a node's id that tell it from the others


def add_arguments(parser: argparse.ArgumentParser) -> None:
    cluster.add_arguments(parser)
    parser.add_argument("--namespace", metavar="NS", help="only the models in this namespace; default: in all")
    parser.add_argument("--json", action="store_true", help="everything that is known, sizes in bytes, ages in seconds")


def run(given: argparse.Namespace) -> int:
    with cluster.reported() as code, cluster.connected(given.address):
        models = list_models(given.namespace)
        if given.json:
            print(json.dumps([asdict(model) for model in models], indent=2))
        else:
            print(table(models) if models else "no named models")
    return code[0]


def table(models: Sequence[ModelInfo]) -> str:
    """The models as lines of text, one each."""
    rows = [_HEAD, *map(_row, models)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(map(_padded, row, widths, _HEAD)).rstrip() for row in rows)


def _row(model: ModelInfo) -> tuple[str, ...]:
    return (
        model.namespace,
        model.name,
        str(model.version),
        model.class_name,
        size(model.nbytes),
        str(model.tensors),
        ",".join(node[:_NODE] for node in model.nodes) or "-",
        age(model.age),
        model.state,
        model.maker if model.detached else f"{model.maker} (ends with it)",
        model.object_id or "-",
    )


def _padded(text: str, width: int, head: str) -> str:
    return text.rjust(width) if head in _RIGHT else text.ljust(width)


def size(nbytes: float) -> str:
    """A number of bytes with a unit: ``417.8 MiB``."""
    if nbytes < 1024:
        return f"{nbytes} B"
    for unit in ("KiB", "MiB", "GiB"):
        nbytes /= 1024
        if nbytes < 1024:
            return f"{nbytes:.1f} {unit}"
    return f"{nbytes / 1024:.1f} TiB"


def age(seconds: float) -> str:
    """A time in its two largest units: ``3d 4h``."""
    left = max(0, int(seconds))
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        parts.append((count, unit))
    while len(parts) > 1 and not parts[0][0]:
        del parts[0]
    return " ".join(f"{count}{unit}" for count, unit in parts[:2])
