"""How much of everything a run measures."""

from __future__ import annotations

from dataclasses import dataclass

from ways import WAYS

ALL = list(WAYS)
GROWING = ["ours", "flag", "put"]
MB = 10**6


@dataclass
class Plan:
    """Amounts.

    Attributes:
        rounds: of the main table, by model.
        actors, puts: in one round of it.
        scaled: the model that many workers load at once, and that Ray Data runs.
        groups: how many workers, each time fresh ones.
        rows: of the Ray Data job.
        growth: models for the growth with bytes and with tensors.
        store: bytes of Ray's object store.
        minutes: after which nothing new begins; what comes last is further rounds of the main tables.
        ways: that take part, by step; in the main tables it is all of them.
    """

    rounds: dict[str, int]
    actors: int
    puts: int
    scaled: str
    groups: list[int]
    rows: int
    growth: list[str]
    store: int
    minutes: float
    ways: dict[str, list[str]]


PLANS = {
    "full": Plan(
        rounds={"bert-base": 3, "llama-1.1b": 3, "small-tensors": 3, "resnet50": 3, "gpt2": 3, "pipeline": 3},
        actors=2,
        puts=3,
        scaled="encoder",
        groups=[1, 4, 16],
        rows=256,
        growth=[
            *(f"layers:{size}:16" for size in (MB, 30 * MB, 500 * MB, 8000 * MB)),
            *(f"layers:{100 * MB}:{count}" for count in (1, 100, 10000)),
        ],
        store=5 * 10**9,
        minutes=33,
        ways={"scale": ALL, "data": ["ours", "flag", "put", "mmap"], "growth": GROWING},
    ),
    "quick": Plan(
        rounds={"bert-base": 1},
        actors=2,
        puts=3,
        scaled="encoder",
        groups=[1, 4],
        rows=64,
        growth=[f"layers:{size}:16" for size in (MB, 10 * MB, 100 * MB)],
        store=2 * 10**9,
        minutes=4,
        ways={"scale": ["ours", "flag", "put", "mmap"], "data": ["ours", "put"], "growth": GROWING},
    ),
    "smoke": Plan(  # for the tests: every line of code, no figure that means anything
        rounds={"tiny": 1},
        actors=2,
        puts=1,
        scaled="tiny",
        groups=[1, 2],
        rows=48,
        growth=[f"layers:{4 * MB}:4"],
        store=600 * MB,
        minutes=20,
        ways={"scale": ["ours"], "data": ["ours"], "growth": ["ours"]},
    ),
}
