"""Four Ray Data actors encode sentences with one copy of a real model; then, the same beside ray.put(model).

python examples/demo.py [PNG]     also draws what it has measured (with matplotlib)
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import ray
import torch
from ray.data import ActorPoolStrategy

from ray_zerocopy import ModelWrapper, isolation
from sentence_encoder import SentenceEncoder, sentences

ACTORS = 4


class InferenceActor:
    """What Ray Data runs: load once, then encode batch after batch."""

    def __init__(self, model_wrapper: ModelWrapper[SentenceEncoder]) -> None:
        self.encoder = model_wrapper.load()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        batch["vector"] = self.encoder.encode(batch["sentence"].tolist())
        return batch


@ray.remote(num_cpus=1)
class Measured:
    """An actor that loads the encoder in one of two ways and says what that cost."""

    def __init__(self) -> None:
        from transformers.models.bert import modeling_bert  # noqa: F401  imports are not what we compare

        torch.set_num_threads(1)

    def load(self, way: str, model: object) -> tuple[float, int]:
        gc.collect()
        before, start = private_bytes(), time.perf_counter()
        if isinstance(model, list):
            self.encoder = ray.get(model[0])
        else:
            self.encoder = model.load()
        seconds = time.perf_counter() - start
        self.encoder.encode(["Warm the caches."])
        return seconds, private_bytes() - before

    def encode(self, text: list[str]) -> np.ndarray:
        return self.encoder.encode(text)


def private_bytes() -> int:
    """Bytes of memory that belong to this process alone."""
    with open("/proc/self/smaps_rollup") as lines:
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))


def compare(
    encoder: SentenceEncoder, wrapper: ModelWrapper[SentenceEncoder]
) -> dict[str, tuple[list[float], list[int]]]:
    """Print load time and memory per actor beside ray.put(model).

    Returns:
        For each of the two ways, of each actor the seconds of its load and its private bytes.
    """
    results = {}
    probe = ["How does a worker read the weights?"]
    expected = encoder.encode(probe)
    weights = sum(p.nbytes for p in encoder.model.parameters())
    print(f"\n{ACTORS} actors, a model of {weights / 1e6:.0f} MB, one run; each way in fresh actors:\n")
    print(f"{'':24} {'load (median)':>15} {'private memory per actor':>26}   same output")
    for way, model in (("ray-zerocopy", wrapper), ("ray.put(model)", [ray.put(encoder)])):
        actors = [Measured.remote() for _ in range(ACTORS)]
        measured = [ray.get(actor.load.remote(way, model)) for actor in actors]
        same = all(np.array_equal(ray.get(actor.encode.remote(probe)), expected) for actor in actors)
        for actor in actors:
            ray.kill(actor)
        seconds, memory = np.median(measured, axis=0)
        print(f"{way:24} {seconds * 1e3:12.1f} ms {memory / 1e6:23.1f} MB   {'yes' if same else 'NO'}")
        results[way] = [s for s, _ in measured], [m for _, m in measured]
    return results


def draw(results: dict[str, tuple[list[float], list[int]]], shared: int, file: Path) -> None:
    """Draw memory against actors, and load times.

    Args:
        results: what `compare` returns.
        shared: bytes in the object store, which both ways need once.
        file: where to.
    """
    try:
        import matplotlib
    except ImportError:
        print("\nno figures without matplotlib: pip install matplotlib")
        return
    matplotlib.use("agg")  # no display is needed
    from matplotlib import pyplot as plt

    colors = {"ray-zerocopy": "#d1495b", "ray.put(model)": "#8d96a3"}
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for place, (way, (seconds, private)) in enumerate(results.items()):
        counts = range(1, len(private) + 1)
        left.plot(counts, [(shared + sum(private[:n])) / 1e6 for n in counts], "o-", color=colors[way], label=way)
        milliseconds = float(np.median(seconds)) * 1e3
        right.barh(-place, milliseconds, color=colors[way], height=0.6)
        right.text(milliseconds * 1.1, -place, f"{milliseconds:.1f} ms", va="center")
    left.set(xlabel="actors", ylabel="memory, MB", ylim=(0, None), xticks=list(counts), title="Memory of all actors")
    left.legend(frameon=False)
    right.set(xscale="log", xlabel="ms, logarithmic", title="Load in an actor (median)")
    right.set_yticks([0, -1], list(results))
    right.set_xlim(1, right.get_xlim()[1] * 3)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    print(f"\nThe same as a picture: {file.resolve()}")


def main() -> None:
    """Run the demo."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    torch.set_num_threads(1)  # as in the actors, so that outputs are the same bit by bit
    ray.init(address="local", num_cpus=ACTORS, object_store_memory=10**9, include_dashboard=False, log_to_driver=False)
    try:
        print("Loading all-MiniLM-L6-v2 ...")
        encoder = SentenceEncoder()
        start = time.perf_counter()
        wrapper = ModelWrapper.from_model(encoder, mode="actor")
        print(f"put into Ray's object store in {(time.perf_counter() - start) * 1e3:.0f} ms; isolation: {isolation()}")

        text = sentences(400)
        print(f"Encoding {len(text)} sentences with {ACTORS} Ray Data actors that share one copy of the weights ...")
        rows = (
            ray.data.from_items([{"sentence": s} for s in text], override_num_blocks=2 * ACTORS)
            .map_batches(
                InferenceActor,
                fn_constructor_kwargs={"model_wrapper": wrapper},
                compute=ActorPoolStrategy(size=ACTORS),
                batch_size=25,
            )
            .take_all()
        )
        found = [row["sentence"] for row in rows]
        vectors = np.stack([row["vector"] for row in rows])
        print("\nNearest neighbours:")
        for query in (
            "How do I handle an exception?",
            "What happens when a class is created?",
            "Numbers with a fraction",
        ):
            scores = vectors @ encoder.encode([query])[0]
            print(f"\n  {query}")
            for best in np.argsort(-scores)[:3]:
                print(f"    {scores[best]:.2f}  {found[best]}")

        results = compare(encoder, wrapper)
        if len(sys.argv) > 1:
            draw(results, wrapper.nbytes, Path(sys.argv[1]))
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
