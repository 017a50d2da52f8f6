"""Which lease a session is delivered under, and in which order."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence

from runlease.acquisition import PatientAcquirer
from runlease.channel import Caller, close_channel, coordinator_address, credentials, open_channel
from runlease.client import outcome_symbol, run_ref
from runlease.exceptions import CoordinatorUnavailable, RunleaseError, StaleFence
from runlease.holder import this_process
from runlease.lease import Lease, Renewer
from runlease.leasestate import LeaseMachine
from runlease.records import holder_message
from runlease.spool import Session
from runlease.sync.report import Result, Verdict
from runlease.sync.upload import Uploader
from runlease.v1 import leases_pb2, leases_pb2_grpc, runs_pb2_grpc

#: Seconds without an answer, or without progress, after which the coordinator counts as away.
PATIENCE_S = 15.0
#: How an attempt ended whose process left no word of it.
_NO_OUTCOME = "crashed"


class Synchronizer:
    """Delivers sessions to a coordinator; a context manager."""

    def __init__(
        self,
        coordinator: str | None = None,
        token: str | None = None,
        *,
        wait_s: float | None = None,
        resume: str | None = None,
        patience_s: float = PATIENCE_S,
        on_session: Callable[[Result], None] = lambda result: None,
        on_points: Callable[[int], None] = lambda points: None,
    ) -> None:
        """Name the coordinator as `init` does.

        Args:
            coordinator: ``HOST:PORT``, several with commas.
            token: sent with every call.
            wait_s: seconds to wait for a run that others hold; None: until its holder's lease is over, if it is dead.
            resume: the mode of offline segments, in place of the one that each was started with.
            patience_s: seconds to try without an answer.
            on_session: told of each session, once it is delivered or kept.
            on_points: told of each batch of points that is dealt with.
        """
        self._address, self._metadata = coordinator_address(coordinator), credentials(token)
        self._channel = open_channel(self._address)
        self._leases = leases_pb2_grpc.LeaseServiceStub(self._channel)
        self._runs = runs_pb2_grpc.RunServiceStub(self._channel)
        self._call = Caller(self._address, self._metadata, timeout_s=patience_s)
        self._wait_s, self._patience_s, self._resume = wait_s, patience_s, resume
        self._on_session, self._on_points = on_session, on_points
        self._away: CoordinatorUnavailable | None = None

    def __enter__(self) -> Synchronizer:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        close_channel(self._channel)

    def deliver(self, found: Sequence[tuple[Session, Result]]) -> None:
        """Deliver sessions, in the order of their creation, as far as possible; each result says what became of it."""
        runs: dict[tuple[str, str], list[tuple[Session, Result]]] = {}
        for session, result in found:
            header = session.header
            runs.setdefault((header.run.project, header.canonical_id), []).append((session, result))
        for of_run in runs.values():
            with contextlib.ExitStack() as locks:
                ours = [one for one in of_run if self._take(*one, locks)]
                self._deliver_run([one for one in ours if not one[0].offline], [one for one in ours if one[0].offline])

    def _take(self, session: Session, result: Result, locks: contextlib.ExitStack) -> bool:
        """Lock a session and look into it; one that lives, or cannot be read, is left alone."""
        if not session.lock():
            result.verdict = Verdict.LIVE
            self._on_session(result)
            return False
        locks.callback(session.close)
        try:
            result.measure(session)
        except OSError as error:
            self._keep(result, _unreadable(error))
            return False
        return True

    def _deliver_run(
        self, granted: Sequence[tuple[Session, Result]], offline: Sequence[tuple[Session, Result]]
    ) -> None:
        blocked = False
        if granted:
            blocked = not self._bring_in([(session, result, result.attempt) for session, result in granted])
        for session, result in offline:
            if blocked:
                text = "what was logged before it must be delivered first: see the reasons above"
                self._keep(result, RunleaseError(text, project=result.project, run_id=result.run))
            else:
                blocked = not self._open_attempt(session, result)

    def _bring_in(self, sessions: Sequence[tuple[Session, Result, int]], run_id: str | None = None) -> bool:
        """Deliver sessions of ended attempts under one lease; returns whether all of them are."""
        run = sessions[0][0].header.run
        ref = run_ref(run.project, run_id or run.id)
        message = leases_pb2.AcquireRequest(run=ref, nonce=secrets.token_hex(16), sync=True)
        try:
            with self._held(message) as (lease, _):
                try:
                    delivered = [self._deliver_late(*one, lease) for one in sessions]
                    return all(delivered)
                finally:
                    with contextlib.suppress(RunleaseError):  # it expires by itself
                        self._release(lease, _NO_OUTCOME)
        except RunleaseError as error:
            for _, result, _ in sessions:
                if result.verdict is Verdict.FOUND:
                    self._keep(result, error)
            return False

    def _deliver_late(self, session: Session, result: Result, attempt: int, lease: Lease) -> bool:
        delivered = self._upload(session, result, lease, attempt)
        if delivered:
            self._discard(session, result)
        return delivered

    def _open_attempt(self, session: Session, result: Result) -> bool:
        """Deliver an offline segment as an attempt of its own; returns whether it is."""
        message = leases_pb2.AcquireRequest()
        message.CopyFrom(session.header.acquire)
        message.run.CopyFrom(session.granted or session.header.run)
        message.nonce = session.header.session
        if session.granted is not None:  # an earlier sync was killed
            message.auto_search = False
        if self._resume:
            mode = leases_pb2.AcquireRequest(mode=f"RESUME_MODE_{self._resume.upper()}")
            message.MergeFrom(mode)
        try:
            with self._held(message) as (lease, result.attempt):
                if session.granted is None:
                    session.set_granted(lease.project, lease.run_id)
                # What is not delivered is not released either: the outcome would be told too early.
                if not self._upload(session, result, lease, 0):
                    return False
                self._release(lease, session.outcome or _NO_OUTCOME)
        except StaleFence as error:
            if error.reason == "NONCE_ENDED" and error.attempt:
                result.attempt = error.attempt  # the lease of an earlier sync has expired
                return self._bring_in([(session, result, error.attempt)], message.run.id)
            self._keep(result, error)
            return False
        except RunleaseError as error:
            self._keep(result, error)
            return False
        except OSError as error:
            self._keep(result, _unreadable(error))
            return False
        self._discard(session, result)
        return True

    def _upload(self, session: Session, result: Result, lease: Lease, attempt: int) -> bool:
        """Bring in a session, under its own lease (``attempt`` 0) or a sync's; returns whether all of it is there."""
        uploader = Uploader(
            session,
            result,
            lease,
            self._channel,
            self._metadata,
            attempt=attempt,
            patience_s=self._patience_s,
            on_points=self._on_points,
        )
        try:
            uploader.deliver()
            for update in session.updates:
                update.run.CopyFrom(run_ref(lease.project, lease.run_id))
                update.fence = lease.fence
                self._call(self._runs.UpdateRun, update)
        except RunleaseError as error:
            self._keep(result, error)
            return False
        except OSError as error:
            self._keep(result, _unreadable(error))
            return False
        return True

    # Leases.

    @contextlib.contextmanager
    def _held(self, message: leases_pb2.AcquireRequest) -> Iterator[tuple[Lease, int]]:
        """Acquire a lease and renew it as long as the block runs; yields it, and its attempt (0: a sync's)."""
        if self._away is not None:
            raise self._away
        this = this_process()
        message.holder.CopyFrom(holder_message(this))  # the process that lives, and renews
        acquirer = PatientAcquirer(
            message,
            this,
            self._channel,
            self._address,
            self._metadata,
            wait_s=self._wait_s,
            connect_timeout_s=self._patience_s,
        )
        acquired = acquirer.acquire()
        grant = acquired.grant
        machine = LeaseMachine(grant.ttl_s, acquired.sent_at, grant.remaining_s, grant.incarnation)
        lease = Lease(message.run.project, grant.run.id, grant.fence, machine, on_lost=lambda error: None)
        renewer = Renewer(lease, self._address, self._metadata)
        renewer.start()
        try:
            yield lease, grant.attempt
        finally:
            renewer.close()

    def _release(self, lease: Lease, outcome: str) -> None:
        request = leases_pb2.ReleaseRequest(
            run=run_ref(lease.project, lease.run_id), fence=lease.fence, outcome=outcome_symbol(outcome)
        )
        self._call(self._leases.Release, request)

    # What became of it.

    def _discard(self, session: Session, result: Result) -> None:
        session.discard()
        self._on_points(max(0, result.points - result.sent_points))  # those that were there before
        result.verdict = Verdict.DELIVERED
        self._on_session(result)

    def _keep(self, result: Result, error: RunleaseError) -> None:
        if isinstance(error, CoordinatorUnavailable) and not error.reason:
            self._away = error  # nobody waits for it again for each run
        result.keep(error)
        self._on_session(result)


def _unreadable(error: OSError) -> RunleaseError:
    return RunleaseError(f"the spool cannot be read: {error}; mend that and run `runlease sync` again")
