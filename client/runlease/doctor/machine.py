"""Checks of the machine that a trainer runs on: versions, environment, directory, clock."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from runlease.doctor.finding import Finding, Verdict
from runlease.settings import DEFAULT_DIRECTORY, Environment
from runlease.spool.files import FOLDER
from runlease.spool.reading import find_sessions
from runlease.version import __version__
from runlease.writersettings import WriterSettings

WHERE = "this machine"

#: What the SDK is tested with from (pyproject.toml has the same).
_FLOORS = {"grpcio": (1, 49, 1), "protobuf": (3, 20, 3)}
#: Variables that name proxies, in gRPC's order. Their values may hold passwords and are never shown.
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
#: File systems that live in memory, and such as are shared over a network, as mountinfo names them.
_IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_SHARED = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs"})


def check_machine(environment: Environment, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what each check of this machine finds."""
    yield _versions()
    yield _fork(environ)
    yield _proxy(environment, environ)
    yield _clock()
    directory = Path(environment.directory or DEFAULT_DIRECTORY)
    yield _directory(directory)
    yield _spools(directory)


def _finding(name: str, verdict: Verdict, seen: str, remedy: str = "") -> Finding:
    return Finding(WHERE, name, verdict, seen, remedy)


def _versions() -> Finding:
    found = {name: metadata.version(name) for name in _FLOORS}
    seen = f"runlease {__version__}, Python {platform.python_version()}"
    seen += "".join(f", {name} {version}" for name, version in found.items())
    old = [name for name, floor in _FLOORS.items() if _numbers(found[name]) < floor]
    if not old:
        return _finding("versions", "ok", seen)
    wanted = " ".join(f"'{name}>={'.'.join(map(str, _FLOORS[name]))}'" for name in old)
    return _finding("versions", "error", seen, f"pip install {wanted}")


def _numbers(version: str) -> tuple[int, ...]:
    digits = ("".join(c for c in part if c.isdigit()) for part in version.split(".")[:3])
    return tuple(int(part or 0) for part in digits)


def _fork(environ: Mapping[str, str]) -> Finding:
    # `import runlease` has set it to 0 unless somebody decided otherwise.
    value = environ.get("GRPC_ENABLE_FORK_SUPPORT", "")
    if value.lower() in ("0", "false", "n", "no"):
        return _finding("fork", "ok", "gRPC leaves forked children (data loaders) alone")
    return _finding(
        "fork",
        "warning",
        f"GRPC_ENABLE_FORK_SUPPORT is {value!r}: forked children, such as data loaders, may hang or fill stderr",
        "unset GRPC_ENABLE_FORK_SUPPORT, and import runlease before grpc",
    )


def _proxy(environment: Environment, environ: Mapping[str, str]) -> Finding:
    named = [name for name in _PROXIES if environ.get(name) or environ.get(name.upper())]
    if environment.proxy:
        if named:
            return _finding("proxy", "ok", f"RUNLEASE_PROXY is set: calls go through {named[0]}")
        return _finding(
            "proxy", "warning", "RUNLEASE_PROXY is set, but no proxy is named", f"set {_PROXIES[-1]}, or unset it"
        )
    if named:
        return _finding("proxy", "ok", f"not used, though named ({', '.join(named)}); RUNLEASE_PROXY=1 would")
    return _finding("proxy", "ok", "none")


def _clock() -> Finding:
    if hasattr(time, "CLOCK_BOOTTIME"):
        return _finding("clock", "ok", "counts the time that this machine sleeps (CLOCK_BOOTTIME)")
    return _finding(
        "clock",
        "warning",
        "this system has no clock that surely counts its sleep: after one, a trainer may believe in its lease for "
        "longer than it has it; what it writes then is refused all the same",
        "keep the machine awake while it trains",
    )


def _directory(directory: Path) -> Finding:
    shown = f"{directory.absolute()} (RUNLEASE_DIR)" if directory != Path(DEFAULT_DIRECTORY) else f"{directory}"
    there = next((path for path in (directory, *directory.absolute().parents) if path.exists()), Path("/"))
    elsewhere = "set RUNLEASE_DIR to a directory that you can write, on a local disk"
    try:
        with tempfile.TemporaryFile(dir=there) as probe:  # leaves nothing behind, even when it is killed
            probe.write(bytes(4096))
            probe.flush()
            free = shutil.disk_usage(there).free
    except OSError as error:
        seen = f"cannot write to {shown}: {error.strerror}; what cannot be delivered would be lost"
        return _finding("directory", "error", seen, elsewhere)
    kind = file_system(there)
    seen = f"{shown}: {free / (1 << 30):.1f} GiB free" + (f", on {kind}" if kind else "")
    if kind in _IN_MEMORY:
        return _finding("directory", "warning", f"{seen}, which a restart of the machine empties", elsewhere)
    if kind in _SHARED or kind.startswith("fuse"):
        more = ", whose locks and syncs may be weaker than a local disk's"
        return _finding("directory", "warning", seen + more, elsewhere)
    if free < WriterSettings().spool_bytes:
        return _finding("directory", "warning", f"{seen}; a run may spool up to 1 GiB", f"make room, or {elsewhere}")
    return _finding("directory", "ok", seen)


def file_system(path: Path, read: Callable[[], str] | None = None) -> str:
    """Return the type of the file system under a path, as Linux names it; "" where it cannot be told."""
    try:
        lines = (read or Path("/proc/self/mountinfo").read_text)().splitlines()
    except OSError:
        return ""
    whole = os.path.realpath(path)
    found, longest = "", -1
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        # Blanks are written in octal there, as in \040. Of two mounts at one place the later one counts.
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        under = point == "/" or whole == point or whole.startswith(point + "/")
        if under and len(point) >= longest:
            found, longest = after.split()[0], len(point)
    return found


def _spools(directory: Path) -> Finding:
    folder = directory / FOLDER
    if not folder.is_dir():
        return _finding("spools", "ok", "nothing waits to be delivered")
    try:
        found = find_sessions(folder)
        waiting = [session for session in found.sessions if not session.locked]
    except OSError as error:
        return _finding("spools", "warning", f"cannot be read: {error.strerror}", f"check {directory}")
    if found.unreadable:
        seen = f"{len(found.unreadable)} cannot be read, {len(waiting)} not delivered"
        return _finding("spools", "warning", seen, f"see `runlease sync --dry-run {directory}`")
    if waiting:
        sessions = "1 session" if len(waiting) == 1 else f"{len(waiting)} sessions"
        return _finding("spools", "warning", f"{sessions} not delivered", f"run `runlease sync {directory}`")
    return _finding("spools", "ok", "nothing waits to be delivered")
