"""Ad-hoc inference in Ray tasks: a real sentence encoder, called like the object that it is.

python examples/tasks.py
"""

from __future__ import annotations

import numpy as np
import ray

from ray_zerocopy import ModelWrapper
from sentence_encoder import SentenceEncoder, sentences


def main() -> None:
    """Encode some hundred sentences in tasks, and answer a question."""
    ray.init(address="local", num_cpus=2, object_store_memory=500 * 10**6, include_dashboard=False)
    encoder = SentenceEncoder()
    wrapped = ModelWrapper.for_tasks(encoder)  # one copy into the store
    texts = sentences(500)

    # many calls at once, in order, no more than a few in flight
    batches = [texts[i : i + 50] for i in range(0, len(texts), 50)]
    vectors = np.concatenate(list(wrapped.encode.map(batches, progress=True)))

    # one call, waited for
    question = wrapped.encode(["How do I define a function with default values?"])
    best = np.argsort(vectors @ question[0])[::-1][:3]
    print("\n".join(texts[i] for i in best))

    # or not waited for, with Ray's own options
    reference = wrapped.encode.options(num_cpus=1, max_retries=0).remote(texts[:50])
    same = np.allclose(ray.get(reference), encoder.encode(texts[:50]), atol=1e-5)
    print(f"{len(vectors)} sentences encoded in tasks, as the original does: {same}")
    ray.shutdown()


if __name__ == "__main__":
    main()
