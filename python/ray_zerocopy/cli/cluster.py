"""A running cluster, for the time of one command. None is ever started."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator

from .failures import Failed, line

# for Ray to connect; by itself it tries for minutes, and ends the process then
_SECONDS = 30.0


class NotRunning(Failed):
    """None was asked for, and none runs on this machine."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address",
        metavar="ADDR",
        help="of the cluster: HOST:PORT (of its head), ray://HOST:PORT, or auto, a cluster on this machine; "
        "default: RAY_ADDRESS, else auto. None is ever started",
    )


@contextlib.contextmanager
def connected(address: str | None, given_up: Callable[[str], int] | None = None) -> Iterator[None]:
    """Connect to a cluster that runs.

    Args:
        address: as given on the command line.
        given_up: called, from another thread, with what is wrong when Ray does not come back from connecting; the
            process ends then, with the exit code that it gives. None: says what is wrong.

    Raises:
        Failed: there is none.
        NotRunning: the same, and no address was given.
    """
    asked = address or os.environ.get("RAY_ADDRESS") or "auto"
    if asked == "local":
        raise Failed("address 'local' would start a new cluster, which has no models; give that of a running one")
    if asked != "auto":
        _require_listener(asked)

    # the core's complaints, one a second, tell a user nothing that the message here does not
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    watch = threading.Timer(_SECONDS, _give_up, [asked, given_up or _say])
    watch.daemon = True
    watch.start()
    try:
        ray.init(address=asked, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as error:
        if asked == "auto" and isinstance(error, ConnectionError):
            raise NotRunning(f"no Ray cluster is running on this machine: {line(error)}") from error
        token = "" if os.environ.get("RAY_AUTH_MODE") else "; one that asks for a token needs RAY_AUTH_MODE=token here"
        raise Failed(f"cannot connect to a Ray cluster at {asked}: {line(error)}{token}") from error
    finally:
        watch.cancel()
    try:
        yield
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """See at once what Ray would find out in minutes."""
    host, _, port = address.replace("ray://", "", 1).rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise Failed(f"address {address!r} is not HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise Failed(f"no Ray cluster is running at {address}: {line(error)}") from error


def _give_up(address: str, given_up: Callable[[str], int]) -> None:
    code = given_up(f"no Ray cluster has answered at {address} in {_SECONDS:.0f} s")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Ray is in a call that nothing interrupts


def _say(problem: str) -> int:
    print(f"ray_zerocopy: {problem}", file=sys.stderr)
    return 1
