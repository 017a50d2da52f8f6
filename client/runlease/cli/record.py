"""One run's record as text: what `runlease show` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from runlease.cli.output import cell, duration, json_cell, moment, printable
from runlease.records import Attempt, Checkpoint, RunRecord
from runlease.terminal import coloured, table

_COLOURS = {"running": "green", "failed": "red", "crashed": "red", "preempted": "yellow", "killed": "yellow"}
#: Checkpoints to show; a long training has hundreds.
_SHOWN_CHECKPOINTS = 10


def state_style(state: str) -> str:
    """Return a state with its colour."""
    return click.style(state, fg=_COLOURS.get(state))


def record_lines(run: RunRecord) -> Iterator[str]:
    """Yield the lines that show a record."""
    facts = dict(_facts(run))
    widest = max(map(len, facts))
    yield f"{printable(run.path)}  ({cell(run.name)})"
    for name, text in facts.items():
        yield f"{name:<{widest}}  {text}"
    yield from _values("config", run.config)
    yield from _values("summary", run.summary)
    if run.notes:
        yield from ("", "notes", *(f"  {printable(line)}" for line in run.notes.splitlines()))
    yield from _checkpoints(run.checkpoints)
    yield from _attempts(run)


def _facts(run: RunRecord) -> Iterator[tuple[str, str]]:
    now = run.store_time_s
    yield "state", state_style(run.state) if coloured() else run.state
    if run.state == "running":
        yield "holder", cell(str(run.holder))
        revoked = " (revoked: not renewed any more)" if run.revoked else ""
        yield "lease", f"{duration(run.remaining_s)} left of {run.ttl_s:g}s, fence {run.fence}{revoked}"
    else:
        yield "last holder", cell(str(run.holder))
        yield "lease", f"{_freedom(run)}, last fence {run.fence}"
    if run.parent is not None:
        parent = run.parent
        upto = f"up to step {parent.step}, as it stood in its attempt {parent.attempt}"
        yield "continues", f"{run.project}/{parent.id} {upto}"
    highest = f" (highest logged: {run.last_step})" if run.last_step >= 0 else ""
    yield "next step", f"{run.next_step}{highest}"
    logged = "" if run.last_log_s is None else f", the last ones {duration(now - run.last_log_s)} ago"
    yield "points", f"{run.points}{logged}"
    if run.checkpoint is not None:
        yield "checkpoint", f"step {run.checkpoint.step}  {printable(run.checkpoint.uri)}"
    yield "created", f"{moment(run.created_s)} ({duration(now - run.created_s)} ago)"
    yield "runtime", f"{duration(run.runtime_s)} in {run.attempt} attempt{'' if run.attempt == 1 else 's'}"
    if run.tags:
        yield "tags", printable(", ".join(run.tags))


def _freedom(run: RunRecord) -> str:
    if run.state == "deleted":
        return "none, the ID stays taken"
    return f"free in {duration(run.lock_delay_s)} (lock-delay)" if run.lock_delay_s else "free"


def _values(title: str, values: Mapping[str, Any]) -> Iterator[str]:
    if values:
        names = {cell(key): json_cell(value) for key, value in values.items()}
        widest = max(map(len, names))
        yield from ("", title, *(f"  {name:<{widest}}  {text}" for name, text in names.items()))


def _checkpoints(checkpoints: tuple[Checkpoint, ...]) -> Iterator[str]:
    if not checkpoints:
        return
    yield from ("", "checkpoints")
    shown = checkpoints[-_SHOWN_CHECKPOINTS:]
    if len(shown) < len(checkpoints):
        yield f"({len(checkpoints) - len(shown)} before these; -o json shows all)"
    rows = [
        [
            str(one.step),
            str(one.attempt),
            moment(one.committed_s),
            "yes" if one.superseded else "",
            printable(one.uri),
        ]
        for one in shown
    ]
    yield from table(("step", "attempt", "committed", "superseded", "uri"), rows)


def _attempts(run: RunRecord) -> Iterator[str]:
    header = [
        "attempt",
        "fence",
        "holder",
        "from",
        "last",
        "points",
        "outcome",
        "started",
        "took",
        "config changes",
    ]
    rows = [_attempt_row(attempt, run.store_time_s) for attempt in run.attempts]
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    yield from ("", "attempts")
    yield from table(header, rows, {"outcome": state_style} if coloured() else {})


def _attempt_row(attempt: Attempt, now_s: float) -> list[str]:
    took = (now_s if attempt.ended_s is None else attempt.ended_s) - attempt.granted_s
    changes = (f"{change.key}: {_before(change.before)}{json_cell(change.after)}" for change in attempt.config_changes)
    return [
        str(attempt.attempt),
        str(attempt.fence),
        cell(f"{attempt.holder.host}:{attempt.holder.pid}"),
        str(attempt.starting_step),
        str(attempt.last_step) if attempt.last_step >= 0 else "-",
        str(attempt.points),
        attempt.outcome,
        moment(attempt.granted_s),
        duration(took),
        cell(", ".join(changes)),
    ]


def _before(value: Any) -> str:
    return "" if value is None else f"{json_cell(value)} -> "
