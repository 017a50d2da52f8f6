"""Folders of archived objects: whole or not at all, errors that name the place, and no credentials in them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import pytest
from runlease_coordinator.domain.metrics import LogPosition
from runlease_coordinator.history.objects import (
    ArchiveError,
    LocalObjects,
    MissingObject,
    Objects,
    RemoteObjects,
    open_objects,
    probe,
)
from runlease_coordinator.history.paths import part_path, segments_path
from runlease_coordinator.settings import StartupError

SECRET = "s3cret/with@odd"


@pytest.fixture(params=["path", "file", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    folder = tmp_path / "deep" / "archive"
    url = {"path": str(folder), "file": folder.as_uri(), "memory": f"memory://{tmp_path.name}"}[request.param]
    return open_objects(url)


def content(objects: Objects, path: str) -> bytes:
    with closing(objects.open(path)) as file:
        found: bytes = file.read()
    return found


def test_objects_come_back_and_go(objects: Objects) -> None:
    objects.put("p/r/parts/a", memoryview(b"first"))
    objects.put("p/r/parts/a", memoryview(b"second"))
    assert content(objects, "p/r/parts/a") == b"second"
    objects.remove("p/r/parts/a")
    objects.remove("p/r/parts/a")
    with pytest.raises(MissingObject, match="p/r/parts/a"):
        objects.open("p/r/parts/a")
    probe(objects)


def test_a_local_folder_keeps_nothing_of_what_is_gone(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path / "archive")
    objects.put("p/r/parts/a", memoryview(b"x"))
    objects.put("p/r/segments.parquet", memoryview(b"x"))
    objects.remove("p/r/parts/a")
    assert not (tmp_path / "archive/p/r/parts").exists()
    objects.remove("p/r/segments.parquet")
    assert list((tmp_path / "archive").iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def is_full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    objects = LocalObjects(tmp_path)
    objects.put("a", memoryview(b"old"))
    monkeypatch.setattr(os, call, is_full)
    with pytest.raises(ArchiveError, match=rf"{tmp_path}/a: No space left"):
        objects.put("a", memoryview(b"new"))
    assert content(objects, "a") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_a_driver_says_is_told_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = open_objects(f"memory://user:{SECRET}@host/folder")
    assert isinstance(objects, RemoteObjects)
    assert objects.url == "memory://user:***@host/folder"

    def fail(error: Exception) -> Callable[..., Any]:
        def call(*args: object, **kwargs: object) -> None:
            raise error

        return call

    said = f"cannot reach memory://user:{SECRET}@host/folder with user:{SECRET}"
    for error, refused in ((RuntimeError(said), False), (PermissionError(said), True)):
        monkeypatch.setattr(objects._files, "pipe_file", fail(error), raising=False)
        with pytest.raises(ArchiveError, match="cannot reach") as raised:
            objects.put("a", memoryview(b""))
        assert raised.value.refused is refused
        assert SECRET not in str(raised.value)
        assert raised.value.__cause__ is None
    monkeypatch.setattr(fsspec.core, "url_to_fs", fail(ValueError(said)))
    with pytest.raises(StartupError, match="--history-url") as refusal:
        open_objects(f"memory://user:{SECRET}@host/folder")
    assert SECRET not in str(refusal.value)


def test_paths_are_safe_where_case_is_not_told_apart() -> None:
    at = (LogPosition(0, 0), LogPosition(17, 3))
    assert part_path("p", "run-1", *at, 99) == "p/run-1/parts/part-0-0-17-3-99.parquet"
    names = {segments_path(project, run) for project in ("p", "P") for run in ("run", "Run", "rUN")}
    assert len({name.lower() for name in names}) == 6
    assert all(name == name.lower() for name in names)
