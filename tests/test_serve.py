"""Ray Serve, every way it is deployed: what a service needs outlives whoever deployed it.

One cluster, started as on a real head node (the command line needs its dashboard), and one Serve instance for all tests;
they talk to it by HTTP, by the command line, and by drivers of their own (tests/programs)."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from conftest import HERE
from helpers import settles

sys.path.append(str(HERE / "programs"))
from serve_apps import SIZE, answer, model

MB = 1 << 20
PROGRAMS = HERE / "programs"
EXAMPLES = HERE.parent / "examples"
IMAGE = SIZE * SIZE * 4  # bytes, and a little


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Cluster:
    """A head node of its own, and Serve on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        gcs, dashboard, agent, agent_grpc, runtime_env, client, metrics, self.http = free_ports(8)
        self.address, self.dashboard = f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}"
        path = os.pathsep.join([str(folder), str(PROGRAMS), str(HERE), str(EXAMPLES), os.environ.get("PYTHONPATH", "")])
        # Ray asks for a token wherever this user has one; this cluster has its own
        self.token = uuid.uuid4().hex
        self.environment = {**os.environ, "PYTHONPATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        self.environment.pop("RAY_ADDRESS", None)
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy
        self.node = subprocess.Popen(
            [
                *("ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}"),
                *(f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
                *(f"--dashboard-agent-grpc-port={agent_grpc}", f"--runtime-env-agent-port={runtime_env}"),
                *(f"--ray-client-server-port={client}", f"--metrics-export-port={metrics}"),
                *("--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={folder}", "--num-cpus=4"),
                *(f"--object-store-memory={300 * MB}", "--disable-usage-stats"),
            ],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def stop(self) -> None:
        self.node.terminate()
        self.node.wait(120)

    def applications(self) -> dict[str, Any]:
        """What Serve says of its applications."""
        headers = {"Authorization": f"Bearer {self.token}"}
        answered = self.session.get(f"{self.dashboard}/api/serve/applications/", headers=headers, timeout=30)
        answered.raise_for_status()
        found: dict[str, Any] = answered.json()["applications"]
        return found

    def ready(self) -> bool:
        try:
            return self.applications() == {}
        except requests.RequestException:
            return False

    def run(self, program: str, *arguments: str, timeout: float = 180) -> str:
        done = subprocess.run(
            [sys.executable, str(PROGRAMS / program), self.address, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def names(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("names.py", *arguments))
        return found

    def deploy(self, *applications: dict[str, Any]) -> None:
        """`serve deploy`, and what the configuration lacks goes."""
        config = self.folder / "config.yaml"
        http = {"host": "127.0.0.1", "port": self.http}
        config.write_text(yaml.safe_dump({"http_options": http, "applications": list(applications)}))
        done = subprocess.run(
            ["serve", "deploy", "-a", self.dashboard, str(config)],
            capture_output=True,
            text=True,
            timeout=120,
            env=self.environment,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def application(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.applications().get(name, {"status": "NONE"})
        return found

    def runs(self, name: str) -> bool:
        return settles(lambda: self.application(name)["status"] in ("RUNNING", "DEPLOY_FAILED"), 120) and (
            self.application(name)["status"] == "RUNNING"
        )

    def ask(self, app: str, x: int, model_id: str = "", sleep: float = 0) -> dict[str, Any]:
        headers = {"serve_multiplexed_model_id": model_id} if model_id else {}
        response = self.session.get(
            f"http://127.0.0.1:{self.http}/{app}", {"x": x, "sleep": sleep}, headers=headers, timeout=120
        )
        response.raise_for_status()
        answered: dict[str, Any] = response.json()
        return answered

    def logged(self, text: str, pattern: str = "**/*") -> list[Path]:
        """The files of Ray's and Serve's logs that have a text."""
        files = [path for path in (self.folder / "session_latest" / "logs").glob(pattern) if path.is_file()]
        return [path for path in files if text in path.read_text(errors="replace")]


@pytest.fixture(scope="module")
def serve_cluster():
    with tempfile.TemporaryDirectory(
        prefix="rzc", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:  # short, for sockets
        cluster = Cluster(Path(folder))
        try:
            assert settles(cluster.ready, 240)
            cluster.deploy()
            yield cluster
        finally:
            cluster.stop()


def application(name: str, builder: str, args: dict[str, Any] | None = None, replicas: int = 1) -> dict[str, Any]:
    """An entry of Serve's configuration."""
    deployments = [{"name": "Service", "num_replicas": replicas}]
    entry = {"name": name, "route_prefix": f"/{name}", "import_path": builder, "deployments": deployments}
    return {**entry, "args": args} if args else entry


def right(cluster: Cluster, app: str, seed: int) -> bool:
    expected = model(seed)
    return all(cluster.ask(app, x)["y"] == answer(expected, x) for x in range(4))


# --- serve.run -----------------------------------------------------------------------------------------


def test_a_service_of_a_named_model_outlives_its_driver_is_restarted_and_scaled(serve_cluster):
    serve_cluster.run("serve_run.py", "survives", "1", "survivor")
    first = serve_cluster.ask("survives", 0)["pid"]
    assert right(serve_cluster, "survives", 1)
    os.kill(first, signal.SIGKILL)

    def restarted():
        try:
            return serve_cluster.ask("survives", 0)["pid"] != first
        except requests.RequestException:
            return False

    assert settles(restarted, 120)
    assert right(serve_cluster, "survives", 1)

    def replicas():
        found = serve_cluster.application("survives")["deployments"]["Service"]["replicas"]
        return sum(each["state"] == "RUNNING" for each in found)

    assert replicas() == 1
    end = time.monotonic() + 120
    with concurrent.futures.ThreadPoolExecutor(9) as pool:

        def load(_: int) -> None:
            while replicas() < 3 and time.monotonic() < end:
                serve_cluster.ask("survives", 0, sleep=1)

        list(pool.map(load, range(9)))
        answers = list(pool.map(lambda x: serve_cluster.ask("survives", x, sleep=0.3), range(30)))
    assert replicas() == 3
    assert len({each["pid"] for each in answers}) == 3
    assert [each["y"] for each in answers] == [answer(model(1), x) for x in range(30)]


def test_a_model_without_a_name_ends_with_its_driver_and_the_restarted_replica_says_so(serve_cluster):
    serve_cluster.run("serve_run.py", "plain", "2")
    assert right(serve_cluster, "plain", 2)  # the replica holds what it has loaded
    os.kill(serve_cluster.ask("plain", 0)["pid"], signal.SIGKILL)
    assert settles(lambda: "ImageLostError" in json.dumps(serve_cluster.application("plain")), 120)
    assert "lifetime='detached'" in json.dumps(serve_cluster.application("plain"))
    serve_cluster.names("end", "plain", "survives")


@pytest.mark.parametrize("way", ["replace", "get_if_exists"])
def test_five_deployments_by_serve_run_leave_one_image(serve_cluster, way):
    found = json.loads(serve_cluster.run("serve_again.py", way, "5", timeout=300))
    assert found["version"] == (5 if way == "replace" else 1)
    assert 0.7 < found["images"] < 1.7


# --- serve deploy --------------------------------------------------------------------------------------


def test_applications_that_serve_builds_from_a_configuration(serve_cluster):
    apps = [
        application("named", "serve_apps:named", {"name": "by-name", "seed": 3}),
        application("factory", "serve_apps:factory", {"name": "by-factory", "seed": 4}),
        application("imported", "serve_at_import:app"),
    ]
    seeds = {"named": 3, "factory": 4, "imported": 7}
    for _ in range(2):
        serve_cluster.deploy(*apps)
        for name, seed in seeds.items():
            assert serve_cluster.runs(name), serve_cluster.application(name)
            assert right(serve_cluster, name, seed)
    apps[0] = application("named", "serve_apps:named", {"name": "another", "seed": 5})
    apps[1] = application("factory", "serve_apps:factory", {"name": "by-factory", "seed": 4}, replicas=2)
    serve_cluster.deploy(*apps)
    for name, seed in (seeds | {"named": 5}).items():
        assert serve_cluster.runs(name), serve_cluster.application(name)
        assert settles(lambda name=name, seed=seed: right(serve_cluster, name, seed), 60)
    assert len(serve_cluster.application("factory")["deployments"]["Service"]["replicas"]) == 2
    models = serve_cluster.names("delete")["models"]
    assert not {"by-name", "by-factory", "at-import", "another"} & set(models)
    serve_cluster.deploy()


def test_a_model_without_a_name_in_a_configuration_warns_and_then_says_that_it_is_lost(serve_cluster):
    serve_cluster.deploy(application("mistake", "serve_apps:plain", {"seed": 1}))
    assert settles(lambda: "ImageLostError" in json.dumps(serve_cluster.application("mistake")), 120)
    assert "lifetime='detached'" in json.dumps(serve_cluster.application("mistake"))
    assert serve_cluster.logged("ShortLivedOwnerWarning")
    serve_cluster.deploy()


# --- inside a service ----------------------------------------------------------------------------------


def test_an_async_service_multiplexes_models_and_the_evicted_ones_let_the_store_go(serve_cluster):
    serve_cluster.run("serve_run.py", "async", "9", "async")
    serve_cluster.names("publish", "a", "1", "b", "2", "c", "3")
    seeds = {"a": 1, "b": 2, "c": 3}
    mapped = []
    for name in "abcabccb":
        answered = serve_cluster.ask("async", 5, name)
        assert answered["y"] == answer(model(seeds[name]), 5)
        mapped.append(answered["mapped"] - 1)  # one is the service's own
    assert mapped == [1, 2, 2, 2, 2, 2, 2, 2]
    assert serve_cluster.ask("async", 5)["y"] == answer(model(9), 5)
    deleted = serve_cluster.names("delete", "a")  # which was evicted: b and c are in the replica
    assert IMAGE * 0.7 < deleted["before"] - deleted["after"] < IMAGE * 1.3
    held = serve_cluster.names("delete", "b")
    assert held["before"] - held["after"] < IMAGE * 0.3
    assert serve_cluster.ask("async", 5, "b")["y"] == answer(model(2), 5)
    serve_cluster.names("end", "async")
    assert not serve_cluster.logged("Using blocking ray.get inside async")  # in the constructor, or in a request


# --- hot swap ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["actor", "serve"])
def test_twenty_versions_under_load_and_no_request_fails_or_is_answered_by_an_older_one(serve_cluster, kind):
    dashboard = [serve_cluster.dashboard] if kind == "serve" else []
    found = json.loads(serve_cluster.run("swap.py", "20", *dashboard, timeout=600))
    assert found["failed"] == []
    assert found["requests"] > 100
    print(found)


def test_the_files_of_the_page_about_serve(serve_cluster):
    cluster = serve_cluster
    page = (HERE.parent / "docs" / "serve.md").read_text()
    module, config = (
        re.search(rf"```{kind}\n(# {name}\n.*?)```", page, re.DOTALL)[1]
        for kind, name in (("python", "sentiment.py"), ("yaml", "config.yaml"))
    )
    (cluster.folder / "sentiment.py").write_text(module)
    (application,) = yaml.safe_load(config)["applications"]
    cluster.deploy(application)
    assert cluster.runs("sentiment"), cluster.application("sentiment")
    url = f"http://127.0.0.1:{cluster.http}{application['route_prefix']}"
    asked = json.loads(re.search(r"curl -d '(.*?)'", page)[1])
    answers = {cluster.session.post(url, json=asked, timeout=60).json() for _ in range(20)}
    assert len(answers) == 1 and answers.pop() in range(512)  # two replicas, one model
    cluster.deploy()
    cluster.run("names.py", "delete", "sentiment")
