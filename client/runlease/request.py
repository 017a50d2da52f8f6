"""What `init` was asked for: arguments, environment and defaults resolved into one request, without any call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runlease.exceptions import InvalidArgument, LeaseLost
from runlease.ids import DEFAULT_PROJECT, canonical_id, check_project, generate_id
from runlease.records import dump_json
from runlease.settings import MODES, Environment
from runlease.values import check_step

log = logging.getLogger("runlease")

RESUME_MODES = ("never", "allow", "must", "auto")
MIN_TTL_S = 5.0
DEFAULT_TTL_S = 30.0
#: How long `init` tries to reach a coordinator that is away, in seconds.
DEFAULT_CONNECT_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A checked wish for a run; durations are seconds, None leaves a field of the record alone."""

    project: str
    id: str
    resume: str
    mode: str
    by_id: bool
    resume_step: int | None
    name: str | None
    notes: str | None
    tags: tuple[str, ...] | None
    config: Mapping[str, str]
    wait_s: float
    connect_timeout_s: float
    ttl_s: float | None
    on_lost: str | Callable[[LeaseLost], None]
    strict: bool


def resolve(
    environment: Environment,
    *,
    project: str | None,
    id: str | None,
    resume: str | bool | None,
    resume_step: int | None,
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
) -> Request:
    """Resolve `init`'s arguments: argument, then `RUNLEASE_*`, then `WANDB_*`, then the default.

    Raises:
        InvalidArgument: a value is malformed or two contradict each other; the message says which.
    """
    if not (callable(on_lost) or on_lost in ("raise", "terminate")):
        raise InvalidArgument(f"on_lost={on_lost!r}: 'raise', 'terminate' or a callable", field="on_lost")
    mode_, run_id, by_id = _resume(resume if resume is not None else environment.resume or "never", id)
    if run_id is None:
        run_id = environment.run_id or None
    return Request(
        project=check_project(project if project is not None else environment.project or DEFAULT_PROJECT),
        id=_checked_id(run_id, mode_, resume_given=resume is not None or bool(environment.resume)),
        resume=mode_,
        mode=_mode(mode if mode is not None else environment.mode or "online"),
        by_id=by_id,
        resume_step=_resume_step(resume_step),
        name=_text("name", name),
        notes=_text("notes", notes),
        tags=_tags(tags),
        config=_config({} if config is None else config),
        wait_s=_seconds("wait", wait, 0.0),
        connect_timeout_s=_seconds("connect_timeout", connect_timeout, DEFAULT_CONNECT_TIMEOUT_S),
        ttl_s=_ttl(ttl),
        on_lost=on_lost,
        strict=strict,
    )


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


def _checked_id(run_id: str | None, mode: str, *, resume_given: bool) -> str:
    if run_id is not None:  # an empty argument is an error: it is a variable that somebody forgot to set
        canonical_id(run_id)
        return run_id
    if mode == "must":
        raise InvalidArgument('resume="must" without an ID: give id=, or set RUNLEASE_RUN_ID', field="id")
    if mode == "auto":
        raise InvalidArgument(
            'resume="auto" without an ID is not supported by this version: give id=, or set RUNLEASE_RUN_ID', field="id"
        )
    generated = generate_id()
    if mode == "allow" and resume_given:
        log.warning(
            'runlease: resume="allow" without an ID starts a new run each time; to resume this one, give id=%r',
            generated,
        )
    return generated


def _mode(mode: str) -> str:
    if mode not in MODES:
        raise InvalidArgument(f"mode={mode!r}: one of {', '.join(MODES)}", field="mode")
    return mode


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
