"""``python -m ray_zerocopy list``: a table of the named models."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from ..stores.listing import ModelInfo, list_models
from . import cluster, failures, tables

_HEAD = ("NAMESPACE", "NAME", "VERSION", "CLASS", "SIZE", "TENSORS", "NODES", "AGE", "STATE", "MADE BY", "OBJECT")
_RIGHT = {"VERSION", "SIZE", "TENSORS", "AGE"}
_NODE = 8  # digits of a node's id that tell it from the others


def add_arguments(parser: argparse.ArgumentParser) -> None:
    cluster.add_arguments(parser)
    parser.add_argument("--namespace", metavar="NS", help="only the models in this namespace; default: in all")
    parser.add_argument("--json", action="store_true", help="everything that is known, sizes in bytes, ages in seconds")


def run(given: argparse.Namespace) -> int:
    with failures.reported() as code, cluster.connected(given.address):
        models = list_models(given.namespace)
        if given.json:
            print(json.dumps([asdict(model) for model in models], indent=2))
        else:
            print(table(models) if models else "no named models")
    return code[0]


def table(models: Sequence[ModelInfo]) -> str:
    """The models as lines of text, one each."""
    return tables.table(_HEAD, [_row(model) for model in models], _RIGHT)


def _row(model: ModelInfo) -> tuple[str, ...]:
    return (
        model.namespace,
        model.name,
        str(model.version),
        model.class_name,
        tables.size(model.nbytes),
        str(model.tensors),
        ",".join(node[:_NODE] for node in model.nodes) or "-",
        tables.age(model.age),
        model.state,
        model.maker if model.detached else f"{model.maker} (ends with it)",
        model.object_id or "-",
    )
