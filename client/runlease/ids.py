"""Identity of runs: what a project, a run ID and a writer may be called.

The same rules hold on both sides of the wire: the SDK checks before it calls, the coordinator checks again.
"""

from __future__ import annotations

import re
import secrets

from runlease.exceptions import InvalidArgument, InvalidRunId

MAX_ID_LENGTH = 64
DEFAULT_PROJECT = "default"
#: The holder's own writer; default views of a history show it.
MAIN_WRITER = "main"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_NOT_CANONICAL = re.compile(r"[^A-Za-z0-9]", re.ASCII)
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


def canonical_id(run_id: object) -> str:
    """Return the canonical form of a run ID: every character outside ``[A-Za-z0-9]`` becomes ``-``.

    Raises:
        InvalidRunId: not a string, empty, or longer than 64 characters.
    """
    if not isinstance(run_id, str):
        raise InvalidRunId(f"a run ID is a string, not {type(run_id).__name__}", field="run.id")
    if not run_id:
        raise InvalidRunId("a run ID is 1..64 characters, this one is empty", field="run.id")
    if len(run_id) > MAX_ID_LENGTH:
        shown = run_id[:24]
        raise InvalidRunId(
            f"a run ID is 1..{MAX_ID_LENGTH} characters, {shown!r}... has {len(run_id)}: shorten it", field="run.id"
        )
    return _NOT_CANONICAL.sub("-", run_id)


def check_project(project: object) -> str:
    """Return the project if it is ``[A-Za-z0-9][A-Za-z0-9._-]*`` of 1..128 characters.

    Raises:
        InvalidArgument: otherwise.
    """
    return _check_name(project, "run.project", "project", 128)


def check_writer(writer: object) -> str:
    """Return the writer's name if it is ``[A-Za-z0-9][A-Za-z0-9._-]*`` of 1..64 characters.

    Raises:
        InvalidArgument: otherwise.
    """
    return _check_name(writer, "writer", "writer", 64)


def parse_run(path: str) -> tuple[str, str]:
    """Split ``PROJECT/RUN`` (or ``RUN``, of the default project) and check both parts.

    Raises:
        InvalidArgument: a part is not a valid name.
    """
    project, slash, run_id = path.partition("/")
    if not slash:
        project, run_id = DEFAULT_PROJECT, path
    check_project(project)
    canonical_id(run_id)
    return project, run_id


def generate_id() -> str:
    """Return a new run ID: 8 characters of base 36 from the operating system's randomness.

    Safe after a fork and independent of ``random.seed``.
    """
    return "".join(secrets.choice(_BASE36) for _ in range(8))


def _check_name(name: object, field: str, noun: str, longest: int) -> str:
    if not isinstance(name, str):
        raise InvalidArgument(f"a {noun} is a string, not {type(name).__name__}", field=field)
    if len(name) > longest:
        raise InvalidArgument(f"a {noun} is at most {longest} characters, this one has {len(name)}", field=field)
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"{name!r} is no {noun}: use letters, digits and `.`, `_`, `-`, a letter or digit first", field=field
        )
    return name
