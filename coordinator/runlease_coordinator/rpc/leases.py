"""LeaseService: protobuf to domain and back."""

from __future__ import annotations

from typing import Any

import grpc.aio
from runlease.v1 import leases_pb2 as pb
from runlease.v1 import leases_pb2_grpc

from runlease_coordinator.domain.errors import InvalidField
from runlease_coordinator.domain.leases import Acquisition, Grant, ResumeMode, checked_ttl_us
from runlease_coordinator.domain.runs import OUTCOMES
from runlease_coordinator.rpc import fields
from runlease_coordinator.rpc.messages import (
    STATES,
    STATES_BY_NUMBER,
    change_messages,
    checkpoint_message,
    holder_of,
    run_message,
)
from runlease_coordinator.store.leases import LeaseStore

_Context = grpc.aio.ServicerContext[Any, Any]
_MODES = {0: ResumeMode.NEVER} | {pb.ResumeMode.Value(f"RESUME_MODE_{mode.name}"): mode for mode in ResumeMode}


class LeaseService(leases_pb2_grpc.LeaseServiceServicer):
    """Translates; the store decides."""

    def __init__(self, leases: LeaseStore, max_ttl_us: int) -> None:
        """Take the lease operations and the longest ttl to grant, in microseconds."""
        self._leases = leases
        self._max_ttl_us = max_ttl_us

    async def Acquire(self, request: pb.AcquireRequest, context: _Context) -> pb.AcquireResponse:
        """Grant the lease, or say why not."""
        grant = await self._leases.acquire(_acquisition(request, self._max_ttl_us))
        return pb.AcquireResponse(grant=_grant_message(grant))

    async def Renew(self, request: pb.RenewRequest, context: _Context) -> pb.RenewResponse:
        """Extend the lease."""
        name = fields.run_name(request.run)
        renewal = await self._leases.renew(name.project, name.canonical_id, fields.fence(request.fence))
        return pb.RenewResponse(remaining_ms=renewal.remaining_us // 1000, reinstated=renewal.reinstated)

    async def Release(self, request: pb.ReleaseRequest, context: _Context) -> pb.ReleaseResponse:
        """End the attempt."""
        name = fields.run_name(request.run)
        outcome = STATES_BY_NUMBER.get(request.outcome)
        if outcome not in OUTCOMES:
            raise InvalidField("outcome", f"FINISHED, FAILED, CRASHED, PREEMPTED or KILLED, not {request.outcome}")
        if request.undelivered:
            raise InvalidField("undelivered", "not supported by this version")
        recorded = await self._leases.release(name.project, name.canonical_id, fields.fence(request.fence), outcome)
        return pb.ReleaseResponse(outcome=STATES[recorded])


def _acquisition(request: pb.AcquireRequest, max_ttl_us: int) -> Acquisition:
    name = fields.run_name(request.run)
    mode = _MODES.get(request.mode)
    if mode is None:
        raise InvalidField("mode", f"NEVER, ALLOW, MUST or AUTO, not {request.mode}")
    for field in ("resume_from", "fork_from", "proof_of_death"):
        if request.HasField(field):
            raise InvalidField(field, "not supported by this version")
    if request.auto_keys or request.member:
        raise InvalidField("auto_keys" if request.auto_keys else "member", "not supported by this version")
    return Acquisition(
        project=name.project,
        id=name.id,
        canonical_id=name.canonical_id,
        mode=mode,
        nonce=fields.token(request.nonce, "nonce"),
        ttl_us=checked_ttl_us(request.ttl_ms, max_ttl_us),
        holder=holder_of(request.holder, "holder"),
        resume_step=fields.step(request.resume_step, "resume_step") if request.HasField("resume_step") else None,
        name=fields.line(request.name, "name") or None,
        notes=fields.notes(request.notes) if request.HasField("notes") else None,
        tags=fields.tags(request.tags.tags) if request.HasField("tags") else None,
        config=fields.json_map(request.config, "config"),
    )


def _grant_message(grant: Grant) -> pb.Grant:
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
    )
