"""What this machine's processor can do, as far as compiled code needs it."""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterable
from pathlib import Path

# Instructions that compilers use of their own accord, and inductor does, by the names that Linux gives them
# (arch/x86/include/asm/cpufeatures.h); "pni" is SSE3, "abm" is LZCNT.
_X86 = (
    "pni ssse3 sse4_1 sse4_2 popcnt avx avx2 fma f16c bmi1 bmi2 abm movbe adx gfni avx_vnni avx512f avx512dq avx512cd "
    "avx512bw avx512vl avx512ifma avx512vbmi avx512_vbmi2 avx512_vnni avx512_bitalg avx512_vpopcntdq avx512_bf16 "
    "avx512_fp16 avx512_vp2intersect amx_tile amx_int8 amx_bf16 amx_fp16"
)

# Of the vector units that inductor chooses from, by its own names (torch/_inductor/cpu_vec_isa.py).
_UNITS = {
    "AVX2": "avx2 fma f16c",
    "AVX512": "avx512f avx512dq avx512vl avx512bw fma",
    "AVX512_VNNI": "avx512_vnni",
    "AMX_TILE": "amx_tile amx_bf16 amx_int8 avx512_fp16",
    "AMX_FP16": "amx_fp16",
    "ASIMD": "asimd",
    "SVE": "sve",
}

_LEVELS = ("pni ssse3 sse4_1 sse4_2 popcnt", "avx avx2 bmi1 bmi2 f16c fma abm movbe", _UNITS["AVX512"] + " avx512cd")


@functools.lru_cache(maxsize=None)
def features() -> frozenset[str]:
    """The names of the instruction sets of this machine's processor; empty where Linux does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            found = frozenset(value.split())
            return found.intersection(_X86.split()) if platform.machine() == "x86_64" else found
    return frozenset()


def of_units(text: str) -> frozenset[str]:
    """What the vector units need that inductor names, such as ``"AVX512 AVX512_VNNI"``."""
    return frozenset(name for unit in text.upper().split() for name in _UNITS.get(unit, "").split())


def of_target(march: str) -> frozenset[str] | None:
    """What code needs that was compiled for a target (gcc's ``-march``): of the levels ``x86-64`` to ``x86-64-v4``, and
    ``""``, the compiler's own; of others it is not known (None)."""
    if march in ("", "x86-64"):
        return frozenset()
    if march in ("x86-64-v2", "x86-64-v3", "x86-64-v4"):
        return frozenset(" ".join(_LEVELS[: int(march[-1]) - 1]).split())
    return None


def lacking(machine: str, needed: Iterable[str]) -> str | None:
    """Why code cannot run here; None: it can.

    Args:
        machine: that it was compiled for, as `platform.machine` says.
        needed: names of instruction sets, as in `features`.
    """
    if machine != platform.machine():
        return f"it was compiled for {machine}, and this machine is {platform.machine()}"
    missing = sorted(set(needed) - features())
    return f"it uses {', '.join(missing)}, which this machine's processor does not have" if missing else None
