"""``python -m ray_zerocopy verify FILE...``: whether files of weights are as they were written."""

from __future__ import annotations

import argparse

from . import contents, failures, progress, tables

DESCRIPTION = """\
Reads all bytes of model files (what wrapper.save(path) writes) and compares them with the checksums in them. Of a file
that is damaged it names the first tensor that is. Runs no code of the file.

A .safetensors file has no checksums. Convert it into a model file, and that can be verified from then on."""

EPILOG = (
    "exit codes: 0: all bytes of all files are as they were written; 1: of one they are not, or it cannot be told; "
    "2: the arguments are wrong"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", help="a model file")


def run(given: argparse.Namespace) -> int:
    return max([_verified(path) for path in given.files])


def _verified(path: str) -> int:
    with failures.reported(path) as code:
        if not contents.is_model_file(path):
            raise failures.Failed("this is no model file of ray-zerocopy, which alone has checksums")
        from ..wrappers import ModelWrapper  # with torch

        wrapper = ModelWrapper.open(path)
        with progress.mapped(path, wrapper.nbytes):
            wrapper.verify()
        print(f"{path}: all {tables.size(wrapper.nbytes)} are as they were written", flush=True)
    return code[0]
