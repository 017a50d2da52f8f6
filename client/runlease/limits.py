"""Rate limits, as the coordinator enforces them."""

from __future__ import annotations

from dataclasses import dataclass

from runlease.exceptions import InvalidArgument
from runlease.ids import canonical_id, check_project
from runlease.v1 import metrics_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits in force; rates are per second, 0 is unlimited, bytes are those of packed points."""

    run_points: int
    """Points of one run."""

    run_bytes: int
    """Bytes of one run."""

    project_points: int
    """Points of all runs of the project together."""

    project_bytes: int
    """Bytes of all runs of the project together."""

    burst_s: float
    """How far above a rate of points or bytes a burst may go, in seconds' worth."""

    acquires: int
    """Calls that acquire runs of the project."""


def limits_of(message: pb.Limits) -> Limits:
    """Read limits."""
    return Limits(
        run_points=message.run_points,
        run_bytes=message.run_bytes,
        project_points=message.project_points,
        project_bytes=message.project_bytes,
        burst_s=message.burst_s,
        acquires=message.acquires,
    )


def limits_change(**given: float | None) -> pb.Limits:
    """Return a change of limits; None leaves one as it is.

    Raises:
        InvalidArgument: one is no number of the kind that the contract has.
    """
    message = pb.Limits()
    for name, value in given.items():
        try:
            if value is not None:
                setattr(message, name, value)
        except (TypeError, ValueError):
            text = f"{name}={value!r}: give a number of 0 or more, 0 for unlimited"
            raise InvalidArgument(text, field=name) from None
    return message


def check_owner(project: str, id: str | None) -> None:
    """Check whose limits are meant: a project's, or a run's.

    Raises:
        InvalidArgument: the project or the ID is malformed.
    """
    check_project(project)
    if id is not None:
        canonical_id(id)
