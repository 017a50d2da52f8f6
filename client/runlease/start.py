"""`init`: acquire a run's lease and return the `Run` to write through."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc

import runlease
from runlease import exits
from runlease.acquisition import Acquirer
from runlease.channel import coordinator_address, credentials, open_channel
from runlease.disabled import DisabledLog, MutedLog, disabled_lease
from runlease.exceptions import CoordinatorUnavailable, LeaseLost, RunleaseError, StaleFence
from runlease.grants import Grant
from runlease.holder import Holder, this_process
from runlease.ids import MAIN_WRITER, canonical_id
from runlease.job import array_index, automatic_keys, job_of, main_module, script_of
from runlease.lease import Lease, Renewer
from runlease.leasestate import LeaseMachine, Loss
from runlease.member import Follower
from runlease.names import generate_name
from runlease.offline import entry_line, offline_run, warn_of_fallback
from runlease.request import Request, resolve
from runlease.resumefile import ResumeFile, generate_key
from runlease.runs import Log, Run
from runlease.session import NoSession, OnlineSession
from runlease.settings import Environment, read_environment
from runlease.spool.opening import hint, new_header, open_spool
from runlease.v1 import leases_pb2
from runlease.writer import LogWriter, WriterSettings

log = logging.getLogger("runlease")

#: Changes of the config that the entry lines show.
_CHANGES_SHOWN = 10
#: A grant that took longer than this part of its ttl to arrive is confirmed before it is believed.
_CONFIRM_AFTER = 1 / 6


def init(
    project: str | None = None,
    id: str | None = None,
    *,
    resume: str | bool | None = None,
    resume_step: int | None = None,
    resume_from: str | None = None,
    fork_from: str | None = None,
    name: str | None = None,
    notes: str | None = None,
    tags: Sequence[str] | None = None,
    config: Mapping[str, Any] | None = None,
    wait: float | None = None,
    connect_timeout: float | None = None,
    ttl: float | None = None,
    on_lost: str | Callable[[LeaseLost], None] = "raise",
    mode: str | None = None,
    strict: bool = False,
    auto_key: str | None = None,
    group: str | None = None,
    holder: bool | None = None,
    writer: str | None = None,
    spool: str | None = None,
    coordinator: str | None = None,
    token: str | None = None,
) -> Run:
    """Acquire a run and return its handle; use it as a context manager.

    Args:
        project: namespace; default `RUNLEASE_PROJECT`, `WANDB_PROJECT`, else ``default``.
        id: the run's ID; default `RUNLEASE_RUN_ID`, `WANDB_RUN_ID`, else generated.
        resume: ``never`` (the default: the run must be new), ``allow`` (create or resume), ``must`` (resume only),
            ``auto`` or True (the run that this job wrote before, found by its job ID or the directory's resume file,
            else a new one), or the ID of a run that must exist. Default `RUNLEASE_RESUME`, `WANDB_RESUME`.
        resume_step: the next step to log, where you know better than the checkpoints.
        resume_from: ``RUN?_step=K``: resume that run behind step K; what it logged after is superseded at once.
        fork_from: ``RUN?_step=K``: a new run whose history up to and including step K is that run's.
        name: for people; generated for a new run.
        notes: free text; not given leaves the run's notes alone, as for tags.
        tags: words to find the run by.
        config: JSON values by top-level key, merged over what the run has.
        wait: seconds to wait while others hold the run, first come, first served. Default: ttl + lock-delay + 5 s where
            the holder is of the same job or group, or the mode is auto; else 0. Lock-delay is always waited out.
        connect_timeout: seconds to try while the coordinator is away; default 120.
        ttl: seconds after which the lease expires if this process dies; 5 up to the coordinator's maximum, default 30.
        on_lost: ``raise`` (LeaseLost from the next call), ``terminate`` (SIGTERM to this process, SIGKILL after 30 s)
            or a callable that gets the LeaseLost.
        mode: ``online``; ``offline`` (no server: all goes to the spool, and `runlease sync` makes an attempt of it
            later); ``online-or-offline`` (offline, with a warning, where the coordinator cannot be reached within
            ``connect_timeout``); or ``disabled`` (same API, no server, nothing written). Default `RUNLEASE_MODE`.
        strict: raise for values that are no numbers, instead of leaving them out.
        auto_key: what an automatic resume finds the run by, before anything else; default `RUNLEASE_AUTO_KEY`.
        group: what the processes of one job start share: one of them holds the lease, the others are members. Default
            `RUNLEASE_GROUP`, else what torchrun or Slurm say.
        holder: whether this process of the group shall hold; default: the one of rank 0, without ranks the first.
        writer: name of a member's own log, e.g. ``rank3``; without it a member logs nothing.
        spool: what goes to disk, below `RUNLEASE_DIR` (default ``./.runlease``), to be delivered later, if need be by
            `runlease sync`: ``overflow`` (the default: what finds no room in memory, and what is left at the end),
            ``always`` (also all that is logged, before the call returns, so that it survives a SIGKILL) or ``never``.
            Default `RUNLEASE_SPOOL`.
        coordinator: ``HOST:PORT``, several with commas; default `RUNLEASE_COORDINATOR`, else localhost:7373.
        token: sent with every call; default `RUNLEASE_TOKEN`.

    Raises:
        LeaseHeld: another process holds the run; the message names it.
        RunExists, RunNotFound, RunDeleted, RunIdCollision: as the resume mode says.
        InvalidArgument: a value is malformed.
        CoordinatorUnavailable: nobody answered in time.
    """
    environment = read_environment()
    request = resolve(
        environment,
        job_of(os.environ),
        project=project,
        id=id,
        resume=resume,
        resume_step=resume_step,
        resume_from=resume_from,
        fork_from=fork_from,
        name=name,
        notes=notes,
        tags=tags,
        config=config,
        wait=wait,
        connect_timeout=connect_timeout,
        ttl=ttl,
        on_lost=on_lost,
        mode=mode,
        strict=strict,
        auto_key=auto_key,
        group=group,
        holder=holder,
        writer=writer,
        spool=spool,
    )
    if request.mode == "disabled":
        return _enter(_disabled_run(request, config or {}))
    keys, resume_file = _auto_keys(request)
    for run in exits.active():
        if run.project == request.project and _is_same(run, request, keys):
            if not _in_notebook():
                return run  # the same run again in one process is the same handle
            run.finish()  # a cell that is run again starts again
    try:
        if request.mode == "offline":
            return _offline_run(request, keys, resume_file, config or {}, environment)
        address, metadata = coordinator_address(coordinator), credentials(token)
        run = _online_run(request, keys, resume_file, address, metadata)
    except CoordinatorUnavailable as error:
        if request.mode != "online-or-offline":
            raise
        warn_of_fallback(request, error)
        return _offline_run(request, keys, resume_file, config or {}, environment)
    os.environ["RUNLEASE_FENCE"] = str(run.fence)
    if not environment.silent and not run.member:  # once a group
        left = hint(request.directory, run.project, run.id)
        print("\n".join([_entry_lines(run), *([left] if left else [])]), file=sys.stderr, flush=True)
    return _enter(run)


def _enter(run: Run) -> Run:
    exits.watch(run)
    runlease.run = run
    return run


def _leave(run: Run) -> None:
    if runlease.run is run:
        runlease.run = None


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"  # a kernel's; a terminal's has another name


def _entry_lines(run: Run) -> str:
    changes = [f"{change.key}: {change.before!r} -> {change.after!r}" for change in run.config_changes]
    if len(changes) > _CHANGES_SHOWN:
        changes[_CHANGES_SHOWN:] = [f"and {len(changes) - _CHANGES_SHOWN} more changes"]
    return "\n".join([_entry_line(run), *(f"runlease: config {change}" for change in changes)])


def _entry_line(run: Run) -> str:
    who = f"{run.id} ({run.name})"
    if not run.resumed:
        return f"runlease: starting new run {who}"
    line = f"runlease: resuming run {who} at step {run.starting_step}, attempt {run.attempt}"
    notes = []
    if run.checkpoint and run.starting_step != run.checkpoint.step + 1:
        notes.append(f"{run.starting_step - run.checkpoint.step - 1} steps after its checkpoint")
    if run.previous_state == "finished":
        notes.append("it had finished")
    return line + (f" ({', '.join(notes)})" if notes else "")


def _disabled_run(request: Request, config: Mapping[str, Any]) -> Run:
    return Run(
        project=request.project,
        id=request.id,
        name=request.name or generate_name(),
        resumed=False,
        previous_state="",
        starting_step=request.resume_step or 0,
        attempt=1,
        checkpoint=None,
        config=config,
        summary={},
        lease=disabled_lease(request.project, request.id),
        writer=DisabledLog(),
        session=NoSession(),
        strict=request.strict,
        on_finish=_leave,
    )


def _offline_run(
    request: Request,
    keys: Sequence[str],
    resume_file: ResumeFile | None,
    config: Mapping[str, Any],
    environment: Environment,
) -> Run:
    run = offline_run(request, _this(request), keys, dict(config), _leave)
    if resume_file is not None and not run.member:
        _remember(resume_file, request, keys, run.id)
    if not environment.silent and not run.member:
        print(entry_line(run, request), file=sys.stderr, flush=True)
    return _enter(run)


def _this(request: Request) -> Holder:
    return replace(this_process(), job_id=request.job_id, group=request.group)


def _remember(resume_file: ResumeFile, request: Request, keys: Sequence[str], run_id: str) -> None:
    file_key = next(key for key in keys if key.startswith("file:"))
    resume_file.remember(request.project, *_script(), file_key, run_id)


def _is_same(run: Run, request: Request, keys: Sequence[str]) -> bool:
    if request.auto:
        return not set(keys).isdisjoint(run.auto_keys)
    return canonical_id(run.id) == canonical_id(request.id)


def _online_run(
    request: Request,
    keys: Sequence[str],
    resume_file: ResumeFile | None,
    address: str,
    metadata: Sequence[tuple[str, str]],
) -> Run:
    this = _this(request)
    channel = open_channel(address)
    try:
        acquired = Acquirer(request, this, keys, channel, address, metadata).acquire()
    except BaseException:  # an interrupt, too, closes the channel
        channel.close()
        raise
    grant = acquired.grant
    machine = LeaseMachine(grant.ttl_s, acquired.sent_at, grant.remaining_s, grant.incarnation)
    lease = Lease(request.project, grant.run.id, grant.fence, machine, request.on_lost)
    keeper: Renewer | Follower
    if grant.rank_ticket:
        keeper = Follower(lease, address, metadata, grant.cursor)
    else:
        granted = leases_pb2.Granted(
            wish=acquired.wish, attempt=grant.attempt, next_step=grant.next_step, starting_step=grant.starting_step
        )
        keeper = Renewer(lease, address, metadata, granted)
        if acquired.took_s > grant.ttl_s * _CONFIRM_AFTER:
            keeper.renew()
            lease.check()
    keeper.start()
    if resume_file is not None and not grant.rank_ticket:
        _remember(resume_file, request, keys, grant.run.id)
    return Run(
        project=grant.run.project,
        id=grant.run.id,
        name=grant.run.name,
        resumed=grant.resumed,
        previous_state=grant.previous_state,
        starting_step=grant.starting_step,
        attempt=grant.attempt,
        checkpoint=grant.checkpoint,
        config=grant.run.config,
        config_changes=grant.config_changes,
        summary=grant.run.summary,
        lease=lease,
        writer=_writer(request, this, grant, lease, keeper, channel, metadata),
        session=OnlineSession(lease, keeper, channel, address, metadata, member=bool(grant.rank_ticket)),
        member=bool(grant.rank_ticket),
        auto_keys=keys,
        strict=request.strict,
        on_finish=_leave,
    )


def _auto_keys(request: Request) -> tuple[list[str], ResumeFile | None]:
    """Return the keys to search by or to bind, most explicit first, and the file that keeps the directory's own."""
    # What the ranks of one start find each other by; it means nothing to the next one.
    group = [f"group:{request.group}"] if request.group else []
    if request.shares_id:
        return group, None
    if request.resume != "auto":
        return [], None
    keys = automatic_keys(os.environ, sys.argv, auto_key=request.auto_key, module=main_module())
    resume_file = ResumeFile(Path.cwd())
    known = resume_file.key(request.project, *_script())
    if known is None and not request.member:  # a member's would lead nowhere
        known = generate_key()
    return [*keys, *([known] if known else []), *group], resume_file


def _script() -> tuple[str, str]:
    return script_of(os.environ, sys.argv, main_module()), array_index(os.environ)


def _writer(
    request: Request,
    this: Holder,
    grant: Grant,
    lease: Lease,
    keeper: Renewer | Follower,
    channel: grpc.Channel,
    metadata: Sequence[tuple[str, str]],
) -> Log:
    member = bool(grant.rank_ticket)
    if member and request.writer is None:
        return MutedLog(lease)
    settings = WriterSettings()
    header = new_header(
        request.project,
        grant.run.id,
        this,
        writer=request.writer if member and request.writer else MAIN_WRITER,
        fence=grant.fence,
        attempt=grant.attempt,
        starting_step=grant.starting_step,
    )
    return LogWriter(
        channel,
        request.project,
        grant.run.id,
        grant.fence,
        writer=header.writer,
        settings=settings,
        rank_ticket=grant.rank_ticket,
        metadata=metadata,
        on_stale=lambda error: _stale_log(lease, keeper, error),
        on_unconfirmed=keeper.urge,
        spool=open_spool(request.directory, header, request.spool, settings.spool_bytes),
        session=header.session,
    )


def _stale_log(lease: Lease, keeper: Renewer | Follower, error: RunleaseError) -> None:
    # Of a fence that is old the log's answer tells all; of anything else a renewal tells whether the lease is, too.
    if lease.lose_by(error) or not keeper.renew():
        return
    if isinstance(error, StaleFence):
        lease.lose(Loss("taken over", str(error)))
    else:
        log.error("runlease: nothing more of %s/%s is delivered: %s", lease.project, lease.run_id, error)
