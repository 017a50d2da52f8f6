"""Records what a client process asks, is answered and believes: a line of JSON each, which a SIGKILL cannot take back.

`install` changes the SDK of this process at four seams: unary calls, append streams, the deadline of a lease, and the
end of a belief. Times are readings of the suspend-aware clock, which all processes of a machine share. What begins is
written before it is done, what ends is dated before it does: so nothing is recorded as longer than it was.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from pathlib import Path
from typing import Any

import runlease.exceptions
from runlease.appendstream import AppendStream, StreamEnd
from runlease.channel import Caller
from runlease.clock import suspend_aware
from runlease.lease import Lease
from runlease.leasestate import LeaseMachine
from runlease.v1 import leases_pb2, metrics_pb2

#: Answers that leave open whether the call took effect.
_UNKNOWN = (runlease.exceptions.CoordinatorUnavailable, runlease.exceptions.RunleaseError)


class Recorder:
    """One process's file; each record is one `write` to a file opened for appending."""

    def __init__(self, path: Path) -> None:
        """Create the file."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._numbers = itertools.count(1)

    def write(self, event: str, /, t: float | None = None, **facts: Any) -> None:
        """Add a record, dated now unless ``t`` (seconds) is given."""
        line = {"t": suspend_aware() if t is None else t, "pid": os.getpid(), "e": event, **facts}
        os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def number(self) -> int:
        """Return a number that no other call or stream of this process has."""
        return next(self._numbers)


def install(recorder: Recorder) -> None:
    """Record everything that the SDK does in this process from now on."""
    _record_calls(recorder)
    _record_streams(recorder)
    _record_beliefs(recorder)


def _record_calls(recorder: Recorder) -> None:
    real = Caller.once

    def once(self: Caller, method: Any, request: Any, timeout_s: float = 5.0) -> Any:
        asked = _question(request)
        if asked is None:
            return real(self, method, request, timeout_s)
        number = recorder.number()
        recorder.write("call", i=number, **asked)
        try:
            response = real(self, method, request, timeout_s)
        except runlease.exceptions.RunleaseError as error:
            recorder.write("answer", i=number, **_refusal(error))
            raise
        recorder.write("answer", i=number, s="ok", **_answer(response))
        return response

    Caller.once = once  # type: ignore[method-assign,assignment]  # recording replaces methods


def _question(request: Any) -> dict[str, Any] | None:
    run = f"{request.run.project}/{request.run.id}" if hasattr(request, "run") else ""
    match request:
        case leases_pb2.AcquireRequest():
            facts = {"nonce": request.nonce, "member": request.member, "sync": request.sync, "wait": request.wait_ms}
            facts["last"] = request.last_call
            return {"m": "acquire", "run": run, "proof": request.proof_of_death.fence, **facts}
        case leases_pb2.RenewRequest():
            return {"m": "renew", "run": run, "fence": request.fence, "held": request.held_by_own_clock}
        case leases_pb2.ReleaseRequest():
            return {"m": "release", "run": run, "fence": request.fence, "outcome": request.outcome}
        case leases_pb2.BreakRequest():
            return {"m": "break", "run": run, "fence": request.fence, "force": request.force}
    return None


def _answer(response: Any) -> dict[str, Any]:
    match response:
        case leases_pb2.AcquireResponse():
            grant = response.grant
            facts = {"fence": grant.fence, "attempt": grant.attempt, "member": bool(grant.rank_ticket)}
            return {**facts, "remaining": grant.remaining_ms / 1000, "start": grant.starting_step}
        case leases_pb2.RenewResponse():
            facts = {"remaining": response.remaining_ms / 1000, "reinstated": response.reinstated}
            return {**facts, "fence": response.fence}
        case leases_pb2.BreakResponse():
            return {"fence": response.fence}
    return {}


def _refusal(error: runlease.exceptions.RunleaseError) -> dict[str, Any]:
    said = "unknown" if type(error) in _UNKNOWN else "refused"
    facts = {name: getattr(error, name) for name in ("fence", "current_fence", "place") if getattr(error, name, 0)}
    reason = getattr(error, "reason", "")
    return {"s": said, "kind": type(error).__name__, "why": reason, "left": getattr(error, "retry_after_s", 0), **facts}


def _record_streams(recorder: Recorder) -> None:
    real_init, real_send = AppendStream.__init__, AppendStream.send

    def init(self: Any, stub: Any, opening: Any, metadata: Any, deliver: Any, **more: Any) -> None:
        number = self.number = recorder.number()
        run = f"{opening.run.project}/{opening.run.id}"
        facts = {"fence": opening.fence, "writer": opening.writer, "session": opening.session}
        recorder.write("open", i=number, run=run, attempt=opening.attempt, **facts)

        def delivered(stream: AppendStream, reply: Any) -> None:
            if not isinstance(reply, StreamEnd):
                kind = reply.WhichOneof("message")
                if kind in ("opened", "ack"):
                    recorder.write(kind, i=number, seq=getattr(reply, kind).seq)
            deliver(stream, reply)

        real_init(self, stub, opening, metadata, delivered, **more)

    def send(self: Any, request: metrics_pb2.AppendRequest) -> None:
        entry = request.entry
        points = sum(len(series.values) for series in entry.points.series)
        kind = entry.WhichOneof("payload") or ""
        recorder.write("send", i=self.number, seq=entry.seq, k=kind, points=points, barrier=entry.barrier)
        real_send(self, request)

    AppendStream.__init__ = init  # type: ignore[method-assign]  # the same
    AppendStream.send = send  # type: ignore[method-assign]  # the same


def _record_beliefs(recorder: Recorder) -> None:
    real_init = Lease.__init__

    def init(
        self: Lease, project: str, run_id: str, fence: int, machine: LeaseMachine, *more: Any, **named: Any
    ) -> None:
        machine.believes_in = (f"{project}/{run_id}", fence)  # type: ignore[attr-defined]  # a field that only the recorder has
        _believe(recorder, machine, machine.deadline)
        real_init(self, project, run_id, fence, machine, *more, **named)

    Lease.__init__ = init  # type: ignore[method-assign,assignment]  # as above
    LeaseMachine.deadline = property(  # type: ignore[assignment]  # as above
        lambda self: self.__dict__["deadline"],
        lambda self, until: (_believe(recorder, self, until), self.__dict__.__setitem__("deadline", until)),
    )
    for name in ("releasing", "lost"):
        setattr(LeaseMachine, name, _ending(recorder, getattr(LeaseMachine, name)))


def _believe(recorder: Recorder, machine: Any, until: float | None, t: float | None = None) -> None:
    if hasattr(machine, "believes_in"):
        run, fence = machine.believes_in
        recorder.write("belief", t, run=run, fence=fence, until=until)


def _ending(recorder: Recorder, real: Any) -> Any:
    def end(self: LeaseMachine, *more: Any) -> Any:
        t = suspend_aware()
        result = real(self, *more)
        _believe(recorder, self, None, t)
        return result

    return end


class Sampler:
    """Looks at a lease's state all the time, as a training would that asks before each step."""

    def __init__(self, recorder: Recorder, lease: Lease, every_s: float = 0.1) -> None:
        """Begin to look."""
        self._recorder, self._lease, self._every_s = recorder, lease, every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        run = f"{self._lease.project}/{self._lease.run_id}"
        while not self._ended.wait(self._every_s):
            t = suspend_aware()
            if self._lease.state == "held":
                self._recorder.write("held", t, to=suspend_aware(), run=run, fence=self._lease.fence)

    def close(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join()
