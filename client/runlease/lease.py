"""`Lease`: the handle that tells whether this process still holds its run, and the thread that keeps it so.

Guarantees: the state is never HELD past the deadline; a loss that the coordinator told is final. Not guaranteed: that
a paused process notices in time; what it wrote meanwhile is refused by its fence.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

from runlease.channel import Caller, open_channel
from runlease.clock import suspend_aware
from runlease.exceptions import CoordinatorUnavailable, LeaseLost, RunDeleted, RunleaseError, StaleFence
from runlease.holder import Holder
from runlease.leasestate import LeaseMachine, LeaseState, Loss
from runlease.v1 import leases_pb2, leases_pb2_grpc, runs_pb2

log = logging.getLogger("runlease")

OnLost = str | Callable[[LeaseLost], None]
#: After SIGTERM, before SIGKILL (`on_lost="terminate"`).
TERMINATE_GRACE_S = 30.0
#: A renewal without an answer for this part of its time had a silent connection, not a refusal.
_SILENT = 0.9
#: Renewals that follow each other at once: one under the old incarnation, a claim under the new one, and one more where
#: an answer came too late or the store lost data again.
_TRIES_AT_ONCE = 3
_CAUSES = {"STALE_FENCE": "superseded", "LEASE_ENDED": "ended", "REVOKED": "revoked", "RUN_GONE": "absent"}


class Lease:
    """The lease of one run. Thread-safe.

    Attributes:
        fence: its fencing token; give it to stores that check one. It is a higher one once the lease came back behind a
            loss of data in the store.
        lost: an event, set once the lease is lost for good.
    """

    def __init__(self, project: str, run_id: str, fence: int, machine: LeaseMachine, on_lost: OnLost = "raise") -> None:
        """Take a granted lease; `Renewer` keeps it alive."""
        self.project = project
        self.run_id = run_id
        self.fence = fence
        self.lost = threading.Event()
        #: Of a member: whether the holder's lease has expired, by the store.
        self.expired_elsewhere = False
        self._machine = machine
        self._lock = threading.Lock()
        self._on_lost = on_lost

    def __repr__(self) -> str:
        """Return state and fence."""
        return f"<Lease {self.project}/{self.run_id} {self.state} fence={self.fence}>"

    @property
    def state(self) -> LeaseState:
        """``held``, ``suspended``, ``lost`` or ``released``, by this machine's own clock; no call."""
        with self._lock:
            return self._machine.state(suspend_aware())

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline that this process keeps, 0 where the lease is not held."""
        with self._lock:
            return self._machine.remaining_s(suspend_aware())

    @property
    def ttl_s(self) -> float:
        """The granted time to live, in seconds."""
        return self._machine.ttl_s

    def check(self) -> None:
        """Return if the lease is held; local, no call.

        Raises:
            LeaseLost: it is lost, or was released.
            CoordinatorUnavailable: it is suspended: the deadline has passed and nobody has said that it is lost.
        """
        state = self.state
        if state is LeaseState.HELD:
            return
        if state is LeaseState.SUSPENDED:
            error = CoordinatorUnavailable(
                f"the lease of {self.project}/{self.run_id} is suspended: no renewal got through before its deadline; "
                "it comes back by itself if nobody else was granted meanwhile",
                project=self.project,
                run_id=self.run_id,
            )
            error.reason = "SUSPENDED"
            raise error
        raise self.loss_error()

    def loss_error(self) -> LeaseLost:
        """Return the exception that tells how the lease went."""
        path, loss = f"{self.project}/{self.run_id}", self._machine.loss
        if loss is None:
            loss = Loss("released", "this process released it")
        who = f"; it is held by {loss.holder} now" if loss.holder else ""
        return LeaseLost(
            f"the lease of {path} is lost ({loss.cause}): {loss.message}{who}; "
            "stop writing, points logged from here on are not accepted",
            cause=loss.cause,
            project=self.project,
            run_id=self.run_id,
            holder=loss.holder,
            fence=self.fence,
            current_fence=loss.current_fence,
        )

    @property
    def incarnation(self) -> str:
        """Of the store's data, as a claim to hold the lease names it."""
        return self._machine.incarnation

    def renewed(
        self, sent_at: float, remaining_s: float, incarnation: str = "", *, fence: int = 0, as_holder: bool = False
    ) -> bool:
        """Take a renewal's answer, with the fence from now on (0: the same); returns whether it is believed.

        It is not where it answers a claim to hold the lease (``as_holder``) that came true no longer: the deadline has
        passed meanwhile, and somebody else may have been granted before the store decided.
        """
        with self._lock:
            if as_holder and self._machine.state(suspend_aware()) is LeaseState.SUSPENDED:
                return False
            self._machine.renewed(sent_at, remaining_s, incarnation)
            self.fence = max(self.fence, fence)
            return True

    def claim(self, incarnation: str) -> bool:
        """Take that the store has lost data; returns whether to renew at once, as the holder (`LeaseMachine.claim`)."""
        with self._lock:
            return self._machine.claim(suspend_aware(), incarnation)

    def suspend(self) -> None:
        """The store says that the lease has expired."""
        with self._lock:
            self._machine.suspend(suspend_aware())

    def renewal_failed(self) -> None:
        """A renewal had no answer."""
        with self._lock:
            self._machine.failed()

    def next_renewal_in(self) -> float:
        """Return the seconds until the next renewal is due."""
        with self._lock:
            now = suspend_aware()
            return max(0.0, self._machine.next_renewal(now, random.random) - now)

    def releasing(self) -> None:
        """The holder is about to give the lease back: not held from here on, whether or not the release arrives."""
        with self._lock:
            self._machine.releasing()

    def kept(self) -> bool:
        """The release was refused and changed nothing; returns whether there was one."""
        with self._lock:
            return self._machine.kept()

    def released(self) -> None:
        """The holder gave the lease back."""
        with self._lock:
            self._machine.released()

    def lose(self, loss: Loss) -> None:
        """Take the coordinator's word that the lease is lost, and do what `on_lost` says. Idempotent."""
        with self._lock:
            new = self._machine.lost(loss)
        if not new:
            return
        error = self.loss_error()
        log.error("%s", error)
        self.lost.set()
        if callable(self._on_lost):
            try:
                self._on_lost(error)
            except Exception:  # the user's own; the thread that brought the news has more to do
                log.exception("runlease: on_lost failed")
        elif self._on_lost == "terminate":
            _terminate()

    def lose_by(self, error: RunleaseError) -> bool:
        """Lose the lease if an error says so; returns whether it does."""
        if isinstance(error, RunDeleted):
            self.lose(Loss("deleted", str(error)))
        elif isinstance(error, StaleFence) and error.reason in _CAUSES:
            holder: Holder | None = error.holder if error.current_fence != self.fence else None
            self.lose(Loss(_CAUSES[error.reason], str(error), holder, error.current_fence))
        else:
            return False
        return True

    def lose_in_child(self) -> None:
        """Lose the lease in a forked child: only the parent holds it. Silent; the child's locks are its own."""
        self._lock, self.lost = threading.Lock(), threading.Event()
        self._machine.lost(Loss("forked", "this process was forked from the one that holds the run"))
        self.lost.set()

    @property
    def raises_when_lost(self) -> bool:
        """Whether the run's calls raise `LeaseLost` (the default of `on_lost`)."""
        return self._on_lost == "raise"


def _terminate() -> None:
    killer = threading.Timer(TERMINATE_GRACE_S, os.kill, (os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM)))
    killer.daemon = True
    killer.start()
    os.kill(os.getpid(), signal.SIGTERM)


class Renewer:
    """Keeps a lease alive: one daemon thread on a channel of its own, so metrics never delay a renewal."""

    def __init__(
        self,
        lease: Lease,
        address: str,
        metadata: Sequence[tuple[str, str]],
        granted: leases_pb2.Granted | None = None,
    ) -> None:
        """Take the lease, and what brings it back if the store loses it; `start` begins to renew."""
        self._lease = lease
        self._granted = granted
        #: Whether the store has lost data, and did not confirm the lease since.
        self._in_doubt = False
        self._address = address
        self._channel = open_channel(address)
        self._call = Caller(address, metadata)
        self._stub = leases_pb2_grpc.LeaseServiceStub(self._channel)
        #: Of the connection: whether a renewal was answered on it, and how many in a row were not.
        self._has_answered, self._silences = False, 0
        self._stopping, self._bell = False, threading.Event()
        self._renewing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="runlease-renewal", daemon=True)
        self._ref = runs_pb2.RunRef(project=lease.project, id=lease.run_id)

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing by itself; the lease lives on until it is released or expires."""
        self._stopping = True
        self._bell.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=1.0)

    def close(self) -> None:
        """Stop, and close the connection."""
        self.stop()
        self._channel.close()

    def urge(self) -> None:
        """Renew at once, on the own thread, while the lease is held: the store wants it confirmed."""
        if self._lease.state is LeaseState.HELD:
            self._bell.set()

    def renew(self) -> bool:
        """Renew, again at once where that helps; returns whether the coordinator extended the lease."""
        with self._renewing:
            for _ in range(_TRIES_AT_ONCE):
                extended = self._try()
                if extended is not None:
                    return extended
            self._lease.renewal_failed()
        return False

    def _try(self) -> bool | None:
        """Send one renewal; returns whether it extended the lease, None where another one may do so at once."""
        lease = self._lease
        held = lease.state is LeaseState.HELD
        request = leases_pb2.RenewRequest(
            run=self._ref, fence=lease.fence, held_by_own_clock=held, incarnation=lease.incarnation
        )
        if self._in_doubt and held and self._granted is not None:
            request.granted.CopyFrom(self._granted)
        timeout_s = max(1.0, min(5.0, lease.ttl_s / 6))
        sent_at = suspend_aware()
        try:
            response: Any = self._call.once(self._stub.Renew, request, timeout_s)
        except RunleaseError as error:
            silent = suspend_aware() - sent_at > timeout_s * _SILENT
            self._silences = self._silences + 1 if silent else 0
            if self._silences > (0 if self._has_answered else 1):
                self._reconnect()
            if lease.lose_by(error):
                return False
            if isinstance(error, CoordinatorUnavailable):
                if error.reason == "UNCONFIRMED":
                    self._in_doubt = True
                    if lease.claim(error.incarnation):
                        return None
            else:
                log.warning("runlease: a renewal of %s/%s failed: %s", lease.project, lease.run_id, error)
            lease.renewal_failed()
            return False
        self._in_doubt, self._has_answered, self._silences = False, True, 0
        believed = lease.renewed(
            sent_at, response.remaining_ms / 1000, response.incarnation, fence=response.fence, as_holder=held
        )
        return True if believed else None

    def _reconnect(self) -> None:
        """Leave a connection on which nothing comes back: its coordinator may hang, and another one answer.

        gRPC itself notices only by its pings, which pause between calls: too late for a short ttl.
        A new connection to one that hangs is not established, so the next address is tried at once. One that was just
        made gets a second renewal: the first one waits for the handshake, too, and would never end over a slow network.
        """
        self._has_answered, self._silences = False, 0
        self._channel.close()
        self._channel = open_channel(self._address)
        self._stub = leases_pb2_grpc.LeaseServiceStub(self._channel)

    def _run(self) -> None:
        believed = LeaseState.HELD
        path = f"{self._lease.project}/{self._lease.run_id}"
        while not self._stopping:
            due_in, left = self._lease.next_renewal_in(), self._lease.remaining_s
            # Wake at the deadline too, so that its passing is said when it happens.
            wait_s = min(due_in, left) if left > 0 else due_in
            urged = self._bell.wait(wait_s)
            self._bell.clear()
            if self._stopping:
                return
            if urged or wait_s == due_in:
                self.renew()
            state = self._lease.state
            if state in (LeaseState.LOST, LeaseState.RELEASED):
                return
            if state is not believed:
                _tell(path, state, self._lease.fence)
                believed = state


def _tell(path: str, state: LeaseState, fence: int) -> None:
    if state is LeaseState.SUSPENDED:
        log.warning(
            "runlease: the lease of %s is suspended: no renewal got through; training goes on, metrics wait",
            path,
        )
    else:
        log.warning("runlease: the lease of %s is held again, under fence %d", path, fence)
