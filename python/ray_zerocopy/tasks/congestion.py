"""Why a call may wait for ever: actors that hold every CPU. Only for a warning.

Relied upon, tried with ray 2.60: the table of actors, with what each of them holds, of
`connection.state_accessor`. Where that is not to be had, nothing is said.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from typing import Any

import ray

from .. import errors
from ..stores import connection

_warned = False


def warn_if_stuck(name: str, cpus: float, seconds: float) -> None:
    """Warn, once in a process, if no node has as many CPUs as a call needs that are not held by actors.

    Args:
        name: the method that was called.
        cpus: what the call needs.
        seconds: how long it has waited.
    """
    global _warned
    if _warned or not cpus:
        return
    with contextlib.suppress(Exception):  # what else may go wrong with a private table is no reason to end a call
        held = _held_by_actors()
        total = {node["NodeID"]: node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]}
        if any(count - held[node] >= cpus for node, count in total.items()):
            return
        _warned = True
    if _warned:
        warnings.warn(
            f"{name} has waited for {seconds:.0f} s and may wait for ever: each call is a Ray task that needs {cpus:g} "
            f"CPU, and actors hold {sum(held.values()):g} of the cluster's {sum(total.values()):g}. Let the call do "
            f"without, {name}.options(num_cpus=0)(...), give the actors fewer CPUs, or load the pipeline in the actors "
            "(ModelWrapper.from_model(pipeline), .load()).",
            errors.NoFreeCpuWarning,
            stacklevel=2,
        )


def _held_by_actors() -> Counter[str]:
    from ray.core.generated import gcs_pb2

    table: Any = gcs_pb2
    held: Counter[str] = Counter()
    for row in connection.state_accessor().get_actor_table(None, "ALIVE"):
        actor = table.ActorTableData.FromString(row)
        held[actor.address.node_id.hex()] += actor.required_resources.get("CPU", 0)
    return held
