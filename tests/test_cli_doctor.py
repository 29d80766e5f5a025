"""``python -m ray_zerocopy doctor``: it finds faults, names the way out, starts nothing, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import ray

import ray_zerocopy
from ray_zerocopy import __main__ as command
from ray_zerocopy import core, errors, settings
from ray_zerocopy.cli import installation, machine, store
from ray_zerocopy.cli.findings import Finding, note, ok, summary
from ray_zerocopy.stores import node, objects
from test_cli import free_port, run

GIB = 1 << 30
ROOT = Path(__file__).resolve().parent.parent
THP = "sys/kernel/mm/transparent_hugepage"


@pytest.fixture
def no_cluster(monkeypatch):
    """As on a machine where none runs, whatever the other tests run here."""
    asked = []

    def init(**options):
        asked.append(options["address"])
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    return asked


@pytest.fixture
def fake(tmp_path):
    """A machine of files: ``fake({"proc/meminfo": ...}, shm=(bytes, free bytes))``."""

    def make(files, shm=(16 * GIB, 16 * GIB)):
        for name, text in files.items():
            path = tmp_path / "fake" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        made = machine.Machine(str(tmp_path / "fake"))
        made.space = lambda folder: shm  # type: ignore[method-assign]
        return made

    return make


def mounts(*lines):
    return "".join(
        f"{n} 1 0:1 / {place} rw - {kind} none {options}\n" for n, (place, kind, options) in enumerate(lines)
    )


def advised(finding: Finding, status: str, *words: str) -> None:
    assert finding.status == status, finding
    assert all(word in finding.advice for word in words), finding


def test_without_a_cluster_it_checks_the_rest_and_starts_none(no_cluster, tmp_path, capsys):
    assert command.main(["doctor", "--folder", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert no_cluster == ["auto"]  # which never starts one
    assert re.search(r"^note +cluster +none runs on this machine", out, re.M)
    for subject in ("Python", "torch", "ray", "ray_zerocopy", "compiled core", "/dev/shm", "files as huge pages"):
        assert re.search(rf"^\w+ +{subject} ", out, re.M), subject
    assert re.fullmatch(r"no problems, \d+ notes?", out.splitlines()[-1])
    assert not err and not list(tmp_path.iterdir())


def test_json_has_every_finding_with_its_advice(no_cluster, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RAY_ZEROCOPY_ISOLATON", "read-only")
    assert command.main(["doctor", "--folder", str(tmp_path), "--json"]) == 0
    findings = [Finding(**each) for each in json.loads(capsys.readouterr().out)["findings"]]
    assert all(bool(each.advice) == (each.status != "ok") for each in findings)
    (typo,) = [each for each in findings if "RAY_ZEROCOPY_ISOLATON" in each.found]
    advised(typo, "note", "Did you mean RAY_ZEROCOPY_ISOLATION?")


def test_a_problem_gives_exit_code_1(no_cluster, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(settings.KEPT_MODELS, "many")
    assert command.main(["doctor", "--folder", str(tmp_path)]) == 1
    assert "1 problem," in capsys.readouterr().out.splitlines()[-1]


def test_the_real_command_reports_a_cluster_that_does_not_answer(tmp_path):
    done = run("doctor", "--json", "--folder", str(tmp_path), RAY_ADDRESS=f"127.0.0.1:{free_port()}")
    last = Finding(**json.loads(done.stdout)["findings"][-1])
    assert done.returncode == 1 and "no Ray cluster is running at" in last.found and "Traceback" not in done.stderr
    advised(last, "problem", "--address")
    assert run("doctor", "--nonsense").returncode == 2


def test_of_a_running_cluster_it_tells_the_store_and_the_isolation(cluster, tmp_path):
    address = ray.get_runtime_context().gcs_address
    done = run("doctor", "--address", address, "--folder", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{address}, 1 node" in done.stdout
    assert re.search(r"^ok +store +1\.0 GiB, .* free", done.stdout, re.M)
    assert re.search(rf"^ok +isolation +{ray_zerocopy.isolation()}", done.stdout, re.M)
    assert re.search(r"^ok +store's folder +/\S+ \(tmpfs\)", done.stdout, re.M)


def test_without_ray_and_torch_imported_it_is_quick():
    program = "import sys, ray_zerocopy.cli.doctor; assert not {'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_ray_that_never_answers_ends_with_a_report(tmp_path):
    program = (
        "import sys, time, ray; from ray_zerocopy.cli import cluster; from ray_zerocopy.__main__ import main\n"
        "cluster._SECONDS, ray.init = 0.2, lambda **options: time.sleep(60)\n"
        "main(['doctor', '--folder', sys.argv[1], '--address', 'auto'])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=50)
    assert done.returncode == 1 and "problem  cluster" in done.stdout and "1 problem" in done.stdout


# --- the installation --------------------------------------------------------------------------------


def test_a_core_that_does_not_load_is_a_problem_that_says_how_to_get_it(monkeypatch):
    def fails():
        raise errors.CoreUnavailableError("run pip install with the wheel for this machine")

    monkeypatch.setattr(core, "format_version", fails)
    finding = installation._core()
    assert finding.status == "problem" and "pip install" in finding.found


@pytest.mark.parametrize("version", [None, "2.3.1+cpu"])
def test_a_library_that_is_missing_or_too_old_is_a_problem(monkeypatch, version):
    monkeypatch.setattr(installation, "_version", lambda name: version)
    advised(installation._library("torch"), "problem", "pip install 'torch>=2.4'")


def test_two_installations_are_told_apart(monkeypatch):
    monkeypatch.setattr(installation, "_version", lambda name: "0.2.0")
    advised(installation._ourselves(), "problem", "pip uninstall ray-zerocopy")


def test_the_least_versions_are_those_of_the_project():
    text = (ROOT / "pyproject.toml").read_text()
    assert all(f'"{name}>={version}"' in text for name, version in installation.LEAST.items())


def test_every_setting_is_known_and_documented():
    source = (ROOT / "python" / "ray_zerocopy" / "settings.py").read_text()
    read = set(re.findall(r"\"(RAY_ZEROCOPY_\w*[A-Z])\"", source))
    listed = set(re.findall(r"^\| `(RAY_ZEROCOPY_\w+)` \|", (ROOT / "docs" / "settings.md").read_text(), re.M))
    assert read == listed == set(settings.VARIABLES)


def test_typos_in_settings_are_noticed_and_others_variables_are_not(monkeypatch):
    for name in [name for name in os.environ if "ZEROCOPY" in name]:
        monkeypatch.delenv(name)
    for name in ("RAY_ZERO_COPY_ISOLATION", "ray_zerocopy_kept_bytes", "RAY_ZEROCOPY_QUITE_ANOTHER"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("RAY_ENABLE_ZERO_COPY_TORCH_TENSORS", "1")
    assert settings.unknown() == {
        "RAY_ZERO_COPY_ISOLATION": settings.ISOLATION,
        "ray_zerocopy_kept_bytes": settings.KEPT_BYTES,
        "RAY_ZEROCOPY_QUITE_ANOTHER": "",
    }


# --- the machine -------------------------------------------------------------------------------------


def test_a_container_that_hides_everything_has_no_problems(fake, tmp_path):
    findings = list(machine.checks(fake({}, shm=(16 * GIB, 8 * GIB)), str(tmp_path)))
    assert not [each for each in findings if each.status == "problem"]
    advised(findings[0], "note", "mount -t proc")
    unknown = {each.subject for each in findings if machine.UNKNOWN in each.found}
    assert unknown >= {"memory", "huge pages, private", "huge pages, shared", "overcommit"}


@pytest.mark.parametrize(
    ("shm", "kind", "status", "word"),
    [
        ((64 << 20, 64 << 20), "tmpfs", "problem", "--shm-size"),
        (None, "tmpfs", "problem", "--plasma-directory"),
        ((100 * GIB, 50 * GIB), "ext4", "problem", "tmpfs"),
        ((2 * GIB, 2 * GIB), "tmpfs", "note", "mount -o remount,size="),
        ((16 * GIB, GIB), "tmpfs", "note", "ray memory"),
        ((16 * GIB, 15 * GIB), "tmpfs", "ok", ""),
    ],
)
def test_shared_memory_that_is_too_small_or_full_or_none(fake, shm, kind, status, word):
    here = fake({"proc/self/mountinfo": mounts(("/", "overlay", "rw"), ("/dev/shm", kind, "rw,size=1k"))}, shm)
    advised(machine.shared_memory(here, 32 * GIB), status, word)


def test_a_containers_memory_counts_and_not_the_machines(fake):
    files = {"proc/meminfo": "MemTotal:       33554432 kB\n"}
    assert fake(files).memory() == 32 * GIB
    assert fake({**files, "sys/fs/cgroup/memory.max": "max\n"}).memory() == 32 * GIB
    assert fake({**files, "sys/fs/cgroup/memory.max": f"{4 * GIB}\n"}).memory() == 4 * GIB


def test_the_innermost_and_latest_mount_is_a_folders(fake):
    here = fake(
        {"proc/self/mountinfo": mounts(("/", "ext4", ""), ("/mnt", "xfs", ""), ("/mnt", "tmpfs", "rw,huge=always"))}
    )
    assert here.mount("/mnt/plasma") == machine.Mount("/mnt", "tmpfs", ["rw", "huge=always"])
    assert here.mount("/mntx").kind == "ext4"  # type: ignore[union-attr]


def test_huge_pages_that_are_switched_off_are_noted_with_how_to_switch_them_on(fake):
    here = fake(
        {
            f"{THP}/enabled": "always madvise [never]\n",
            f"{THP}/shmem_enabled": "always within_size advise never [deny] force\n",
            "proc/self/status": "Name:\tpython\nTHP_enabled:\t0\n",
        }
    )
    private, shared, barred = machine.huge_pages(here)
    advised(private, "note", "echo madvise >")
    advised(shared, "note", "echo never >", "docs/huge-pages.md")
    advised(barred, "note", "another")


def test_strict_overcommit_is_noted(fake):
    *_, finding = machine.limits(
        fake(
            {
                "proc/sys/vm/overcommit_memory": "2\n",
                "proc/meminfo": "CommitLimit:  2097152 kB\nCommitted_AS:  1048576 kB\n",
            }
        )
    )
    advised(finding, "note", "overcommit_memory")
    assert "1.0 GiB left" in finding.found


def test_few_open_files_are_noted(fake, monkeypatch):
    monkeypatch.setattr(machine.resource, "getrlimit", lambda which: (256, 4096))
    finding, *_ = machine.limits(fake({}))
    advised(finding, "note", "ulimit -n 4096")


@pytest.mark.parametrize(("huge", "status"), [(0, "note"), (32 << 20, "ok"), (None, "ok")])
def test_folders_without_large_folios_are_noted(fake, monkeypatch, tmp_path, huge, status):
    monkeypatch.setattr(machine, "_huge_bytes", lambda inode: huge)
    advised(machine.large_folios(fake({}), str(tmp_path)), status, "tmpfs" if status == "note" else "")


def test_the_file_that_is_written_to_look_is_gone_however_it_ends(fake, monkeypatch, tmp_path):
    seen = []

    def interrupted(inode):
        seen.extend(tmp_path.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(machine, "_huge_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        machine.large_folios(fake({}), str(tmp_path))
    assert not seen and not list(tmp_path.iterdir())  # it had no name even then: a kill leaves nothing, either


def test_a_folder_that_cannot_be_written_is_no_problem(fake, tmp_path):
    finding = machine.large_folios(fake({}), str(tmp_path / "none"))
    advised(finding, "note", "--folder")
    assert machine.UNKNOWN in finding.found


def test_what_ended_clusters_have_spilled_is_found_and_what_runs_is_not(fake, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    for session in ("session_2026-01-01_1", "session_2026-01-02_2", "session_2026-01-03_3"):
        folder = tmp_path / "ray" / session / "ray_spilled_objects_ab"
        folder.mkdir(parents=True)
        if not session.endswith("3"):
            (folder / "object").write_bytes(bytes(2048))
    here = fake({"proc/12/cmdline": "/x/raylet\0--session_name=session_2026-01-02_2\0"})
    (finding,) = machine.leftovers(here)
    advised(finding, "note", "rm -r")
    assert "session_2026-01-01_1" in finding.found and "01-02" not in finding.found and "01-03" not in finding.found
    first, _ = machine.leftovers(fake({"proc/13/cmdline": "/y/raylet\0"}))
    assert "2 raylets" in first.found


# --- the store ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "status"), [("copy-on-write", "ok"), ("read-only", "note"), ("copy", "problem")])
def test_weights_that_are_not_copy_on_write_come_with_the_reason(monkeypatch, mode, status):
    monkeypatch.setattr(node, "next_isolation", lambda: (mode, "permission denied"))
    finding = store._isolation()
    advised(finding, status, "" if status == "ok" else "PID namespace")
    assert ("permission denied" in finding.found) == (status != "ok")


def test_read_only_that_was_asked_for_names_the_setting(cluster, monkeypatch):
    monkeypatch.setenv(settings.ISOLATION, "read-only")
    assert node.next_isolation() == ("read-only", f"{settings.ISOLATION} asks for it")
    advised(store._isolation(), "note", f"unset {settings.ISOLATION}")


def test_a_store_on_disk_is_a_problem(fake, monkeypatch):
    here = fake({"proc/self/mountinfo": mounts(("/", "ext4", "rw"))})
    monkeypatch.setattr(node, "store_file", lambda: "/somewhere/ray/plasma1 (deleted)")
    advised(store._folder(here), "problem", "/dev/shm", "--object-store-memory")


def test_a_store_that_spills_or_is_full_is_noted(monkeypatch):
    monkeypatch.setattr(objects, "spilled", lambda: 0)
    assert store._room(GIB, GIB // 2).status == "ok"
    advised(store._room(GIB, 1 << 20), "note", "ray memory")
    monkeypatch.setattr(objects, "spilled", lambda: GIB)
    advised(store._room(GIB, GIB // 2), "note", "object_store_memory")


# --- how it is told ----------------------------------------------------------------------------------


def test_advice_stands_below_what_it_is_for():
    first, second = str(note("/dev/shm", "small", "make it larger")).splitlines()
    assert first.startswith("note     /dev/shm ") and second.strip() == "-> make it larger"
    assert first.index("small") == second.index("->")
    assert summary([ok("a", "b"), note("a", "b", "c"), note("a", "b", "c")]) == "no problems, 2 notes"
