"""Checks the fields of requests; what is wrong is named by its path in the request."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from runlease.exceptions import InvalidArgument
from runlease.ids import canonical_id, check_project, check_writer
from runlease.v1 import leases_pb2, runs_pb2

from runlease_coordinator.domain.errors import InvalidField
from runlease_coordinator.domain.metrics import MAX_STEP

MAX_NAME = 256
MAX_NOTES = 65_536
MAX_TAGS = 64
MAX_TAG = 64
#: All keys and values of one config, summary or metadata together.
MAX_JSON_BYTES = 1 << 20
MAX_JSON_KEYS = 4096
MAX_JSON_KEY = 256
MAX_URI = 4096
MAX_FENCE = 2**53 - 1
MAX_WAIT_MS = 20_000
MAX_AUTO_KEYS = 8
MAX_AUTO_KEY = 512

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class RunName(NamedTuple):
    """A checked reference to a run."""

    project: str
    id: str
    canonical_id: str


def run_name(ref: runs_pb2.RunRef, path: str = "run") -> RunName:
    """Check a reference to a run."""
    try:
        return RunName(check_project(ref.project), ref.id, canonical_id(ref.id))
    except InvalidArgument as error:
        field = path + error.field.removeprefix("run")
        raise InvalidField(field, str(error)) from None


def run_in(project: str, run_id: str, path: str) -> RunName:
    """Check the ID of another run of a (checked) project."""
    try:
        return RunName(project, run_id, canonical_id(run_id))
    except InvalidArgument as error:
        raise InvalidField(path, str(error)) from None


def project_name(project: str, path: str) -> str:
    """Check a project's name."""
    try:
        return check_project(project)
    except InvalidArgument as error:
        raise InvalidField(path, str(error)) from None


def writer_name(writer: str, path: str) -> str:
    """Check a writer's name."""
    try:
        return check_writer(writer)
    except InvalidArgument as error:
        raise InvalidField(path, str(error)) from None


def history_point(point: leases_pb2.HistoryPoint, project: str, path: str) -> RunName:
    """Check a point in a run's history; returns the run that it names."""
    name = run_name(runs_pb2.RunRef(project=project, id=point.id), path)
    step(point.step, f"{path}.step")
    return name


def wait_us(wait_ms: int) -> int:
    """Check how long a call may wait; returns microseconds."""
    if wait_ms > MAX_WAIT_MS:
        raise InvalidField("wait_ms", f"at most {MAX_WAIT_MS}, not {wait_ms}: call again for more")
    return wait_ms * 1000


def auto_keys(keys: Sequence[str]) -> list[str]:
    """Check a job's automatic keys."""
    if len(keys) > MAX_AUTO_KEYS:
        raise InvalidField("auto_keys", f"at most {MAX_AUTO_KEYS}, not {len(keys)}")
    for index, key in enumerate(keys):
        if not key:
            raise InvalidField(f"auto_keys[{index}]", "empty")
        line(key, f"auto_keys[{index}]", MAX_AUTO_KEY)
    return list(dict.fromkeys(keys))


def fence(value: int, path: str = "fence") -> int:
    """Check a fence that the caller names."""
    if not 0 < value <= MAX_FENCE:
        raise InvalidField(path, f"a fence is 1..2^53-1, not {value}: give the fence of your grant")
    return value


def step(value: int, path: str) -> int:
    """Check a step."""
    if not 0 <= value <= MAX_STEP:
        raise InvalidField(path, f"a step is 0..2^53-2, not {value}")
    return value


def token(value: str, path: str) -> str:
    """Check a nonce or session: 1..64 letters, digits, `_`, `-`."""
    if not _TOKEN.fullmatch(value):
        raise InvalidField(path, "1..64 characters of A-Z, a-z, 0-9, `_`, `-`")
    return value


def line(value: str, path: str, longest: int = MAX_NAME) -> str:
    """Check one line of text."""
    if len(value) > longest:
        raise InvalidField(path, f"at most {longest} characters, not {len(value)}")
    if _CONTROL.search(value):
        raise InvalidField(path, "no control characters")
    return value


def short_line(value: str, path: str, most_bytes: int) -> str:
    """Check one line of text that must stay short in bytes."""
    if len(value.encode()) > most_bytes:
        raise InvalidField(path, f"at most {most_bytes} bytes of UTF-8, not {len(value.encode())}")
    return line(value, path)


def notes(value: str, path: str = "notes") -> str:
    """Check free text."""
    if len(value) > MAX_NOTES:
        raise InvalidField(path, f"at most {MAX_NOTES} characters, not {len(value)}")
    return value


def tags(values: Iterable[str], path: str = "tags.tags") -> list[str]:
    """Check tags; returns them without repetitions, in their order."""
    unique = list(dict.fromkeys(values))
    if len(unique) > MAX_TAGS:
        raise InvalidField(path, f"at most {MAX_TAGS} tags, not {len(unique)}")
    return [line(tag, f"{path}[{i}]", MAX_TAG) for i, tag in enumerate(unique)]


def json_map(values: Mapping[str, str], path: str) -> dict[str, str]:
    """Check a mapping of top-level keys to JSON texts."""
    if len(values) > MAX_JSON_KEYS:
        raise InvalidField(path, f"at most {MAX_JSON_KEYS} keys, not {len(values)}")
    size = 0
    for key, text in values.items():
        if not key or len(key) > MAX_JSON_KEY:
            raise InvalidField(path, f"a key is 1..{MAX_JSON_KEY} characters, {key[:24]!r} has {len(key)}")
        size += len(key) + len(text)
        _check_json(text, f"{path}[{key!r}]")
    if size > MAX_JSON_BYTES:
        raise InvalidField(path, f"at most {MAX_JSON_BYTES} characters in all, not {size}")
    return dict(values)


def _check_json(text: str, path: str) -> None:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidField(path, f"not JSON: {error}") from None
    if "\n" in text or "\r" in text:  # line ends separate the values of a recorded change
        raise InvalidField(path, "JSON on one line, please")
