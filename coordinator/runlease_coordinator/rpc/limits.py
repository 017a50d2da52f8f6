"""Checks the fields of rate limits, and translates them."""

from __future__ import annotations

from runlease.v1 import metrics_pb2 as pb

from runlease_coordinator.domain.errors import InvalidField
from runlease_coordinator.domain.limits import MAX_BURST_S, MAX_RATE, Limits, LimitsChange
from runlease_coordinator.rpc import fields

_OF_RUN = ("run_points", "run_bytes")
_RATES = (*_OF_RUN, "project_points", "project_bytes", "acquires")


def owner_of(project: str, run_id: str) -> fields.RunName:
    """Check whose limits are meant; returns project, ID and canonical ID, both '' for the project's."""
    project = fields.project_name(project, "project")
    return fields.run_in(project, run_id, "id") if run_id else fields.RunName(project, "", "")


def change_of(message: pb.Limits, *, of_run: bool) -> LimitsChange:
    """Check a change."""
    given = {name: getattr(message, name) for name in (*_RATES, "burst_s") if message.HasField(name)}
    if not given:
        raise InvalidField("limits", "name at least one limit to set")
    for name in _RATES:
        if name in given and given[name] > MAX_RATE:
            raise InvalidField(f"limits.{name}", f"0 (unlimited) to {MAX_RATE} a second, not {given[name]}")
        if of_run and name in given and name not in _OF_RUN:
            raise InvalidField(f"limits.{name}", "a run has none of its own: set it for the project, without an ID")
    if "burst_s" in given and not 0 <= given["burst_s"] <= MAX_BURST_S:  # NaN is not in it either
        raise InvalidField("limits.burst_s", f"0..{MAX_BURST_S:g} seconds, not {given['burst_s']}")
    return LimitsChange(**given)


def limits_message(limits: Limits) -> pb.Limits:
    """Return limits as the contract has them."""
    return pb.Limits(
        run_points=limits.run_points,
        run_bytes=limits.run_bytes,
        project_points=limits.project_points,
        project_bytes=limits.project_bytes,
        burst_s=limits.burst_s,
        acquires=limits.acquires,
    )
