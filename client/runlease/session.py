"""A run's calls besides its log: updates of its record, and the release of its lease."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from runlease.channel import CALL_TIMEOUT_S, Caller, close_channel
from runlease.client import outcome_symbol, run_ref
from runlease.exceptions import CoordinatorUnavailable
from runlease.lease import Lease, Renewer
from runlease.member import Follower
from runlease.v1 import leases_pb2, leases_pb2_grpc, runs_pb2, runs_pb2_grpc


def update_request(tags: Sequence[str] | None = None, **changes: Any) -> runs_pb2.UpdateRunRequest:
    """Return changes of a record as a request that names no run yet."""
    return runs_pb2.UpdateRunRequest(tags=None if tags is None else runs_pb2.Tags(tags=tags), **changes)


class OnlineSession:
    """The calls of a held run: update, release, and the end of its connections."""

    def __init__(
        self,
        lease: Lease,
        keeper: Renewer | Follower,
        channel: grpc.Channel,
        address: str,
        metadata: Sequence[tuple[str, str]],
        *,
        member: bool = False,
    ) -> None:
        """Take the lease, what keeps it, and the channel of everything else; a member releases nothing."""
        self._lease, self._keeper, self._channel, self._member = lease, keeper, channel, member
        self._address, self._metadata = address, metadata
        self._leases = leases_pb2_grpc.LeaseServiceStub(channel)
        self._runs = runs_pb2_grpc.RunServiceStub(channel)
        self._ref = run_ref(lease.project, lease.run_id)

    def _caller(self, timeout_s: float) -> Caller:
        return Caller(self._address, self._metadata, timeout_s=timeout_s)

    def update(self, timeout_s: float, **changes: Any) -> None:
        """Send changes of the record under the fence; same errors as `Client.update_run`."""
        request = update_request(**changes)
        request.run.CopyFrom(self._ref)
        request.fence = self._lease.fence
        self._confirmed(self._runs.UpdateRun, request, timeout_s)

    def release(self, outcome: str, timeout_s: float) -> bool:
        """Stop renewing and release the lease, where it is ours; same errors as `Client.release`."""
        self._keeper.stop()
        if self._member:
            return True
        request = leases_pb2.ReleaseRequest(run=self._ref, fence=self._lease.fence, outcome=outcome_symbol(outcome))
        self._confirmed(self._leases.Release, request, timeout_s)
        return True

    def _confirmed(self, method: Callable[..., Any], request: Any, timeout_s: float) -> None:
        """Call; where the store has lost data, renew first, if the lease is still ours by our own clock."""
        deadline = time.monotonic() + timeout_s
        try:
            self._caller(timeout_s).once(method, request, min(timeout_s, CALL_TIMEOUT_S))
            return
        except CoordinatorUnavailable as error:
            if error.reason == "UNCONFIRMED" and not self._confirm():
                raise  # until it is, no repetition helps
        self._caller(max(0.1, deadline - time.monotonic()))(method, request)

    def _confirm(self) -> bool:
        was_releasing = self._lease.kept()  # the answer to the only release that was sent says that it changed nothing
        try:
            return self._keeper.renew()
        finally:
            if was_releasing:
                self._lease.releasing()

    def close(self) -> None:
        """Close the connections."""
        self._keeper.close()
        close_channel(self._channel)


class NoSession:
    """What stands behind a run of mode disabled."""

    def update(self, timeout_s: float, **changes: Any) -> None:
        """Do nothing."""

    def release(self, outcome: str, timeout_s: float) -> bool:
        """Return at once."""
        return True

    def close(self) -> None:
        """Do nothing."""
