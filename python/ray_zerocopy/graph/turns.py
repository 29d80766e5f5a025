"""Turns at torch.compile: of the processes of a node that compile the same graph at once, one does, and the others take
what it has put into inductor's cache.

That cache is a folder of each node (``TORCHINDUCTOR_CACHE_DIR``), and torch's own; without turns, processes that start
together all miss it. A turn is the lock of a file in there, named by the graph. Whoever does not get it waits until it
is free, and finds what it needs in the cache.

Private names of torch used here, tried with 2.8 and 2.15: `torch._TorchCompileInductorWrapper`, which is what
``torch.compile`` has its graphs compiled by, `torch._inductor.config.fx_graph_cache` and `force_disable_caches`, and
`torch._inductor.runtime.cache_dir_utils.cache_dir`. `tests/test_turns.py` fails when one goes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from io import FileIO
from typing import Any

import torch

from .. import locks

_log = logging.getLogger("ray_zerocopy")
PATIENCE = 1800.0  # seconds to wait for another process, which may hang
_FOLDER = "ray-zerocopy-turns"


def take() -> None:
    """Have this process take turns from now on, whatever it compiles."""
    wrapper: Any = getattr(torch, "_TorchCompileInductorWrapper", None)
    if wrapper is not None and not hasattr(wrapper.__call__, "_takes_turns"):
        wrapper.__call__ = _in_turn(wrapper.__call__)


def _in_turn(compile: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(compile)
    def compiled(wrapper: Any, graph: Any, inputs: Any, **options: Any) -> Any:
        with _turn(graph, inputs):
            return compile(wrapper, graph, inputs, **options)

    compiled._takes_turns = True  # type: ignore[attr-defined]
    return compiled


@contextlib.contextmanager
def _turn(graph: Any, inputs: Any) -> Iterator[None]:
    path = None
    with contextlib.suppress(OSError):
        path = _path(graph, inputs)
    if path is None:
        yield
        return
    with FileIO(path, "a") as file:
        if locks.alone(file):
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(path)  # while nobody else has the turn
            return
        start = time.monotonic()
        while not locks.shared(file) and time.monotonic() - start < PATIENCE:
            time.sleep(0.05)
        _log.info(f"waited {time.monotonic() - start:.1f} s for another process that compiled the same graph")
    yield


def _path(graph: Any, inputs: Any) -> str | None:
    """The file that is locked for a graph; None: there is no cache, or not one of this user's own."""
    from torch._inductor import config
    from torch._inductor.runtime import cache_dir_utils

    if not config.fx_graph_cache or getattr(config, "force_disable_caches", False):
        return None
    folder = os.path.join(cache_dir_utils.cache_dir(), _FOLDER)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    if locks.distrusted(folder) is not None:
        return None
    kinds = [(str(each.dtype), str(each.shape)) if isinstance(each, torch.Tensor) else str(each) for each in inputs]
    text = f"{torch.__version__}\0{graph.code}\0{kinds}"
    return os.path.join(folder, hashlib.blake2b(text.encode(), digest_size=16).hexdigest())
