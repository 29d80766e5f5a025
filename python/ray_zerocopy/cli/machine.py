"""This machine, as its kernel describes it: memory, shared memory, huge pages, limits, leftovers.

Whatever is missing (containers hide parts of /proc and /sys) "cannot be told", which is no problem by itself.
"""

from __future__ import annotations

import mmap
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .findings import Finding, note, ok, problem
from .tables import size

UNKNOWN = "cannot be told"
SHM = "/dev/shm"

_DOCKER = 64 << 20  # bytes of /dev/shm in a container that was started without a word about it
_SHARE = 0.3  # of the memory: what Ray takes for its store by itself
_FEW_FILES = 1024  # descriptors: less than that, and a busy worker runs out of them
_PROBE = 32 << 20  # bytes
_HUGE = 2 << 20
_ENDLESS = 1 << 60  # bytes: how cgroups say that there is no limit


class Mount(NamedTuple):
    """Where a folder lies.

    Attributes:
        place: the mount point.
        kind: of file system.
        options: of the file system, as in ``huge=always``.
    """

    place: str
    kind: str
    options: list[str]


class Machine:
    """What the kernel tells, below ``root``."""

    def __init__(self, root: str = "/") -> None:
        self._root = Path(root)

    def read(self, path: str) -> str | None:
        """The text of a file of /proc or /sys; None where there is none, or not for us."""
        try:
            return (self._root / path.lstrip("/")).read_text(errors="replace")
        except OSError:
            return None

    def has_proc(self) -> bool:
        """Whether /proc is mounted."""
        return self.read("/proc/self/maps") is not None

    def number(self, path: str, name: str = "") -> int | None:
        """A file's number, or that of the line that starts with a name."""
        for line in (self.read(path) or "").splitlines():
            words = line[len(name) :].split()
            if line.startswith(name) and words and words[0].isdecimal():
                return int(words[0])
        return None

    def setting(self, path: str) -> str | None:
        """Which one of ``always [madvise] never`` is chosen."""
        chosen = (self.read(path) or "").partition("[")[2].partition("]")[0]
        return chosen or None

    def memory(self) -> int | None:
        """Bytes that this process may use: of the machine, or of its container where that has less."""
        total = self.number("/proc/meminfo", "MemTotal:")
        limits = [None if total is None else total << 10]
        limits += map(self.number, ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"))
        return min((limit for limit in limits if limit and limit < _ENDLESS), default=None)

    def mount(self, folder: str) -> Mount | None:
        """The mount that a folder lies in."""
        found = None
        inside = os.path.realpath(folder)
        for line in (self.read("/proc/self/mountinfo") or "").splitlines():
            before, _, after = line.partition(" - ")
            fields, kind = before.split(), after.split()
            if len(fields) < 5 or not kind:
                continue
            place = fields[4].replace("\\040", " ")
            # of two in the same place, the later one hides the other
            if _within(inside, place) and (found is None or len(place) >= len(found.place)):
                found = Mount(place, kind[0], kind[2].split(",") if len(kind) > 2 else [])
        return found

    def space(self, folder: str) -> tuple[int, int] | None:
        """Bytes of the file system of a folder, and those of them that are free."""
        try:
            found = os.statvfs(self._root / folder.lstrip("/"))
        except OSError:
            return None
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    def processes(self) -> Iterator[tuple[int, list[str]]]:
        """Those that can be seen: id and command line."""
        for each in (self._root / "proc").glob("[0-9]*"):
            words = self.read(f"/proc/{each.name}/cmdline")
            if words:
                yield int(each.name), words.split("\0")


def checks(machine: Machine, folder: str) -> Iterator[Finding]:
    """All that can be told without Ray.

    Args:
        machine: this one.
        folder: where model files lie, or will.
    """
    if not machine.has_proc():
        yield note(
            "/proc",
            "is not mounted, or hidden: where workers lack it too, loaded weights cannot be written",
            "Mount it: mount -t proc proc /proc, as root. Much of what follows cannot be told without.",
        )
    memory = machine.memory()
    yield ok("memory", UNKNOWN if memory is None else f"{size(memory)} for this machine or container")
    yield shared_memory(machine, memory)
    yield from huge_pages(machine)
    yield large_folios(machine, folder)
    yield from limits(machine)
    yield from leftovers(machine)


def shared_memory(machine: Machine, memory: int | None) -> Finding:
    """/dev/shm, where Ray's store lies unless it is told otherwise."""
    space, mount = machine.space(SHM), machine.mount(SHM)
    elsewhere = "or give Ray another tmpfs: ray start --plasma-directory=FOLDER, ray.init(_plasma_directory=FOLDER)"
    if space is None:
        return problem(
            SHM, "is not there, so Ray keeps its store in a file on disk", f"Mount a tmpfs at {SHM}, {elsewhere}."
        )
    total, free = space
    found = f"{size(total)}, {size(free)} of them free"
    if mount is not None and mount.kind != "tmpfs":
        return problem(
            SHM, f"{found}; a {mount.kind} and no tmpfs", f"Mount a tmpfs there (as in /etc/fstab), {elsewhere}."
        )
    larger = f"Make it larger: docker run --shm-size=..., in Kubernetes an emptyDir with medium: Memory at {SHM}, " + (
        f"else, as root, mount -o remount,size=... {SHM}."
    )
    if total <= _DOCKER:
        return problem(SHM, f"{found}: no room for a model, so Ray puts its store on disk, which is slow", larger)
    if memory is not None and total < _SHARE * memory:
        return note(
            SHM,
            f"{found}; Ray by itself asks for a store of {_SHARE:.0%} of the memory ({size(_SHARE * memory)}), which "
            "goes to disk where that is more than there is",
            f"{larger} Or ask for a store that fits: ray.init(object_store_memory=...).",
        )
    if free < 0.1 * total:
        return note(
            SHM,
            f"{found}: next to nothing is left for one more store",
            f"See who holds it: ls -l {SHM} for files, `ray memory` for what lies in Ray's store.",
        )
    share = "" if memory is None else f"; {total / memory:.0%} of the memory"
    return ok(SHM, found + share)


def huge_pages(machine: Machine) -> Iterator[Finding]:
    """Whether memory may lie on huge pages: what bounds the first forward after a load."""
    folder = "/sys/kernel/mm/transparent_hugepage"
    private = machine.setting(f"{folder}/enabled")
    if private == "never":
        yield note(
            "huge pages, private",
            "never: activations and copies of models lie on pages of 4 KiB",
            f"As root: echo madvise > {folder}/enabled.",
        )
    else:
        yield ok("huge pages, private", private or UNKNOWN)
    shared = machine.setting(f"{folder}/shmem_enabled")
    if shared == "deny":
        yield note(
            "huge pages, shared",
            "deny: no tmpfs has huge pages, however it was mounted",
            f"As root: echo never > {folder}/shmem_enabled. A tmpfs mounted with huge=... has them then "
            "(docs/huge-pages.md).",
        )
    else:
        unless = ", unless a tmpfs is mounted with huge=..." if shared == "never" else ""
        yield ok("huge pages, shared", (shared or UNKNOWN) + unless)
    if machine.number("/proc/self/status", "THP_enabled:") == 0:
        yield note(
            "huge pages, here",
            "processes started from here are barred from them (PR_SET_THP_DISABLE)",
            "What started this shell has switched them off; start Ray from another one.",
        )


def large_folios(machine: Machine, folder: str) -> Finding:
    """Whether files in a folder are mapped by huge pages, so that a model file's first forward is quick."""
    subject = "files as huge pages"
    mount = machine.mount(folder)
    where = f"{folder} ({mount.kind})" if mount else folder
    try:
        huge = _mapped_huge(folder)
    except OSError as error:
        return note(
            subject,
            f"{UNKNOWN} for {where}: {error.strerror or error}",
            f"Name a folder with {size(_PROBE)} free that may be written: --folder FOLDER.",
        )
    if huge is None:
        return ok(subject, f"{UNKNOWN} for {where}")
    if huge:
        return ok(subject, f"{where}: {size(huge)} of {size(_PROBE)} are mapped by pages of 2 MiB")
    if mount and mount.kind == "tmpfs":
        way = f"As root: mount -o remount,huge=within_size {mount.place}."
    else:
        way = (
            "Linux has large folios for xfs from 5.18 on and for ext4 from 6.16 on; or keep model files in a tmpfs "
            "mounted with huge=always (docs/huge-pages.md)."
        )
    return note(subject, f"{where}: model files there are mapped by pages of 4 KiB, so a first forward is slower", way)


def _mapped_huge(folder: str) -> int | None:
    """Bytes of a new file that are mapped as huge pages; None where the kernel does not tell.

    The file never has a name, or loses it at once: nothing is left behind, however this ends.
    """
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        piece = memoryview(bytes(_HUGE))  # the kernel makes a folio of one write, where its start is a multiple
        for _ in range(_PROBE // _HUGE):
            left = piece
            while left:
                left = left[file.write(left) or 0 :]
        # private, whole and writable, as a model file is mapped
        with mmap.mmap(file.fileno(), _PROBE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
            for start in range(0, _PROBE, mmap.PAGESIZE):
                mapped[start]
            return _huge_bytes(os.fstat(file.fileno()).st_ino)


def _huge_bytes(inode: int) -> int | None:
    total, inside, told = 0, False, False
    try:
        with open("/proc/self/smaps") as lines:
            for line in lines:
                name, *values = line.split()
                if not name.endswith(":"):
                    inside = len(values) > 3 and values[3] == str(inode)
                elif inside and name in ("FilePmdMapped:", "ShmemPmdMapped:"):
                    told = True
                    total += int(values[0]) << 10
    except OSError:
        return None
    return total if told else None


def limits(machine: Machine) -> Iterator[Finding]:
    """What processes started from here may take."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{files:,}" if files >= 0 else "unlimited"
    if 0 <= files < _FEW_FILES:
        yield note(
            "open files",
            f"at most {found}; workers of Ray and the Go core need some hundred",
            f"ulimit -n {most if most > files else 65536} before Ray is started"
            + ("." if most > files else ", as root or by /etc/security/limits.conf."),
        )
    else:
        yield ok("open files", found)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    yield ok("locked memory", f"{size(locked) if locked >= 0 else 'unlimited'}; nothing here locks any")
    path = "/proc/sys/vm/overcommit_memory"
    overcommit = machine.number(path)
    if overcommit == 2:
        limit = machine.number("/proc/meminfo", "CommitLimit:")
        used = machine.number("/proc/meminfo", "Committed_AS:")
        left = "" if limit is None or used is None else f" ({size(max(0, limit - used) << 10)} left)"
        yield note(
            "overcommit",
            f"2: every load counts in full towards the commit limit{left}, though its pages are shared",
            f"echo 0 > {path} (as root), or raise vm.overcommit_ratio; else loads can fail with MappingError.",
        )
    else:
        yield ok("overcommit", UNKNOWN if overcommit is None else str(overcommit))


def leftovers(machine: Machine) -> Iterator[Finding]:
    """What clusters that have ended have left in memory and on disk, and which still run."""
    commands = [words for _, words in machine.processes()]
    raylets = [words for words in commands if os.path.basename(words[0]) == "raylet"]
    if len(raylets) > 1:
        yield note(
            "running clusters",
            f"{len(raylets)} raylets run on this machine, each with a store of its own",
            "Models in one store cannot be seen in another. End what is not used: the programs that started them, or "
            "`ray stop`, which ends all of them.",
        )
    sessions = Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray"
    lost = {}
    for session in sorted(sessions.glob("session_2*")):
        if not any(session.name in word for words in commands for word in words):
            spilled = sum(map(_size, session.glob("ray_spilled_objects*/**/*")))
            if spilled:
                lost[str(session)] = spilled
    files = {str(path): _size(path) for path in Path(SHM).glob("plasma*")} if not raylets else {}
    left = {**lost, **files}
    if not left:
        yield ok("leftovers", "none")
        return
    names = sorted(left, key=left.__getitem__, reverse=True)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    yield note(
        "leftovers",
        f"{size(sum(left.values()))} of clusters that do not run any more: {', '.join(names[:3])}{more}",
        "Remove them once you are sure that no cluster of another container uses them: rm -r PATH.",
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
