"""RunService: protobuf to domain and back."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
from runlease.v1 import runs_pb2 as pb
from runlease.v1 import runs_pb2_grpc

from runlease_coordinator.domain.errors import InvalidField, Unavailable
from runlease_coordinator.domain.events import Cursor
from runlease_coordinator.domain.runs import Run
from runlease_coordinator.rpc import fields
from runlease_coordinator.rpc.messages import MAX_HOLDER_BYTES, STATES_BY_NUMBER, event_message, run_message
from runlease_coordinator.store.events import EventStore
from runlease_coordinator.store.runs import ListPosition, RunStore

_Context = grpc.aio.ServicerContext[Any, Any]
_DEFAULT_PAGE = 100
_MAX_PAGE = 1000


class RunService(runs_pb2_grpc.RunServiceServicer):
    """Translates; the store reads and writes."""

    def __init__(self, runs: RunStore, events: EventStore) -> None:
        """Take the operations of runs and the audit log."""
        self._runs = runs
        self._events = events
        self._draining = False

    def drain(self) -> None:
        """End the streams of events when they wake next; their readers go on elsewhere, or later."""
        self._draining = True

    async def _read(self, name: fields.RunName) -> Run:
        return (await self._runs.get_run(*name)).run

    async def GetRun(self, request: pb.GetRunRequest, context: _Context) -> pb.GetRunResponse:
        """Read one run in full."""
        return pb.GetRunResponse(run=run_message(await self._read(fields.run_name(request.run))))

    async def ListRuns(self, request: pb.ListRunsRequest, context: _Context) -> pb.ListRunsResponse:
        """List runs, a page at a time."""
        project = fields.project_name(request.project, "project") if request.project else ""
        unknown = [number for number in request.states if number not in STATES_BY_NUMBER]
        if unknown:
            raise InvalidField("states", f"unknown state {unknown[0]}")
        if request.page_size > _MAX_PAGE:
            raise InvalidField("page_size", f"at most {_MAX_PAGE}, not {request.page_size}")
        runs, position = await self._runs.list_runs(
            project,
            frozenset(STATES_BY_NUMBER[number] for number in request.states),
            frozenset(fields.tags(request.tags, "tags")),
            request.page_size or _DEFAULT_PAGE,
            _position(request.page_token),
            text=fields.line(request.text, "text"),
            host=fields.short_line(request.host, "host", MAX_HOLDER_BYTES),
        )
        token = _page_token(position) if position else ""
        return pb.ListRunsResponse(runs=[run_message(run) for run in runs], next_page_token=token)

    async def UpdateRun(self, request: pb.UpdateRunRequest, context: _Context) -> pb.UpdateRunResponse:
        """Change what people say about a run."""
        name = fields.run_name(request.run)
        await self._read(name)  # refuses another spelling of the ID
        await self._runs.update_run(
            name.project,
            name.canonical_id,
            fields.fence(request.fence) if request.fence else 0,
            name=fields.line(request.name, "name") if request.HasField("name") else None,
            notes=fields.notes(request.notes) if request.HasField("notes") else None,
            tags=fields.tags(request.tags.tags) if request.HasField("tags") else None,
            config=fields.json_map(request.config, "config"),
            summary=fields.json_map(request.summary, "summary"),
        )
        return pb.UpdateRunResponse(run=run_message(await self._read(name)))

    async def DeleteRun(self, request: pb.DeleteRunRequest, context: _Context) -> pb.DeleteRunResponse:
        """Delete a run, or purge a deleted one, as the caller saw it."""
        name = fields.run_name(request.run)
        await self._read(name)  # refuses another spelling of the ID
        reason = fields.line(request.reason, "reason", 1024)
        remove = self._runs.purge_run if request.purge else self._runs.delete_run
        await remove(*name, fields.fence(request.fence), reason)
        return pb.DeleteRunResponse()

    async def UndeleteRun(self, request: pb.UndeleteRunRequest, context: _Context) -> pb.UndeleteRunResponse:
        """Take a deletion back."""
        name = fields.run_name(request.run)
        await self._read(name)  # refuses another spelling of the ID
        await self._runs.undelete_run(*name, fields.line(request.reason, "reason", 1024))
        return pb.UndeleteRunResponse(run=run_message(await self._read(name)))

    async def Link(self, request: pb.LinkRequest, context: _Context) -> pb.LinkResponse:
        """Let a run show another's history before its own."""
        name = fields.run_name(request.run)
        parent = fields.run_in(name.project, request.continues_id, "continues_id")
        for run in (name, parent):
            await self._read(run)  # refuses another spelling of the ID
        step = fields.step(request.step, "step") if request.HasField("step") else None
        await self._runs.link(*name, parent.canonical_id, step)
        return pb.LinkResponse(run=run_message(await self._read(name)))

    async def Watch(self, request: pb.WatchRequest, context: _Context) -> AsyncIterator[pb.WatchResponse]:
        """Follow the audit log."""
        project = fields.project_name(request.project, "project") if request.project else ""
        if request.id and not project:
            raise InvalidField("project", "required with an id")
        run = fields.run_in(project, request.id, "id") if request.id else None
        cursor = Cursor.parse(request.after) if request.after else await self._events.end(project)
        async for event in self._events.follow(project, cursor):
            if self._draining:
                raise Unavailable("DRAINING", "the coordinator is shutting down")
            concerns = event is not None and (not project or event.project == project)
            if event is not None and concerns and (run is None or event.canonical_id == run.canonical_id):
                yield pb.WatchResponse(event=event_message(event, str(cursor)), cursor=str(cursor))
            elif event is None:
                yield pb.WatchResponse(cursor=str(cursor))


def _page_token(position: ListPosition) -> str:
    text = json.dumps([position.project, position.updated, position.canonical_id])
    return base64.urlsafe_b64encode(text.encode()).decode()


def _position(token: str) -> ListPosition:
    if not token:
        return ListPosition()
    try:
        project, updated, canonical_id = json.loads(base64.urlsafe_b64decode(token.encode()))
        fields.project_name(project, "page_token")
        at = str(fields.step(int(updated), "page_token"))  # store time, below 2^53 like every number of the store
        return ListPosition(project, at, fields.line(canonical_id, "page_token"))
    except (binascii.Error, TypeError, ValueError, OverflowError, RecursionError, InvalidField):
        raise InvalidField("page_token", "give the `next_page_token` of the page before, unchanged") from None
