"""LeaseService: protobuf to domain and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc.aio
from runlease.v1 import leases_pb2 as pb
from runlease.v1 import leases_pb2_grpc

from runlease_coordinator.domain.errors import InvalidField, Stale
from runlease_coordinator.domain.leases import (
    Acquisition,
    Claim,
    Fork,
    Grant,
    Patience,
    ProofOfDeath,
    ResumeMode,
    checked_ttl_us,
)
from runlease_coordinator.domain.runs import OUTCOMES
from runlease_coordinator.domain.tickets import Tickets
from runlease_coordinator.rpc import fields
from runlease_coordinator.rpc.messages import (
    STATES,
    STATES_BY_NUMBER,
    change_messages,
    checkpoint_message,
    holder_of,
    run_message,
)
from runlease_coordinator.store.events import EventStore
from runlease_coordinator.store.leases import LeaseStore

_Context = grpc.aio.ServicerContext[Any, Any]
_MODES = {0: ResumeMode.NEVER} | {pb.ResumeMode.Value(f"RESUME_MODE_{mode.name}"): mode for mode in ResumeMode}


class LeaseService(leases_pb2_grpc.LeaseServiceServicer):
    """Translates; the store decides."""

    def __init__(self, leases: LeaseStore, events: EventStore, tickets: Tickets, max_ttl_us: int) -> None:
        """Take the operations, the members' tickets and the longest ttl to grant, in microseconds."""
        self._leases = leases
        self._events = events
        self._tickets = tickets
        self._max_ttl_us = max_ttl_us

    async def Acquire(self, request: pb.AcquireRequest, context: _Context) -> pb.AcquireResponse:
        """Grant the lease, or say why not."""
        wish = _acquisition(request, self._max_ttl_us)
        patience = Patience(fields.wait_us(request.wait_ms), request.last_call)
        cursor = str(self._events.now(wish.project))
        grant = await self._leases.acquire(wish, patience)
        ticket = self._tickets.issue(wish.project, grant.run.canonical_id, grant.fence) if grant.member else ""
        return pb.AcquireResponse(grant=_grant_message(grant, ticket, cursor))

    async def Renew(self, request: pb.RenewRequest, context: _Context) -> pb.RenewResponse:
        """Extend the lease."""
        name = fields.run_name(request.run)
        claim = _claim(request, name, self._max_ttl_us) if request.held_by_own_clock else None
        renewal = await self._leases.renew(name.project, name.canonical_id, fields.fence(request.fence), claim)
        return pb.RenewResponse(
            remaining_ms=renewal.remaining_us // 1000,
            reinstated=renewal.reinstated,
            incarnation=renewal.incarnation,
            fence=renewal.fence,
        )

    async def Release(self, request: pb.ReleaseRequest, context: _Context) -> pb.ReleaseResponse:
        """End the attempt."""
        name = fields.run_name(request.run)
        outcome = STATES_BY_NUMBER.get(request.outcome)
        if outcome not in OUTCOMES:
            raise InvalidField("outcome", f"FINISHED, FAILED, CRASHED, PREEMPTED or KILLED, not {request.outcome}")
        fence = fields.fence(request.fence)
        if request.undelivered and await self._leases.give_back(name.project, name.canonical_id, fence):
            return pb.ReleaseResponse(outcome=request.outcome)
        try:
            recorded = await self._leases.release(name.project, name.canonical_id, fence, outcome)
        except Stale:
            if request.undelivered:  # a repetition: nothing is left of it
                return pb.ReleaseResponse(outcome=request.outcome)
            raise
        return pb.ReleaseResponse(outcome=STATES[recorded])

    async def Break(self, request: pb.BreakRequest, context: _Context) -> pb.BreakResponse:
        """Revoke a lease, or end it by force."""
        name = fields.run_name(request.run)
        reason = fields.line(request.reason, "reason", 1024)
        if not reason.strip():
            raise InvalidField("reason", "required: it is recorded, and shown to the holder")
        fence = fields.fence(request.fence)
        by = context.peer()
        broken = await self._leases.break_lease(
            name.project, name.canonical_id, fence, force=request.force, reason=reason, by=by
        )
        return pb.BreakResponse(fence=broken)


def _acquisition(request: pb.AcquireRequest, max_ttl_us: int) -> Acquisition:
    name = fields.run_name(request.run)
    mode = _MODES.get(request.mode)
    if mode is None:
        raise InvalidField("mode", f"NEVER, ALLOW, MUST or AUTO, not {request.mode}")
    if request.sync:
        return _sync(request, name, max_ttl_us)
    given = [name for name in ("resume_step", "resume_from", "fork_from") if request.HasField(name)]
    if len(given) > 1:
        raise InvalidField(given[1], f"goes without {given[0]}")
    resume_step, fork = None, None
    auto_keys = fields.auto_keys(request.auto_keys)
    if request.HasField("resume_step"):
        resume_step = fields.step(request.resume_step, "resume_step")
    elif request.HasField("resume_from"):
        if fields.history_point(request.resume_from, name.project, "resume_from").canonical_id != name.canonical_id:
            raise InvalidField("resume_from.id", "names the run itself, run.id")
        resume_step = request.resume_from.step + 1
    elif request.HasField("fork_from"):
        parent = fields.history_point(request.fork_from, name.project, "fork_from")
        if parent.canonical_id == name.canonical_id:
            raise InvalidField("fork_from.id", "a run cannot be forked from itself: give the new run another ID")
        fork = Fork(parent.canonical_id, request.fork_from.step)
    return Acquisition(
        project=name.project,
        id=name.id,
        canonical_id=name.canonical_id,
        mode=mode,
        nonce=fields.token(request.nonce, "nonce"),
        ttl_us=checked_ttl_us(request.ttl_ms, max_ttl_us),
        holder=holder_of(request.holder, "holder"),
        resume_step=resume_step,
        rewinds=request.HasField("resume_from"),
        fork=fork,
        member=request.member,
        holds=request.holds,
        proof=_proof(request.proof_of_death) if request.HasField("proof_of_death") else None,
        auto_keys=auto_keys,
        auto_search=request.auto_search and bool(auto_keys),
        name=fields.line(request.name, "name") or None,
        notes=fields.notes(request.notes) if request.HasField("notes") else None,
        tags=fields.tags(request.tags.tags) if request.HasField("tags") else None,
        config=fields.json_map(request.config, "config"),
    )


def _claim(request: pb.RenewRequest, name: fields.RunName, max_ttl_us: int) -> Claim:
    if not request.HasField("granted"):
        return Claim(request.incarnation)
    granted = request.granted
    wish = replace(
        _acquisition(granted.wish, max_ttl_us), project=name.project, id=name.id, canonical_id=name.canonical_id
    )
    if wish.sync:
        raise InvalidField("granted.wish.sync", "a sync opens no attempt: there is nothing to bring back")
    if granted.attempt < 1:
        raise InvalidField("granted.attempt", "1 or more")
    return Claim(
        request.incarnation,
        wish,
        granted.attempt,
        fields.step(granted.next_step, "granted.next_step"),
        fields.step(granted.starting_step, "granted.starting_step"),
    )


def _sync(request: pb.AcquireRequest, name: fields.RunName, max_ttl_us: int) -> Acquisition:
    """Leave out all that only an attempt has."""
    return Acquisition(
        project=name.project,
        id=name.id,
        canonical_id=name.canonical_id,
        mode=ResumeMode.MUST,
        nonce=fields.token(request.nonce, "nonce"),
        ttl_us=checked_ttl_us(request.ttl_ms, max_ttl_us),
        holder=holder_of(request.holder, "holder"),
        proof=_proof(request.proof_of_death) if request.HasField("proof_of_death") else None,
        sync=True,
    )


def _proof(message: pb.ProofOfDeath) -> ProofOfDeath:
    return ProofOfDeath(
        fence=fields.fence(message.fence, "proof_of_death.fence"),
        boot_id=fields.line(message.boot_id, "proof_of_death.boot_id"),
        pid_namespace=fields.line(message.pid_namespace, "proof_of_death.pid_namespace"),
        pid=message.pid,
        process_started=message.process_started,
    )


def _grant_message(grant: Grant, ticket: str, cursor: str) -> pb.Grant:
    return pb.Grant(
        fence=grant.fence,
        attempt=grant.attempt,
        ttl_ms=grant.ttl_us // 1000,
        remaining_ms=grant.remaining_us // 1000,
        resumed=grant.resumed,
        previous_state=STATES[grant.previous_state] if grant.previous_state else None,
        next_step=grant.next_step,
        starting_step=grant.starting_step,
        checkpoint=checkpoint_message(grant.checkpoint),
        run=run_message(grant.run),
        config_changes=change_messages(grant.config_changes),
        rank_ticket=ticket,
        cursor=cursor,
        incarnation=grant.incarnation,
    )
