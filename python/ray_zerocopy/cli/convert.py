"""``python -m ray_zerocopy convert SOURCE DESTINATION``: from a model file to .safetensors, and back."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from . import contents, failures, progress, tables

_SUFFIX = ".safetensors"

DESCRIPTION = """\
Writes the tensors of a model file (what wrapper.save(path) writes) that its state_dict has into a .safetensors file,
which other programs read.

The other way needs a model for the tensors to go into: --into MODULE:FACTORY names a function that builds one, without
arguments. Its state_dict must have the tensors of the file. What is written loads without the factory."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="a model file, a .safetensors file, or a folder of those and their index"
    )
    parser.add_argument("destination", metavar="DESTINATION", help="a .safetensors file, or (with --into) a model file")
    parser.add_argument(
        "--into",
        metavar="MODULE:FACTORY",
        help="builds the model for the tensors of a .safetensors file, as in my_package.models:make_encoder; it is "
        "imported as Python would from this folder",
    )
    parser.add_argument(
        "--no-strict",
        dest="strict",
        action="store_false",
        help="with --into: take the tensors that fit, and keep what the factory gave for the others; both are listed",
    )
    parser.add_argument("--force", action="store_true", help="write over a DESTINATION that is there")


def run(given: argparse.Namespace) -> int:
    with failures.reported() as code:
        _convert(given)
        print(f"{given.destination}: {tables.size(os.path.getsize(given.destination))}")
    return code[0]


def _convert(given: argparse.Namespace) -> None:
    source, destination = given.source, given.destination
    if os.path.exists(destination):
        if not given.force:
            raise failures.Failed(f"{destination} is there already: --force writes over it")
        if os.path.samefile(source, destination):
            raise failures.Failed("SOURCE and DESTINATION are the same file")
    if contents.is_model_file(source):
        if given.into:
            raise failures.Failed(f"--into is for a .safetensors file, and {source} is a model file")
        if not destination.endswith(_SUFFIX):
            raise failures.Failed(f"{destination} must end in {_SUFFIX}: that is what a model file is converted to")
        from ..wrappers import ModelWrapper  # with torch

        with progress.written(destination, os.path.getsize(source)):
            ModelWrapper.open(source).save_safetensors(destination)
        return
    if not given.into:
        raise failures.Failed(
            f"{source} has tensors and no model: name a function that builds it, --into MODULE:FACTORY"
        )
    if destination.endswith(_SUFFIX):
        raise failures.Failed(f"{destination} ends in {_SUFFIX}, and a model file is what {source} is converted to")
    make = _factory(given.into)
    import torch

    from ..graph import filling
    from ..stores import checkpoints
    from ..wrappers import ModelWrapper

    tensors, model = checkpoints.read(source), make()
    if not isinstance(model, torch.nn.Module):
        raise failures.Failed(f"--into {given.into} gives a {type(model).__qualname__}, not a torch.nn.Module")
    report = filling.fill(model, tensors, given.strict)
    for text, names in (("kept as built", report.missing_keys), ("left out", report.unexpected_keys)):
        if names:
            print(f"{text}: {', '.join(names)}", file=sys.stderr)
    with progress.written(destination, sum(tensor.nbytes for tensor in tensors.values())):
        ModelWrapper.to_file(model, destination)


def _factory(name: str) -> Callable[[], Any]:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise failures.Failed(f"--into {name} is not MODULE:FACTORY, as in my_package.models:make_encoder")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise failures.Failed(f"--into {name} cannot be imported: {failures.line(error)}") from error
    if not callable(found):
        raise failures.Failed(f"--into {name} is a {type(found).__qualname__}, and must be a function")
    return found  # type: ignore[no-any-return]
