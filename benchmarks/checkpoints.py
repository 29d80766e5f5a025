"""A checkpoint of transformers in bfloat16 (0.4 G parameters, 0.9 GB), as it is and cast to float32: from_pretrained in
each actor, which maps the file, beside one from_pretrained in the driver and ours.

python benchmarks/checkpoints.py [--small]
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import ray
import torch

import models
from measure import clock, private
from ray_zerocopy import ModelWrapper

ROUNDS = 3


@ray.remote(num_cpus=0)
class Actor:
    """Loads in one of the two ways."""

    def __init__(self) -> None:
        warnings.simplefilter("ignore")
        from transformers.models.llama import modeling_llama  # noqa: F401  the imports are not what is measured

    def measure(self, stored: Any) -> list[float]:
        """Milliseconds of a first and of later loads, megabytes of this process alone after a forward."""

        def load() -> Any:
            return stored.load() if isinstance(stored, ModelWrapper) else pretrained(*stored)

        before = private()
        first, model = clock(load)
        with torch.no_grad():
            model(torch.ones(1, 8, dtype=torch.long))
        memory = (private() - before) / 1e6
        del model
        later = median(clock(load)[0] for _ in range(3))
        return [1e3 * first, 1e3 * later, memory]


def pretrained(folder: str, dtype: torch.dtype) -> torch.nn.Module:
    """What users write."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return model


def save(folder: str, small: bool) -> None:
    """A checkpoint with the weights of nothing."""
    from transformers.models.llama import modeling_llama

    width, layers = (64, 2) if small else (1024, 24)
    config = modeling_llama.LlamaConfig(
        vocab_size=32000, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=16, num_key_value_heads=16, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = modeling_llama.LlamaForCausalLM(config).to(torch.bfloat16)
    model.model.rotary_emb = modeling_llama.LlamaRotaryEmbedding(config)  # its buffers are computed
    models.filled(model).save_pretrained(folder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a model of nothing, to see that it runs")
    small = parser.parse_args().small
    warnings.simplefilter("ignore")
    ray.init(address="local", num_cpus=2, object_store_memory=4 * 10**9, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        save(folder, small)
        print("| | once in the driver, ms | first load, ms | later load, ms | private memory per actor, MB |")
        print("|---" * 5 + "|")
        for title, dtype in (("as it is, bfloat16", torch.bfloat16), ("cast to float32", torch.float32)):
            ways: dict[str, Callable[[], Any]] = {
                "ray-zerocopy": lambda dtype=dtype: ModelWrapper.from_model(pretrained(folder, dtype)),
                "from_pretrained in each actor": lambda dtype=dtype: (folder, dtype),
            }
            figures: dict[str, list[list[float]]] = {way: [] for way in ways}
            for _ in range(1 if small else ROUNDS):
                for way, put in ways.items():
                    duration, stored = clock(put)
                    actor = Actor.remote()
                    figures[way].append([1e3 * duration, *ray.get(actor.measure.remote(stored))])
                    ray.kill(actor)
                    del stored
                    time.sleep(0.5)
            for way, rounds in figures.items():
                columns = zip(*rounds, strict=True)
                cells = (f"{median(column):.1f} ({min(column):.1f}-{max(column):.1f})" for column in columns)
                print(f"| {title}, {way} | " + " | ".join(cells) + " |", flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
