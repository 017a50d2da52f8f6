"""Settings of a coordinator: flags win over `RUNLEASE_*`, which win over defaults; all checked at start."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from runlease.redaction import redact_url

from runlease_coordinator.storeurl import StoreUrl

#: Bytes of a Unix socket's path without the closing NUL: `sun_path` is 108 on Linux, 104 on macOS and BSD.
MAX_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103

DEFAULT_MAX_TTL_S = 60.0
MIN_MAX_TTL_S = 5.0
MAX_MAX_TTL_S = 3600.0

MAX_RETENTION_DAYS = 36_500.0

MIN_READ_BYTES = 1 << 20

DURABILITIES = ("local", "replicated")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")

_STORE_REMEDY = (
    "give --store embedded, redis://HOST:PORT, rediss://HOST:PORT, unix:///PATH, "
    "redis+sentinel://HOST:PORT[,HOST:PORT...]/SERVICE or redis+cluster://HOST:PORT[,HOST:PORT...]"
)


class StartupError(RuntimeError):
    """A coordinator that cannot start; the message holds the remedy."""


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Return `$RUNLEASE_DATA_DIR`, else `$XDG_DATA_HOME/runlease`, else `~/.local/share/runlease`."""
    if given := environ.get("RUNLEASE_DATA_DIR"):
        return Path(given).expanduser()
    # The XDG specification says that a relative path is to be ignored.
    if (base := environ.get("XDG_DATA_HOME", "")).startswith("/"):
        return Path(base) / "runlease"
    home = environ.get("HOME")
    return (Path(home) if home else Path.home()) / ".local" / "share" / "runlease"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one coordinator runs with.

    Raises:
        StartupError: A value is impossible; the message names the flag and the remedy.
    """

    listen: str = "127.0.0.1:7373"
    """Address of the gRPC server: `HOST:PORT` (port 0 takes a free one) or `unix:/PATH`."""

    store: str = field(default="embedded", repr=False)
    """`embedded`, or the URL of a server, of Sentinels or of a cluster. Not in the repr: it may hold a password."""

    data_dir: Path = field(default_factory=lambda: default_data_dir(os.environ))
    """Directory of the embedded store; one coordinator at a time."""

    max_ttl_s: float = DEFAULT_MAX_TTL_S
    """Longest ttl that a client may ask for, in seconds, 5 to 3600."""

    lock_delay_s: float = 5.0
    """Seconds that a run stays closed after an unclean end, 0 to `max_ttl_s`."""

    server_binary: str | None = None
    """Server of the embedded store: a path, or a name on PATH. None searches for one."""

    data_nodes: int = 1
    """Data nodes a shard of the store has, replicas included."""

    durability: Literal["local", "replicated"] = "local"
    """When metrics are acknowledged: once the primary has them, or once `replicas` replicas have them, too."""

    history_url: str | None = field(default=None, repr=False)
    """Where histories are archived: a path or a URL of fsspec. None: `<data_dir>/history` with the embedded store,
    nowhere with another one. Not in the repr: it may hold credentials."""

    archive_bytes: int = 16 << 20
    """Bytes of points in the store from which on a run is archived while it goes on, 1 or more."""

    archive_after_s: float = 600.0
    """Seconds after its end from which on a run is archived whatever it has, 0 or more."""

    retention_days: float | None = None
    """Days after its end from which on a run's points are removed. None: they are kept."""

    read_bytes: int = 512 << 20
    """Bytes of points that reads of histories may hold together, 1 MiB or more; a single one may hold more."""

    drain_s: float = 10.0
    """Seconds that open calls get to end after SIGTERM."""

    log_level: str = "info"
    """`debug`, `info`, `warning` or `error`."""

    log_format: Literal["text", "json"] = "text"
    """`text` for people, `json` for one object a line."""

    def __post_init__(self) -> None:
        """Check every field, each with its own message."""
        _check_listen(self.listen)
        _check_store(self.store)
        self._check_timings()
        self._check_nodes()
        self._check_archive()
        if self.log_level not in LOG_LEVELS:
            raise StartupError(f"--log-level is {self.log_level!r}: give one of {', '.join(LOG_LEVELS)}")
        if self.log_format not in LOG_FORMATS:
            raise StartupError(f"--log-format is {self.log_format!r}: give one of {', '.join(LOG_FORMATS)}")

    @property
    def replicas(self) -> int:
        """How many replicas a write must reach: with so many, every majority of the data nodes has one that has it."""
        return self.data_nodes // 2

    @property
    def archive_url(self) -> str | None:
        """Where histories are archived; None: they stay in the store."""
        if self.history_url is not None or self.store != "embedded":
            return self.history_url
        return str(self.data_dir / "history")

    def _check_nodes(self) -> None:
        if self.data_nodes < 1:
            raise StartupError(f"--data-nodes is {self.data_nodes}: a store has at least 1 node")
        if self.data_nodes > 1 and self.store == "embedded":
            raise StartupError(
                f"--data-nodes is {self.data_nodes}, but the embedded store is one node: "
                "leave --data-nodes out, or give --store the URL of a replicated store"
            )
        if self.durability not in DURABILITIES:
            raise StartupError(f"--durability is {self.durability!r}: give one of {', '.join(DURABILITIES)}")
        if self.durability == "replicated" and not self.replicas:
            raise StartupError(
                "--durability replicated needs replicas, and --data-nodes is 1: "
                "give the number of data nodes, 3 or more, or leave --durability out"
            )

    def _check_archive(self) -> None:
        if self.archive_bytes < 1:
            raise StartupError(f"--archive-bytes is {self.archive_bytes}: give 1 or more bytes")
        if not (self.archive_after_s >= 0 and math.isfinite(self.archive_after_s)):
            raise StartupError(f"--archive-after is {self.archive_after_s:g} s: give 0 or more seconds")
        if self.retention_days is not None and not 0 < self.retention_days <= MAX_RETENTION_DAYS:
            raise StartupError(
                f"--retention is {self.retention_days:g} days: give more than 0, {MAX_RETENTION_DAYS:g} at most, "
                "or leave it out to keep points for ever"
            )

        if self.read_bytes < MIN_READ_BYTES:
            raise StartupError(f"--read-bytes is {self.read_bytes}: give {MIN_READ_BYTES} (1 MiB) or more bytes")

    def _check_timings(self) -> None:
        # Written as `not low <= x <= high`, so that NaN fails too.
        if not MIN_MAX_TTL_S <= self.max_ttl_s <= MAX_MAX_TTL_S:
            raise StartupError(
                f"--max-ttl is {self.max_ttl_s:g} s: give {MIN_MAX_TTL_S:g} to {MAX_MAX_TTL_S:g} seconds"
            )
        if not self.lock_delay_s >= 0:
            raise StartupError(f"--lock-delay is {self.lock_delay_s:g} s: give 0 or more seconds")
        if self.lock_delay_s > self.max_ttl_s:
            raise StartupError(
                f"--lock-delay is {self.lock_delay_s:g} s, more than --max-ttl {self.max_ttl_s:g} s: "
                "lower the one or raise the other"
            )
        if not (self.drain_s >= 0 and math.isfinite(self.drain_s)):
            raise StartupError(f"the drain time is {self.drain_s:g} s: give 0 or more seconds")


def settings_from_env(environ: Mapping[str, str], **overrides: Any) -> Settings:
    """Build the settings from the environment; the only function that reads `RUNLEASE_*`.

    Args:
        environ: Environment variables; empty ones count as unset.
        **overrides: Fields of `Settings` by name, as given by flags; None means not given.

    Raises:
        StartupError: A value cannot be read or is impossible.
        TypeError: An override names no field.
    """
    known = {each.name for each in fields(Settings)}
    if unknown := sorted(overrides.keys() - known):
        raise TypeError(f"no such setting: {', '.join(unknown)}")
    values: dict[str, Any] = {"data_dir": default_data_dir(environ)}
    for name, (variable, parse) in _VARIABLES.items():
        if text := environ.get(variable, "").strip():
            values[name] = parse(variable, text)
    values.update({name: value for name, value in overrides.items() if value is not None})
    values["data_dir"] = Path(values["data_dir"]).expanduser()
    return Settings(**values)


def _text(variable: str, text: str) -> str:
    return text


def _lower(variable: str, text: str) -> str:
    return text.lower()


def _seconds(variable: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise StartupError(f"{variable}={text!r} is no number: give seconds, as in {variable}=30") from None


def _days(variable: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise StartupError(f"{variable}={text!r} is no number: give days, as in {variable}=90") from None


def _count(variable: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise StartupError(f"{variable}={text!r} is no whole number: give one, as in {variable}=3") from None


_VARIABLES: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "listen": ("RUNLEASE_LISTEN", _text),
    "store": ("RUNLEASE_STORE", _text),
    "max_ttl_s": ("RUNLEASE_MAX_TTL", _seconds),
    "lock_delay_s": ("RUNLEASE_LOCK_DELAY", _seconds),
    "server_binary": ("RUNLEASE_SERVER_BINARY", _text),
    "data_nodes": ("RUNLEASE_DATA_NODES", _count),
    "durability": ("RUNLEASE_DURABILITY", _lower),
    "history_url": ("RUNLEASE_HISTORY_URL", _text),
    "archive_bytes": ("RUNLEASE_ARCHIVE_BYTES", _count),
    "archive_after_s": ("RUNLEASE_ARCHIVE_AFTER", _seconds),
    "retention_days": ("RUNLEASE_RETENTION", _days),
    "read_bytes": ("RUNLEASE_READ_BYTES", _count),
    "log_level": ("RUNLEASE_LOG_LEVEL", _lower),
    "log_format": ("RUNLEASE_LOG_FORMAT", _lower),
}


def _check_listen(listen: str) -> None:
    if listen.startswith("unix:"):
        _check_socket_path(listen.removeprefix("unix:").removeprefix("//"), f"--listen {listen}")
        return
    host, colon, port = listen.rpartition(":")
    if not colon or not host:
        raise StartupError(f"--listen {listen!r} is no HOST:PORT: give one, as in --listen 127.0.0.1:7373")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise StartupError(f"--listen {listen!r}: write an IPv6 address in brackets, as in --listen [::1]:7373")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise StartupError(f"--listen {listen!r}: the port {port!r} is no number from 0 to 65535")


def _check_socket_path(path: str, origin: str) -> None:
    if not path.startswith("/"):
        raise StartupError(f"{origin}: a socket needs an absolute path, as in unix:/run/runlease.sock")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise StartupError(
            f"{origin}: the socket path has {len(os.fsencode(path))} bytes, "
            f"the system takes {MAX_SOCKET_PATH_BYTES}: give a shorter one"
        )


def _check_store(store: str) -> None:
    if store == "embedded":
        return
    origin = f"--store {redact_url(store)}"
    try:
        several = StoreUrl.parse(store)
    except ValueError as error:
        raise StartupError(f"{origin}: {error}") from None
    plain = [several.node(*address) for address in several.servers] if several else [store]
    for one in plain:
        _check_server(one, origin)


def _check_server(store: str, origin: str) -> None:
    try:
        url = urlsplit(store)
        port = url.port  # parsed on access: a bad one raises here
    except ValueError:
        # Its text may quote the URL's credentials, so it is neither shown nor chained.
        raise StartupError(
            f"{origin}: the host or port cannot be read (quote special characters of a password, "
            f"as in %2F for a slash): {_STORE_REMEDY}"
        ) from None
    if url.fragment:
        raise StartupError(f"{origin}: a store has no part after '#'; in a password, write it as %23")
    if url.scheme == "unix":
        _check_socket_path(unquote(url.path), origin)
    elif url.scheme in ("redis", "rediss"):
        if not url.hostname:
            raise StartupError(f"{origin}: the host is missing: give {url.scheme}://HOST:PORT")
        if port == 0:
            raise StartupError(f"{origin}: no server listens on port 0: give {url.scheme}://HOST:PORT")
    else:
        raise StartupError(f"{origin} is no store that is known here: {_STORE_REMEDY}")
    _check_database(url, origin)


def _check_database(url: SplitResult, origin: str) -> None:
    named = dict(parse_qsl(url.query)).get("db") or ("" if url.scheme == "unix" else url.path.strip("/"))
    if named and not (named.isascii() and named.isdigit()):
        # Behind a `/` in a password that was not quoted, the path is the rest of the password.
        shown = "" if "@" in named else f" {named!r}"
        raise StartupError(f"{origin}: the database{shown} is no number: leave it out, or end in /0")
