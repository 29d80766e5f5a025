"""A real TorchScript model, silero-vad, over Ray Data: four actors find speech in recordings with one copy of it.

The model keeps a state from chunk to chunk; each actor's is its own.

    python examples/torchscript.py
"""

from __future__ import annotations

import warnings

import numpy as np
import ray
import silero_vad
import torch
from ray.data import ActorPoolStrategy

from ray_zerocopy import JITActorWrapper

RATE = 16000
CHUNK = 512


def probabilities(vad: torch.jit.ScriptModule, recording: np.ndarray) -> np.ndarray:
    """How likely each chunk of a recording (float32, 16 kHz) is speech."""
    vad.reset_states()
    chunks = torch.from_numpy(np.array(recording)).split(CHUNK)
    with torch.no_grad():
        return np.array([float(vad(chunk, RATE)) for chunk in chunks], np.float32)


class Detector:
    """What Ray Data runs on each batch of recordings."""

    def __init__(self, model_wrapper: JITActorWrapper[torch.jit.ScriptModule]) -> None:
        torch.set_num_threads(1)
        self.vad = model_wrapper.load()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        batch["speech"] = np.stack([probabilities(self.vad, recording) for recording in batch["data"]])
        return batch


def recordings(count: int) -> np.ndarray:
    """Two seconds each of a buzzing voice-like tone that comes and goes, in noise."""
    time = np.arange(62 * CHUNK) / RATE
    rng = np.random.default_rng(0)
    made = []
    for pitch in rng.uniform(90, 250, count):
        voice = sum(np.sin(2 * np.pi * pitch * n * time) / n for n in range(1, 20))
        made.append(0.1 * voice * (np.sin(2 * np.pi * 3 * time) > 0) + 0.01 * rng.standard_normal(len(time)))
    return np.stack(made).astype(np.float32)


def main() -> None:
    """Run the example."""
    ray.init(address="local", num_cpus=4, object_store_memory=200_000_000, include_dashboard=False)
    torch.set_num_threads(1)  # as in the actors, so that results are the same bit by bit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that TorchScript is deprecated
        vad = silero_vad.load_silero_vad(onnx=False)
    audio = recordings(32)
    rows = (
        ray.data.from_numpy(np.array_split(audio, 8))
        .map_batches(
            Detector,
            fn_constructor_kwargs={"model_wrapper": JITActorWrapper(vad)},
            compute=ActorPoolStrategy(size=4),
            batch_size=4,
        )
        .take_all()
    )
    for row in rows:
        assert np.array_equal(row["speech"], probabilities(vad, row["data"]))
    found = np.mean([row["speech"].max() > 0.5 for row in rows])
    print(f"{len(rows)} recordings, {found:.0%} of them with speech; every probability is the original model's")
    ray.shutdown()


if __name__ == "__main__":
    main()
