"""Every example runs, and prints what it says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers import run_script

EXAMPLES = Path(__file__).parent.parent / "examples"
EXPECTED = {
    "actors.py": "one actor trained, the other three did not notice",
    "demo.py": "ray.put(model)",
    "ray_data.py": "1000 rows scored by 4 actors over one copy of the model",
    "compiled.py": "1000 rows scored by 4 actors that compiled nothing",
    "tasks.py": "sentences encoded in tasks, as the original does: True",
    "torchscript.py": "every probability is the original model's",
    "ray_serve.py": "two replicas answer as the original does, also after they were killed and started again",
    "shared_models.py": "two jobs used one model, which was built once",
    "hot_swap.py": "three versions answered in turn, and nothing was restarted",
}


def test_every_example_is_here():
    modules = {"sentence_encoder.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} - modules == set(EXPECTED)


FIRST = {"ray_serve.py", "hot_swap.py", "demo.py"}  # the first two take the same port; these take as long as the others


@pytest.fixture(scope="module")
def runs(request):
    """The chosen examples, two at a time: each starts a cluster of its own, whatever else runs on this machine."""
    chosen = [item.callspec.params["name"] for item in request.session.items if "runs" in item.fixturenames]
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as others:
        return {
            name: (first if name in FIRST else others).submit(
                run_script, str(EXAMPLES / name), timeout=300, RAY_ADDRESS="local"
            )
            for name in chosen
        }


@pytest.mark.soak
@pytest.mark.parametrize("name", EXPECTED)
def test_example(name, runs):
    output = runs[name].result().stdout
    assert EXPECTED[name] in output
    if name == "demo.py":
        assert output.count("yes") == 2, output
