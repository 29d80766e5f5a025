"""``python -m ray_zerocopy delete NAME``."""

from __future__ import annotations

import argparse

from ..stores import named
from . import cluster, failures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the model; who has loaded it keeps what was loaded")
    cluster.add_arguments(parser)
    parser.add_argument("--namespace", metavar="NS", help=f"of the name; default: {named.DEFAULT_NAMESPACE}")


def run(given: argparse.Namespace) -> int:
    with failures.reported() as code, cluster.connected(given.address):
        key = named.key(given.name, given.namespace)
        named.delete(key)
        print(f"deleted {key[1]!r} of namespace {key[0]!r}")
    return code[0]
