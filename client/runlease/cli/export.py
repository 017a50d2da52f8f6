"""`runlease export`: histories as Parquet, CSV or JSON Lines."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import click

from runlease.cli.errors import CANNOT_START, Failure
from runlease.cli.options import connection_options, open_client, owner, selection_options
from runlease.cli.output import count, printable
from runlease.client import Client
from runlease.export import FORMATS, MISSING_PYARROW, TargetExists, new_file, open_rows, write_wide
from runlease.history import History
from runlease.ids import canonical_id

_SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
#: Points of one read, and of a Parquet file's row group: what an export holds in memory.
_PAGE_POINTS = 1_000_000
#: Seconds between two states of the progress line.
_PROGRESS_S = 0.2


@dataclass(frozen=True, slots=True)
class _Selection:
    """What of each run is exported, and how."""

    form: str
    wide: bool
    superseded: bool
    keys: tuple[str, ...]
    key_patterns: tuple[str, ...]
    writers: tuple[str, ...]
    min_step: int | None
    max_step: int | None


def _owners(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, str | None], ...]:
    return tuple(owner(ctx, param, value) for value in values)


@click.command(
    short_help="Write metrics to Parquet, CSV or JSON Lines.",
    epilog="""\b
Examples:
  runlease export speech/nbs1e6hk --to loss.csv --key loss
  runlease export speech/nbs1e6hk --to nbs1e6hk.parquet
  runlease export speech/nbs1e6hk --format jsonl | head
  runlease export speech --to exports/ --format parquet

\b
A row is a point: key, step, value, time (UNIX seconds), attempt, writer, and
with --superseded whether a later attempt replaced it. With --wide a row is a
step, with one column a key. Numbers keep all their digits. JSON knows no NaN
and no infinities: these values are the strings "NaN", "Infinity" and
"-Infinity". A file appears when it is whole; an interrupted export leaves
none. Parquet needs `pip install 'runlease[arrow]'`.
""",
)
@click.argument("owners", nargs=-1, required=True, callback=_owners, metavar="PROJECT[/RUN]...")
@click.option("--to", metavar="FILE|DIR|-", help="Where to; a directory gets one file a run.  [default: -, for stdout]")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="[default: by the file's ending; csv on stdout, parquet in a directory]",
)
@selection_options
@click.option(
    "--writer",
    "writers",
    multiple=True,
    metavar="WRITER",
    help="Whose points; can be given several times.  [default: main]",
)
@click.option("--superseded", is_flag=True, help="Also points that a later attempt replaced.")
@click.option("--wide", is_flag=True, help="One row a step, one column a key; holds a run in memory.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
@connection_options
def export(
    owners: tuple[tuple[str, str | None], ...],
    to: str | None,
    form: str | None,
    keys: tuple[str, ...],
    key_patterns: tuple[str, ...],
    min_step: int | None,
    max_step: int | None,
    writers: tuple[str, ...],
    superseded: bool,
    wide: bool,
    force: bool,
    coordinator: str | None,
    token: str | None,
) -> None:
    """Write the metrics of a run, of several, or of a whole project to files."""
    if wide and superseded:
        raise click.UsageError("--wide and --superseded exclude each other: a wide row has one value a key")
    single = len(owners) == 1 and owners[0][1] is not None
    to_stdout = to in (None, "-")
    into = None if to_stdout or to is None or (single and not Path(to).is_dir()) else Path(to)
    if to_stdout and not single:
        raise click.UsageError("several runs go to a directory: give --to DIR")
    form = form or _form_of(to, into is not None)
    what = _Selection(form, wide, superseded, keys, key_patterns, writers, min_step, max_step)
    try:
        with open_client(coordinator, token) as client:
            if to_stdout or to is None:
                _to_stdout(client, owners[0], what)
            else:
                _to_files(client, _files(client, owners, into, form, Path(to)), what, replace=force)
    except ImportError as error:
        raise Failure(f"{MISSING_PYARROW} ({error})", CANNOT_START) from error
    except TargetExists as error:
        raise Failure(str(error)) from error
    except BrokenPipeError:
        raise  # whoever reads stdout has gone
    except OSError as error:
        raise Failure(
            f"cannot write {to or 'to stdout'}: {error.strerror or error}; name a place that can be written"
        ) from error


def _form_of(to: str | None, is_directory: bool) -> str:
    if is_directory:
        return "parquet"
    if to in (None, "-"):
        return "csv"
    ending = Path(to or "").suffix.lower()
    if ending not in _SUFFIXES:
        raise click.UsageError(f"{to!r} does not end in .parquet, .csv or .jsonl: say what it is with --format")
    return _SUFFIXES[ending]


def _files(
    client: Client, owners: tuple[tuple[str, str | None], ...], into: Path | None, form: str, to: Path
) -> dict[Path, tuple[str, str]]:
    """Return the runs by their files, whose directories are made."""
    if into is None:
        ((project, id),) = owners
        return {to: (project, id or "")}
    several = len({project for project, _ in owners}) > 1
    found: dict[Path, tuple[str, str]] = {}
    for project, id in owners:
        ids = [canonical_id(id)] if id else [run.canonical_id for run in client.list_runs(project)]
        folder = into / project if several else into
        found |= {folder / f"{one}.{form}": (project, one) for one in ids}
    if not found:
        raise Failure(f"no runs in project {owners[0][0]}: see what there is with `runlease ls`")
    for folder in {path.parent for path in found}:
        folder.mkdir(parents=True, exist_ok=True)
    return found


def _to_stdout(client: Client, run: tuple[str, str | None], what: _Selection) -> None:
    if what.form == "parquet" and sys.stdout.isatty():
        raise click.UsageError("Parquet is not for a terminal: give --to FILE")
    stream = sys.stdout.buffer
    _write(client, run[0], run[1] or "", what, stream, _Progress("", silent=True))
    stream.flush()


def _to_files(client: Client, files: dict[Path, tuple[str, str]], what: _Selection, *, replace: bool) -> None:
    if not replace and (there := [path for path in files if path.exists()]):
        more = f" (and {len(there) - 1} more of these files)" if len(there) > 1 else ""
        raise TargetExists(f"{there[0]}{more} exists: name another place, or replace it with --force")
    for path, (project, id) in files.items():
        with _Progress(f"{project}/{id}") as progress, new_file(path, replace=replace) as stream:
            points = _write(client, project, id, what, stream, progress)
        click.echo(f"{printable(f'{project}/{id}')}: {count(points, 'point')} to {printable(str(path))}", err=True)


def _write(client: Client, project: str, id: str, what: _Selection, stream: BinaryIO, progress: _Progress) -> int:
    parts = progress.counted(_parts(client, project, id, what))
    if what.wide:
        return write_wide(what.form, stream, parts)
    with contextlib.closing(open_rows(what.form, stream, superseded=what.superseded)) as rows:
        for part in parts:
            rows.write(part)
    return progress.points


def _parts(client: Client, project: str, id: str, what: _Selection) -> Iterator[History]:
    return client.history_pages(
        project,
        id,
        what.keys,
        page_points=_PAGE_POINTS,
        key_patterns=what.key_patterns,
        min_step=what.min_step,
        max_step=what.max_step,
        superseded=what.superseded,
        writers=what.writers,
    )


class _Progress:
    """A line on the terminal that counts points; a context manager that removes it."""

    def __init__(self, name: str, *, silent: bool = False) -> None:
        self.points = 0
        self._name = printable(name)
        self._shown = not silent and sys.stderr.isatty()
        self._next = 0.0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown and self._next:
            with contextlib.suppress(OSError):
                click.echo("\r\x1b[K", nl=False, err=True)

    def counted(self, parts: Iterator[History]) -> Iterator[History]:
        """Pass parts on, and count their points."""
        for part in parts:
            self.points += len(part)
            yield part
            if self._shown and time.monotonic() >= self._next:
                self._next = time.monotonic() + _PROGRESS_S
                shown = f"{self.points:,}".replace(",", " ")
                click.echo(f"\r\x1b[K{self._name}: {shown} points", nl=False, err=True)
