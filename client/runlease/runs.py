"""`Run`: the handle that a trainer writes through."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Protocol

from runlease import exits
from runlease.exceptions import CoordinatorUnavailable, InvalidArgument, RunleaseError
from runlease.lease import Lease
from runlease.leasestate import LeaseState
from runlease.records import OUTCOMES, Checkpoint, ConfigChange, dump_json
from runlease.stats import Stats
from runlease.values import MetricReader, check_step

log = logging.getLogger("runlease")


class Durable(Protocol):
    """A queued commit."""

    @property
    def done(self) -> bool:
        """Whether it is durable, or never will be."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is durable; False where the time ran out. Raises what ended the log."""


class Log(Protocol):
    """The writer's log that a run feeds; `LogWriter`, or nothing in mode disabled."""

    def log(self, step: int, time_s: float, keys: tuple[str, ...], values: tuple[float, ...]) -> None: ...
    def commit(self, step: int, uri: str, metadata: Mapping[str, str]) -> Durable: ...
    def rewind(self, step: int) -> None: ...
    def flush(self, timeout_s: float | None = None) -> bool: ...
    def stats(self) -> Stats: ...
    def close(self, timeout_s: float) -> bool: ...
    def keep(self, *, outcome: str = "", changes: Mapping[str, Any] | None = None) -> bool: ...
    def leave(self) -> Path | None: ...
    def abandon(self) -> None: ...


class Session(Protocol):
    """A run's calls and the end of its lease; `start.OnlineSession`, or nothing in mode disabled."""

    def update(self, timeout_s: float, **changes: Any) -> None: ...
    def release(self, outcome: str, timeout_s: float) -> bool: ...
    def close(self) -> None: ...


class Run:
    """One attempt at one training run: log metrics, commit checkpoints, finish. Thread-safe.

    A context manager: an exception ends the run ``failed``, KeyboardInterrupt ``killed``, a clean exit ``finished``.

    Attributes:
        id: the run's ID as first typed.
        project: its project.
        name: its name.
        resumed: whether the run existed before.
        previous_state: how it had ended, '' for a new run.
        step: the NEXT step to log.
        starting_step: where this attempt starts: the checkpoint's next step, or where the log ended.
        attempt: 1, 2, 3, ...
        checkpoint: the highest visible checkpoint below ``starting_step``, or None.
        config: what was given at `init` merged over what was there.
        summary: what `update(summary=)` has set.
        config_changes: what this attempt's config changed.
        member: whether another process of the group holds the run, and this one is along.
        lease: tells whether this process still holds the run; of a member: whether its holder does.
        ignored: calls of `log` that did nothing, in a forked child or after a loss that ``on_lost`` handles.
    """

    def __init__(
        self,
        *,
        project: str,
        id: str,
        name: str,
        resumed: bool,
        previous_state: str,
        starting_step: int,
        attempt: int,
        checkpoint: Checkpoint | None,
        config: Mapping[str, Any],
        summary: Mapping[str, Any],
        config_changes: Sequence[ConfigChange] = (),
        member: bool = False,
        auto_keys: Sequence[str] = (),
        lease: Lease,
        writer: Log,
        session: Session,
        strict: bool = False,
        clock: Callable[[], float] = time.time,
        on_finish: Callable[[Run], None] | None = None,
    ) -> None:
        """Take what `init` has acquired; use `runlease.init` instead."""
        self.project, self.id, self.name = project, id, name
        self.resumed, self.previous_state = resumed, previous_state
        self.starting_step = self.step = starting_step
        self.attempt, self.checkpoint = attempt, checkpoint
        self._config, self._summary = dict(config), dict(summary)
        self.config_changes = tuple(config_changes)
        self.member = member
        #: What an automatic resume found the run by, or will.
        self.auto_keys = tuple(auto_keys)
        self.lease = lease
        self._is_lost = lease.lost.is_set  # bound once: `log` asks at each call
        self.ignored = 0
        self._writer, self._session = writer, session
        self._reader = MetricReader(strict=strict)
        self._clock = clock
        self._on_finish = on_finish
        self._lock, self._sending = threading.RLock(), threading.Lock()
        self._pending: tuple[int, float, dict[str, float]] | None = None
        self._unsent: dict[str, Any] = {}
        self._logged = self._finished = self._forked = False

    def __repr__(self) -> str:
        """Return the run's path, attempt and next step."""
        return f"<Run {self.project}/{self.id} attempt={self.attempt} step={self.step} {self.lease.state}>"

    @property
    def fence(self) -> int:
        """The fencing token, that of the lease; give it to stores that check one."""
        return self.lease.fence

    @property
    def config(self) -> Mapping[str, Any]:
        """The run's config by top-level key; change it with `update`."""
        return MappingProxyType(self._config)

    @property
    def summary(self) -> Mapping[str, Any]:
        """The run's summary by top-level key; change it with `update`."""
        return MappingProxyType(self._summary)

    def log(self, metrics: Mapping[str, Any], step: int | None = None, commit: bool = True) -> None:
        """Log numbers at a step; never blocks and never raises for I/O.

        Values are read now, not later: int, float, bool, NumPy scalars, 0-d tensors; nested mappings flatten with
        ``/``; NaN and infinities are kept. Anything else is counted and warned of once.

        Args:
            metrics: key -> value; keys of 1..256 characters.
            step: the step; default `run.step`, which then advances. With it ``run.step`` becomes at least step + 1.
            commit: False holds the row back, so that later calls can add to it, until one with True or another step.

        Raises:
            InvalidArgument: ``step`` is no integer >= 0; with ``strict=True`` also a bad key or value.
            LeaseLost: the lease is lost (``on_lost="raise"``), or the run is finished.
        """
        keys, values = self._reader.read(metrics)
        with self._lock:
            if (self._finished or self._is_lost()) and not self._may_write():
                return
            at = self.step if step is None else check_step(step)
            pending = self._pending
            if pending is None and commit:
                if self._logged and keys:  # nearly always: what `_row` does, without its call
                    self._writer.log(at, self._clock(), keys, values)
                    if at >= self.step:
                        self.step = at + 1
                else:
                    self._row(at, self._clock(), keys, values)
                return
            if pending is not None and pending[0] != at:
                self._flush_pending()
                pending = None
            if pending is None:
                pending = self._pending = (at, self._clock(), {})
            pending[2].update(zip(keys, values, strict=True))
            if commit:
                self._flush_pending()

    def _row(self, step: int, time_s: float, keys: tuple[str, ...], values: tuple[float, ...]) -> None:
        if not self._logged:
            self._logged = True
            self._check_first(step)
        if keys:
            self._writer.log(step, time_s, keys, values)
        if step >= self.step:
            self.step = step + 1

    def _flush_pending(self) -> None:
        if self._pending is not None:
            (step, time_s, row), self._pending = self._pending, None
            self._row(step, time_s, tuple(row), tuple(row.values()))

    def _check_first(self, step: int) -> None:
        path = f"{self.project}/{self.id}"
        if step > self.starting_step + (0 if self.resumed else 1):
            log.warning(
                "runlease: the first step logged is %d, but %s starts at %d: if the training goes on from a "
                "checkpoint, call run.rewind(%d) first%s",
                step,
                path,
                self.starting_step,
                step,
                "" if self.resumed else f"; if it continues another run: runlease link {path} --continues THAT_ID",
            )

    def commit_checkpoint(
        self, step: int, uri: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None, wait: bool = False
    ) -> None:
        """Commit a checkpoint: durable only after every point logged before it.

        Args:
            step: the last step whose points belong to the checkpoint; a resume goes on at step + 1.
            uri: where the bytes lie; the coordinator stores the pointer alone.
            metadata: JSON values by top-level key.
            wait: return only once the commit is durable; else it is queued.

        Raises:
            InvalidArgument: a malformed step, URI or metadata.
            LeaseLost: the lease is lost, or the run is finished.
        """
        at, where = check_step(step), _uri(uri)
        texts = _json("metadata", metadata or {})
        with self._lock:
            self._require_lease()
            self._flush_pending()
            self.step = max(self.step, at + 1)
            queued = self._writer.commit(at, where, texts)
        if wait:
            try:
                queued.wait(None)
            except RunleaseError as error:
                if self.lease.lose_by(error):
                    raise self.lease.loss_error() from None
                raise

    def rewind(self, step: int) -> None:
        """Set the next step: what was logged at or above it before is superseded, not deleted.

        Before this attempt's first point it just replaces the start, up or down.

        Raises:
            InvalidArgument: ``step`` is no integer >= 0.
            LeaseLost: the lease is lost, or the run is finished.
        """
        at = check_step(step)
        with self._lock:
            self._require_lease()
            self._flush_pending()
            self._writer.rewind(at)
            self.step = at
            if not self._logged:
                self.starting_step = at

    def update(
        self,
        *,
        config: Mapping[str, Any] | None = None,
        notes: str | None = None,
        tags: list[str] | tuple[str, ...] | None = None,
        name: str | None = None,
        summary: Mapping[str, Any] | None = None,
    ) -> None:
        """Change the run's config and summary (merged by top-level key), notes, tags or name.

        While the coordinator is away the change is kept and sent with the next update, or at the end.

        Raises:
            InvalidArgument: a value is no JSON, or malformed.
            LeaseLost: the lease is lost, or the run is finished.
        """
        changes = {"notes": notes, "tags": tags, "name": name}
        merged = {"config": _json("config", config or {}), "summary": _json("summary", summary or {})}
        with self._lock:
            self._require_lease()
            self._config.update(config or {})
            self._summary.update(summary or {})
            self.name = self.name if name is None else name
            self._keep_unsent({**merged, **{key: value for key, value in changes.items() if value is not None}})
        self._send_update(timeout_s=5.0)

    def _keep_unsent(self, changes: Mapping[str, Any]) -> None:
        for key, value in changes.items():
            merges = isinstance(value, dict)
            self._unsent[key] = {**self._unsent.get(key, {}), **value} if merges else value

    def _send_update(self, timeout_s: float) -> None:
        with self._sending:  # updates go out one after the other; `log` does not wait for them
            with self._lock:
                changes, self._unsent = self._unsent, {}
            if not changes:  # another thread's call has sent ours, too
                return
            try:
                self._session.update(timeout_s, **changes)
            except CoordinatorUnavailable as error:
                with self._lock:
                    later, self._unsent = self._unsent, changes
                    self._keep_unsent(later)
                log.warning("runlease: an update of %s/%s waits: %s", self.project, self.id, error)
            except RunleaseError as error:
                if not self.lease.lose_by(error):
                    raise
                self._require_lease()

    def stats(self) -> Stats:
        """Return how many points were logged, acknowledged, are buffered, were dropped or rejected."""
        return self._writer.stats()

    @property
    def bad_values(self) -> int:
        """How many values were no numbers and were left out."""
        return self._reader.bad

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything logged so far is acknowledged; returns False where ``timeout`` seconds were too few."""
        with self._lock:
            if self._forked:
                return False
            self._flush_pending()
        return self._writer.flush(timeout)

    def finish(self, outcome: str = "finished", timeout: float = 60.0) -> bool:
        """End the run: send what is left, release the lease. Idempotent; waits for ``timeout`` seconds at most.

        What could not be delivered goes to the spool, for which a slow disk may need a moment more, and is said on
        stderr, with the `runlease sync` that delivers it later.

        Returns:
            Whether everything was delivered, the outcome too; offline: whether everything is on disk.
        """
        if outcome not in OUTCOMES:
            raise InvalidArgument(f"outcome={outcome!r}: one of {', '.join(OUTCOMES)}", field="outcome")
        with self._lock:
            if self._finished or self._forked:
                return True
            self._finished = True
            self._flush_pending()
        deadline = time.monotonic() + timeout
        lost = self.lease.state is LeaseState.LOST
        # The release gets a fifth of the time for itself, so that a slow log does not cost the outcome too.
        delivered = False if lost else self._writer.close(timeout * 0.8)
        if lost:
            self._writer.abandon()
        elif self._unsent:
            self._send_update(timeout_s=max(0.1, (deadline - time.monotonic()) / 2))
            if self._unsent and self._writer.keep(changes=self._unsent):
                self._unsent = {}
        released = False if lost else self._release(outcome, max(0.2, deadline - time.monotonic()))
        self._session.close()
        self._tell_left(self._writer.leave())
        exits.forget(self)
        if self._on_finish is not None:
            self._on_finish(self)
        return delivered and released

    def _tell_left(self, spool: Path | None) -> None:
        stats, path = self._writer.stats(), f"{self.project}/{self.id}"
        if lost := stats.buffered + stats.lost:
            print(f"runlease: {lost} points of {path} were not delivered", file=sys.stderr)
        if spool is not None:
            what = f"{stats.spooled} points" if stats.spooled else "the end"
            print(f"runlease: {what} of {path} can be delivered later: runlease sync {spool}", file=sys.stderr)

    def _release(self, outcome: str, timeout_s: float) -> bool:
        self.lease.releasing()  # before it is sent: it may free the run, though its reply is lost
        try:
            if self._session.release(outcome, timeout_s):
                self.lease.released()
                return True
        except RunleaseError as error:
            if not self.lease.lose_by(error):
                kept = self._writer.keep(outcome=outcome)
                log.warning(
                    "runlease: the end of %s/%s (%s) was not delivered, it will show as crashed%s: %s",
                    self.project,
                    self.id,
                    outcome,
                    " until `runlease sync`" if kept else "",
                    error,
                )
        return False

    def __enter__(self) -> Run:
        """Return the run."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the run with the outcome of its block."""
        self.finish(exits.outcome_of(kind))

    def forked(self) -> None:
        """Mark this copy as a forked child's: it logs nothing and ends nothing."""
        self._forked = True
        self._lock = threading.RLock()  # the parent's may have been held in the moment of the fork
        self.lease.lose_in_child()
        self._is_lost = self.lease.lost.is_set  # the child's own, since the parent's lock may have been held
        self._writer.abandon()

    def _may_write(self) -> bool:
        if self._finished or (self.lease.lost.is_set() and self.lease.raises_when_lost and not self._forked):
            raise self.lease.loss_error()
        if not self.lease.lost.is_set():
            return True
        self.ignored += 1
        if self._forked and self.ignored == 1:
            log.warning("runlease: log() does nothing here: %s", self.lease.loss_error())
        return False

    def _require_lease(self) -> None:
        if self._finished or self.lease.lost.is_set():
            raise self.lease.loss_error()


def _uri(uri: str | os.PathLike[str]) -> str:
    try:
        text = os.fspath(uri)
    except TypeError:
        raise InvalidArgument(f"uri is a string or a path, not {type(uri).__name__}", field="uri") from None
    if not isinstance(text, str):
        raise InvalidArgument("uri is a string or a path, not bytes", field="uri")
    return text


def _json(field: str, values: Mapping[str, Any]) -> dict[str, str]:
    try:
        return dump_json(values)
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidArgument(f"{field} takes JSON values by key: {error}", field=field) from None
