"""The lease as a member of the holder's group sees it: by the coordinator's events, without a renewal of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import grpc

from runlease.channel import open_channel
from runlease.clock import suspend_aware
from runlease.lease import Lease
from runlease.leasestate import Loss
from runlease.v1 import runs_pb2, runs_pb2_grpc

log = logging.getLogger("runlease")

_RECONNECT_S = 1.0
_LOSSES = {"broken": "revoked", "deleted": "deleted", "proved-dead": "ended", "purged": "deleted"}


class Follower:
    """Follows the holder's lease: a daemon thread on a channel of its own.

    A member believes in the lease for a ttl after each sign of life of the coordinator, and learns of its loss,
    expiry, reinstatement and release by events; a broken stream goes on where it ended.
    """

    def __init__(self, lease: Lease, address: str, metadata: Sequence[tuple[str, str]], cursor: str) -> None:
        """Take the holder's lease and the position in the audit log before it was granted."""
        self._lease = lease
        self._metadata = tuple(metadata)
        self._channel = open_channel(address)
        self._stub = runs_pb2_grpc.RunServiceStub(self._channel)
        self._cursor = cursor
        self._stopping = threading.Event()
        self._call: Any = None
        self._thread = threading.Thread(target=self._run, name="runlease-member", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._stopping.set()
        if self._call is not None:
            self._call.cancel()
        self._channel.close()

    def close(self) -> None:
        """Stop following."""
        self.stop()

    def urge(self) -> None:
        """Do nothing: the holder renews."""

    def renew(self) -> bool:
        """Return whether the lease is not known to be lost: a member renews nothing."""
        return not self._lease.lost.is_set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            request = runs_pb2.WatchRequest(project=self._lease.project, id=self._lease.run_id, after=self._cursor)
            try:
                self._call = self._stub.Watch(request, metadata=self._metadata)
                for response in self._call:
                    self._take(response)
                    if self._lease.lost.is_set():
                        return
            except (grpc.RpcError, ValueError) as error:  # ValueError: the channel was closed by `stop`
                log.debug("the member's view of %s broke: %s", self._lease, error)
            if self._stopping.wait(_RECONNECT_S):
                return

    def _take(self, response: runs_pb2.WatchResponse) -> None:
        self._cursor = response.cursor
        lease, event = self._lease, response.event
        if not response.HasField("event"):
            if not lease.expired_elsewhere:
                lease.renewed(suspend_aware(), lease.ttl_s)
            return
        if event.fence > lease.fence and event.kind in ("granted", "created", "sync_began"):
            lease.lose(Loss("superseded", "a newer lease was granted", None, event.fence))
        elif event.kind in _LOSSES and event.fence >= lease.fence:
            lease.lose(Loss(_LOSSES[event.kind], f"its holder's lease was {event.kind}"))
        elif event.fence == lease.fence and event.kind == "released":
            lease.released()
        elif event.fence == lease.fence and event.kind == "expired":
            lease.expired_elsewhere = True
            lease.suspend()
        elif (
            event.fence >= lease.fence and event.kind == "reinstated"
        ):  # of a grant behind it we would have heard first
            lease.expired_elsewhere = False
            lease.renewed(suspend_aware(), lease.ttl_s, fence=event.fence)
