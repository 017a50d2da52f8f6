"""The merged history of all processes: calls with their results, streams, beliefs, and what the runner did."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Of a call without an answer, and of what goes on at the end.
NEVER = math.inf

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one process; ``ended`` is `NEVER` where nobody knows whether it took effect."""

    process: str
    method: str
    run: str
    began: float
    ended: float
    result: str
    """``ok``, ``refused`` or ``unknown``."""
    asked: Record
    answer: Record
    answered: float = NEVER
    """When the caller had an answer or gave up, whatever it was worth."""

    @property
    def fence(self) -> int:
        """The fence that was granted, else the one that was named."""
        return int(self.answer.get("fence", 0) if self.method == "acquire" else self.asked.get("fence", 0))

    @property
    def told(self) -> int:
        """The fence that a renewal was answered: of a lease that came back it is another one than was named."""
        return int(self.answer.get("fence", 0)) or self.fence

    def __str__(self) -> str:
        """Return it as a line of a history."""
        end = f"{self.ended:.3f}" if self.ended < NEVER else "?"
        facts = {**self.asked, **{f"-> {name}": value for name, value in self.answer.items()}}
        shown = ", ".join(f"{name}={value}" for name, value in facts.items() if value not in ("", 0, False))
        return f"{self.began:.3f} .. {end}  {self.process}: {self.method} {self.run} {self.result}: {shown}"


@dataclass(frozen=True, slots=True)
class Belief:
    """A time in which a process held a run by its own deadline."""

    process: str
    pid: int
    run: str
    fence: int
    began: float
    ended: float

    def __str__(self) -> str:
        """Return it as a line of a history."""
        return f"{self.began:.3f} .. {self.ended:.3f}  {self.process}: believes in {self.run}, fence {self.fence}"


@dataclass(slots=True)
class Entry:
    """An entry of a stream: when it was sent first, and acknowledged."""

    seq: int
    kind: str
    points: int
    barrier: bool
    sent: float
    acked: float = NEVER


@dataclass(slots=True)
class Stream:
    """All that one session sent for one writer under one fence, over all its connections."""

    process: str
    run: str
    fence: int
    writer: str
    session: str
    entries: dict[int, Entry] = field(default_factory=dict)

    def acknowledge(self, seq: int, t: float) -> None:
        """Take the word that all up to ``seq`` is in the log."""
        for number, entry in self.entries.items():
            if number <= seq:
                entry.acked = min(entry.acked, t)


@dataclass(slots=True)
class History:
    """What happened, as far as clients and the runner saw it."""

    calls: list[Call] = field(default_factory=list)
    beliefs: list[Belief] = field(default_factory=list)
    deadlines: list[tuple[str, Record]] = field(default_factory=list)
    """(process, record) of each deadline that a process set."""
    held: list[tuple[str, Record]] = field(default_factory=list)
    """(process, record) of each look at a lease that was HELD."""
    streams: list[Stream] = field(default_factory=list)
    lives: dict[str, list[Record]] = field(default_factory=dict)
    """What each process wrote of its training, in order."""
    runner: list[Record] = field(default_factory=list)
    """What the runner did: faults, kills, limits, recoveries."""

    @property
    def runs(self) -> list[str]:
        """All runs that a call was about."""
        return sorted({call.run for call in self.calls})

    def of_runner(self, event: str) -> Iterator[Record]:
        """Yield the runner's records of a kind."""
        return (record for record in self.runner if record["e"] == event)


def load(folder: Path) -> History:
    """Read the files of all processes; the runner's is ``runner.jsonl``."""
    parts = {path.stem: list(_lines(path)) for path in sorted(folder.glob("*.jsonl"))}
    runner = parts.pop("runner", [])
    ends = {record["process"]: float(record["t"]) for record in runner if record["e"] == "killed"}
    history = History(runner=runner)
    for process, records in parts.items():
        _add(history, process, records, ends.get(process, NEVER))
    return history


def _lines(path: Path) -> Iterator[Record]:
    for line in path.read_bytes().split(b"\n"):
        try:
            yield json.loads(line)
        except ValueError:  # the last one of a process that was killed
            continue


_TRAINING = ("life", "log", "commit", "told", "durable", "end")


def _add(history: History, process: str, records: Iterable[Record], killed: float) -> None:
    calls: dict[int, Record] = {}
    streams: dict[int, Stream] = {}
    by_session: dict[tuple[str, int, str], Stream] = {}
    beliefs: dict[tuple[int, str, int], list[Record]] = defaultdict(list)
    end = killed
    for record in records:
        match record["e"]:
            case "call":
                calls[record["i"]] = record
            case "answer":
                history.calls.append(_call(process, calls.pop(record["i"]), record))
            case "open":
                name = (record["run"], int(record["fence"]), record["session"])
                if name not in by_session:
                    by_session[name] = Stream(process, record["run"], name[1], record["writer"], record["session"])
                    history.streams.append(by_session[name])
                streams[record["i"]] = by_session[name]
            case "send":
                facts = (record["seq"], record["k"], record["points"], record["barrier"], record["t"])
                streams[record["i"]].entries.setdefault(record["seq"], Entry(*facts))
            case "ack" | "opened":
                streams[record["i"]].acknowledge(record["seq"], record["t"])
            case "belief":
                beliefs[record["pid"], record["run"], record["fence"]].append(record)
                history.deadlines.append((process, record))
            case "held":
                history.held.append((process, record))
            case "exit":
                end = min(end, record["t"])
        if record["e"] in _TRAINING:
            history.lives.setdefault(process, []).append(record)
    history.calls += [_call(process, asked, None) for asked in calls.values()]
    for (pid, run, fence), changes in beliefs.items():
        history.beliefs += [
            Belief(process, pid, run, fence, began, min(ended, end))
            for began, ended in _intervals(changes)
            if began < min(ended, end)
        ]


_ASKED, _ANSWERED = ("t", "pid", "e", "i", "m", "run"), ("t", "pid", "e", "i", "s")


def _call(process: str, asked: Record, answer: Record | None) -> Call:
    said = str(answer["s"]) if answer else "unknown"
    ended = float(answer["t"]) if answer and said != "unknown" else NEVER
    return Call(
        process,
        asked["m"],
        asked["run"],
        asked["t"],
        ended,
        said,
        {name: value for name, value in asked.items() if name not in _ASKED},
        {name: value for name, value in (answer or {}).items() if name not in _ANSWERED},
        float(answer["t"]) if answer else NEVER,
    )


def _intervals(changes: list[Record]) -> Iterator[tuple[float, float]]:
    """Yield the times in which the deadline had not passed; each change replaces the deadline before it."""
    ends = [change["t"] for change in changes[1:]] + [NEVER]
    for change, replaced in zip(changes, ends, strict=True):
        if change["until"] is None:
            return  # LOST and RELEASED are terminal
        yield change["t"], min(change["until"], replaced)
