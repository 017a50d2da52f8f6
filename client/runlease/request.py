"""What `init` was asked for: arguments, environment and defaults resolved into one request, without any call."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runlease.exceptions import InvalidArgument, LeaseLost
from runlease.ids import DEFAULT_PROJECT, canonical_id, check_project, check_writer, generate_id
from runlease.job import Job
from runlease.records import dump_json
from runlease.settings import DEFAULT_DIRECTORY, MODES, SPOOLS, Environment
from runlease.values import check_step

log = logging.getLogger("runlease")

RESUME_MODES = ("never", "allow", "must", "auto")
MIN_TTL_S = 5.0
DEFAULT_TTL_S = 30.0
#: How long `init` tries to reach a coordinator that is away, in seconds.
DEFAULT_CONNECT_TIMEOUT_S = 120.0
MAX_GROUP = 128
#: No more digits than any step has, leading zeros included: Python refuses to read thousands of them.
_DIGITS = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """A place in a run's history: up to and including ``step``."""

    id: str
    step: int

    @classmethod
    def parse(cls, field: str, text: object) -> HistoryPoint:
        """Read ``RUN?_step=K``.

        Raises:
            InvalidArgument: it is not of that form; ``field`` names it.
        """
        run_id, marker, digits = text.partition("?_step=") if isinstance(text, str) else ("", "", "")
        if not (run_id and marker and _DIGITS.fullmatch(digits)):
            raise InvalidArgument(
                f'{field}={text!r}: give "RUN?_step=K", keeping up to and including step K', field=field
            )
        canonical_id(run_id)
        return cls(run_id, check_step(int(digits)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A checked wish for a run; durations are seconds, None leaves a field of the record alone.

    ``id`` is the run to create where automatic keys (``auto``) or the group's own key (``shares_id``) choose the run;
    ``wait_s`` None means the default, which depends on who holds the run. ``member``: only join the group's holder;
    ``holds``: never join, since nobody else of the group can be it; neither: whoever comes first.
    """

    project: str
    id: str
    resume: str
    mode: str
    by_id: bool
    auto: bool
    shares_id: bool
    resume_step: int | None
    resume_from: HistoryPoint | None
    fork_from: HistoryPoint | None
    name: str | None
    notes: str | None
    tags: tuple[str, ...] | None
    config: Mapping[str, str]
    wait_s: float | None
    connect_timeout_s: float
    ttl_s: float | None
    on_lost: str | Callable[[LeaseLost], None]
    strict: bool
    auto_key: str | None
    group: str
    job_id: str
    member: bool
    holds: bool
    writer: str | None
    spool: str
    directory: Path


def resolve(
    environment: Environment,
    job: Job,
    *,
    project: str | None,
    id: str | None,
    resume: str | bool | None,
    resume_step: int | None,
    resume_from: str | None,
    fork_from: str | None,
    name: str | None,
    notes: str | None,
    tags: Sequence[str] | None,
    config: Mapping[str, Any] | None,
    wait: float | None,
    connect_timeout: float | None,
    ttl: float | None,
    on_lost: str | Callable[[LeaseLost], None],
    mode: str | None,
    strict: bool,
    auto_key: str | None,
    group: str | None,
    holder: bool | None,
    writer: str | None,
    spool: str | None = None,
) -> Request:
    """Resolve `init`'s arguments: argument, then `RUNLEASE_*`, then `WANDB_*`, then the default.

    Raises:
        InvalidArgument: a value is malformed or two contradict each other; the message says which.
    """
    if not (callable(on_lost) or on_lost in ("raise", "terminate")):
        raise InvalidArgument(f"on_lost={on_lost!r}: 'raise', 'terminate' or a callable", field="on_lost")
    given = {"fork_from": fork_from, "resume_from": resume_from, "resume": resume}
    named = [key for key, value in given.items() if value is not None]
    if len(named) > 1:
        raise InvalidArgument(f"{named[0]} goes without {named[1]}: give one of them", field=named[0])
    rewind = None if resume_from is None else HistoryPoint.parse("resume_from", resume_from)
    fork = None if fork_from is None else HistoryPoint.parse("fork_from", fork_from)
    if resume_step is not None and (rewind or fork):
        raise InvalidArgument(f"resume_step goes without {named[0]}, which names the step", field="resume_step")
    mode = _one_of("mode", MODES, mode if mode is not None else environment.mode or "online")
    spool = _one_of("spool", SPOOLS, spool if spool is not None else environment.spool or "overflow")
    if "offline" in mode and spool == "never":
        raise InvalidArgument(f'mode="{mode}" writes the spool: it goes without spool="never"', field="spool")
    group = _group(group, environment, job)
    run_id = id if id is not None else environment.run_id or None
    if rewind is not None:
        resume_mode, run_id, by_id = "must", _same(rewind.id, id, "resume_from"), False
    elif fork is not None:
        resume_mode, by_id = "never", False
    else:
        resume_mode, named_id, by_id = _resume(resume if resume is not None else environment.resume or "never", id)
        run_id = named_id if named_id is not None else run_id
    return Request(
        project=check_project(project if project is not None else environment.project or DEFAULT_PROJECT),
        id=_checked_id(run_id, resume_mode, bool(group), resume_given=resume is not None or bool(environment.resume)),
        resume=resume_mode,
        mode=mode,
        by_id=by_id,
        auto=resume_mode == "auto" and run_id is None,
        shares_id=bool(group) and run_id is None and resume_mode != "auto",
        resume_step=_resume_step(resume_step),
        resume_from=rewind,
        fork_from=fork,
        name=_text("name", name),
        notes=_text("notes", notes),
        tags=_tags(tags),
        config=_config({} if config is None else config),
        wait_s=None if wait is None else _seconds("wait", wait, 0.0),
        connect_timeout_s=_seconds("connect_timeout", connect_timeout, DEFAULT_CONNECT_TIMEOUT_S),
        ttl_s=_ttl(ttl),
        on_lost=on_lost,
        strict=strict,
        auto_key=_auto_key(auto_key if auto_key is not None else environment.auto_key or None),
        group=group,
        job_id=job.job_id,
        member=_member(holder, group, job),
        holds=bool(group) and (holder is True or (holder is None and job.rank == 0)),
        writer=None if writer is None else check_writer(writer),
        spool=spool,
        directory=Path(environment.directory or DEFAULT_DIRECTORY).absolute(),
    )


def _same(run_id: str, given_id: str | None, field: str) -> str:
    if given_id is not None and canonical_id(given_id) != canonical_id(run_id):
        raise InvalidArgument(f"{field} names run {run_id!r}, but id={given_id!r}: give one of them", field=field)
    return run_id


def _group(group: str | None, environment: Environment, job: Job) -> str:
    if group is not None and not isinstance(group, str):
        raise InvalidArgument(f"group is a string, not {type(group).__name__}", field="group")
    group = group if group is not None else environment.group or job.group
    if len(group) > MAX_GROUP or not group.isprintable():
        raise InvalidArgument(f"group is one line of at most {MAX_GROUP} characters", field="group")
    return group


def _member(holder: bool | None, group: str, job: Job) -> bool:
    if holder is not None and not isinstance(holder, bool):
        raise InvalidArgument(f"holder is True, False or not given, not {holder!r}", field="holder")
    if not group:
        if holder is False:
            raise InvalidArgument(
                "holder=False joins a group, and this process is in none: give group=, or start it by torchrun or srun",
                field="holder",
            )
        return False
    return not holder if holder is not None else job.rank not in (None, 0)


def _resume(resume: str | bool, given_id: str | None) -> tuple[str, str | None, bool]:
    """Return the mode, the ID, and whether ``resume`` itself named the run."""
    if resume is True:
        return "auto", given_id, False
    if resume is False:
        return "never", given_id, False
    if not isinstance(resume, str):
        raise InvalidArgument(f"resume is a mode or a run ID, not {type(resume).__name__}", field="resume")
    if resume in RESUME_MODES:
        return resume, given_id, False
    if given_id is not None and canonical_id(given_id) != canonical_id(resume):
        raise InvalidArgument(
            f"resume={resume!r} names another run than id={given_id!r}: give one of them, "
            f"or one of the modes {', '.join(RESUME_MODES)}",
            field="resume",
        )
    return "must", resume, True


def _checked_id(run_id: str | None, mode: str, grouped: bool, *, resume_given: bool) -> str:
    if run_id is not None:
        canonical_id(run_id)
        return run_id
    if mode == "must":
        raise InvalidArgument('resume="must" without an ID: give id=, or set RUNLEASE_RUN_ID', field="id")
    generated = generate_id()
    if mode == "allow" and resume_given and not grouped:
        log.warning(
            'runlease: resume="allow" without an ID starts a new run each time; '
            'to resume this one, give id=%r, or use resume="auto"',
            generated,
        )
    return generated


def _one_of(field: str, allowed: Sequence[str], value: str) -> str:
    if value not in allowed:
        raise InvalidArgument(f"{field}={value!r}: one of {', '.join(allowed)}", field=field)
    return value


def _auto_key(key: str | None) -> str | None:
    if key is not None and (not isinstance(key, str) or not key or len(key) > 256 or not key.isprintable()):
        raise InvalidArgument("auto_key is one line of 1..256 characters", field="auto_key")
    return key


def _text(field: str, value: str | None) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InvalidArgument(f"{field} is a string, not {type(value).__name__}", field=field)
    return value


def _resume_step(step: int | None) -> int | None:
    try:
        return None if step is None else check_step(step)
    except InvalidArgument as error:
        raise InvalidArgument(f"resume_step: {error}", field="resume_step") from None


def _tags(tags: Sequence[str] | None) -> tuple[str, ...] | None:
    if tags is None:
        return None
    several = isinstance(tags, Iterable) and not isinstance(tags, str | bytes | Mapping)
    listed = tuple(tags) if several else (None,)
    if not all(isinstance(tag, str) for tag in listed):
        raise InvalidArgument('tags is a list of strings: tags=["baseline"]', field="tags")
    return listed  # type: ignore[return-value]  # mypy does not follow `all`


def _config(config: Mapping[str, Any]) -> dict[str, str]:
    try:
        return dump_json(config)
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidArgument(f"config takes JSON values by key: {error}", field="config") from None


def _seconds(field: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise InvalidArgument(f"{field}={value!r}: give seconds, 0 or more", field=field)
    return float(value)


def _ttl(ttl: float | None) -> float | None:
    if ttl is None:
        return None
    seconds = _seconds("ttl", ttl, 0.0)
    if not MIN_TTL_S <= seconds <= 86_400:
        raise InvalidArgument(
            f"ttl={ttl!r}: at least {MIN_TTL_S:g} s and at most the coordinator's --max-ttl; a renewal every ttl/3 "
            "must survive a slow moment",
            field="ttl",
        )
    return seconds
