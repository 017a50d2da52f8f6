"""Lists of runs, over one project or all, narrowed in the store: only what matches travels."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from runlease_coordinator.domain.runs import Run, RunState
from runlease_coordinator.store.keys import PARTITIONS, partition_keys, partition_of, run_keys
from runlease_coordinator.store.records import checkpoint_of, fields_of, run_of
from runlease_coordinator.store.store import Store

#: Runs that one script looks at: a few milliseconds of the store at most.
_CHUNK = 500
#: Runs that one call looks at: a page ends early, even without a run, lest it outlasts the call's deadline.
_LOOK_AT_MOST = 40 * _CHUNK
#: A page also ends early once its records have so many bytes: configs may have a megabyte each.
_PAGE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class ListPosition:
    """Where a listing goes on: behind this update time, and of those of one time behind this project and run."""

    project: str = ""
    updated: str = "+inf"
    canonical_id: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which runs to list; what is empty does not matter. ``text`` occurs in ID or name."""

    states: frozenset[RunState] = frozenset()
    tags: frozenset[str] = frozenset()
    text: str = ""
    host: str = ""

    def json(self) -> str:
        """Return what the script takes."""
        given = {
            "states": {state.value: True for state in self.states},
            "tags": sorted(self.tags),
            "text": self.text,
            "host": self.host,
        }
        return json.dumps({name: value for name, value in given.items() if value}, ensure_ascii=False)

    @property
    def everything(self) -> bool:
        """Whether nothing narrows the list."""
        return self == Wanted()


class _Row(NamedTuple):
    project: str
    canonical_id: str
    updated: str

    @property
    def order(self) -> tuple[float, str]:
        """Newest first; of one time by project. Within a project the store has ordered them."""
        return -float(self.updated), self.project


class RunListing:
    """Reads lists of runs, most recently updated first."""

    def __init__(self, store: Store) -> None:
        """Take the store."""
        self._store = store

    async def page(
        self, project: str, wanted: Wanted, size: int, after: ListPosition
    ) -> tuple[list[Run], ListPosition | None]:
        """Return up to ``size`` runs behind a position, and where the list goes on (None: nowhere).

        Args:
            project: '' for all.
            wanted: which runs.
            size: a page may have fewer, where its records are large or what is wanted is rare.
            after: the position that the page before returned.

        Raises:
            Unavailable: the store is away.
        """
        projects = [project] if project else await self._projects()
        found: list[Run] = []
        room, rest = _PAGE_BYTES, _LOOK_AT_MOST
        while True:
            left = size - len(found)
            chunk = min(_CHUNK, left + 1) if wanted.everything else _CHUNK
            rows = await self._rows(projects, wanted, chunk, after)
            runs, looked, used = await self._read(rows, wanted, left, room)
            found += runs
            room, rest = room - used, rest - looked
            if looked == len(rows) < chunk:
                return found, None
            if looked:
                last = rows[looked - 1]
                after = ListPosition(last.project, last.updated, last.canonical_id)
            if len(found) == size or room <= 0 or rest <= 0:
                return found, after

    async def _projects(self) -> list[str]:
        async def of(number: int) -> list[bytes]:
            partition = partition_keys(number)
            keys = (partition.meta, partition.projects)
            _, (names,) = await self._store.run("list_projects", keys, on=self._store.reads)
            return list(names)

        found = await asyncio.gather(*map(of, range(PARTITIONS)))
        return sorted(name.decode() for names in found for name in names)

    async def _rows(self, projects: Sequence[str], wanted: Wanted, chunk: int, after: ListPosition) -> list[_Row]:
        """Return the next ``chunk`` runs of all projects, whether wanted or not."""
        name = "live_runs" if wanted.states == {RunState.RUNNING} else "list_runs"

        async def of(project: str) -> list[_Row]:
            partition = partition_keys(partition_of(project))
            # Of the runs of that very moment, those of projects before the position's were listed.
            passed = "(" if project < after.project and after.updated != "+inf" else ""
            behind = after.canonical_id if project == after.project else ""
            keys = (partition.meta, partition.runs(project), partition.live)[: 3 if name == "live_runs" else 2]
            args = (passed + after.updated, behind, chunk, project)[: 4 if name == "live_runs" else 3]
            _, (flat,) = await self._store.run(name, keys, args, on=self._store.reads)
            return [_Row(project, flat[i].decode(), flat[i + 1].decode()) for i in range(0, len(flat), 2)]

        parts = await asyncio.gather(*map(of, projects))
        return sorted((row for part in parts for row in part), key=lambda row: row.order)[:chunk]

    async def _read(self, rows: Sequence[_Row], wanted: Wanted, at_most: int, room: int) -> tuple[list[Run], int, int]:
        """Return the first ``at_most`` wanted runs, how many rows that took, and how many bytes."""
        places = sorted(range(len(rows)), key=lambda place: rows[place].project)
        groups = [list(group) for _, group in groupby(places, key=lambda place: rows[place].project)]
        parts = await asyncio.gather(*(self._matching(rows, group, wanted, at_most, room) for group in groups))
        looked = min((end for _, end in parts), default=0)
        matches = sorted(match for part, _ in parts for match in part if match[0] < looked)
        if len(matches) > at_most:
            looked = matches[at_most][0]
            matches = matches[:at_most]
        return [match[2] for match in matches], looked, sum(match[1] for match in matches)

    async def _matching(
        self, rows: Sequence[_Row], places: Sequence[int], wanted: Wanted, at_most: int, room: int
    ) -> tuple[list[tuple[int, int, Run]], int]:
        """Return the wanted runs of one project: place, bytes, run; and the first place not looked at."""
        project = rows[places[0]].project
        partition = partition_keys(partition_of(project))
        of_runs = [run_keys(project, rows[place].canonical_id) for place in places]
        keys = [key for one in of_runs for key in (one.run, one.ckpt, one.ckptdoc)]
        _, (looked, flat) = await self._store.run(
            "read_runs", (partition.meta, *keys), (wanted.json(), at_most, room), on=self._store.reads
        )
        now_us = self._store.clock_of(project).seen_us
        matches = []
        for index, record, document in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
            run = run_of(
                project, of_runs[index].canonical_id, fields_of(record), now_us, checkpoint=checkpoint_of(document)
            )
            matches.append((places[index], sum(map(len, record)), run))
        return matches, places[looked] if looked < len(places) else len(rows)
