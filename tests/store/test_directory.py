"""Where the socket goes, who may enter there, and what is kept about a process."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from runlease_coordinator.settings import MAX_SOCKET_PATH_BYTES, StartupError
from runlease_coordinator.store.directory import (
    FileLock,
    ServerRecord,
    lock_data_dir,
    make_private,
    prepare_socket_dir,
    process_started,
    remove_socket_dir,
    socket_path,
)
from runlease_coordinator.store.embedded import EmbeddedStore


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A directory with a path that is short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="rl-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def test_without_a_runtime_directory_the_socket_goes_to_the_temporary_one(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime / "absent"))
    monkeypatch.setattr(tempfile, "tempdir", str(runtime))
    assert EmbeddedStore(tmp_path).url.startswith(f"unix://{runtime}/runlease-{os.geteuid()}/")


def test_a_runtime_directory_is_closed_to_others_or_refused(runtime: Path) -> None:
    own = runtime / "own"
    own.mkdir()
    own.chmod(0o755)
    make_private(own)
    assert stat.S_IMODE(own.stat().st_mode) == 0o700

    foreign = runtime / "foreign"
    if os.geteuid() == 0:
        foreign.mkdir()
        os.chown(foreign, 12345, -1)
    else:
        foreign = Path("/usr")  # root's
    link = runtime / "link"
    link.symlink_to(own)
    file = runtime / "file"
    file.touch()
    for path, problem in ((foreign, "belongs to user"), (link, "not a directory"), (file, "not a directory")):
        with pytest.raises(StartupError, match=f"{problem}.*XDG_RUNTIME_DIR"):
            make_private(path)


def test_a_record_knows_its_process_from_another_of_the_same_number(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    with subprocess.Popen(["sleep", "60"]) as process:
        started = process_started(process.pid)
        assert started
        ServerRecord(process.pid, started, "/s").write(path)
        record = ServerRecord.read(path)
        assert record == ServerRecord(process.pid, started, "/s")
        assert record.is_running()
        assert not ServerRecord(process.pid, "another time", "/s").is_running()
        process.kill()
    assert not record.is_running()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"pid": "x", "started": "1", "socket": ""}',
        '{"pid": 1, "started": "1", "socket": "s"}',
    ],
)
def test_a_record_that_cannot_be_trusted_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "store.json"
    assert ServerRecord.read(path) is None
    path.write_text(text)
    assert ServerRecord.read(path) is None


def test_a_lock_lives_as_long_as_any_copy_of_its_descriptor(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.try_acquire()
    with subprocess.Popen(["sleep", "60"], pass_fds=(first.fd,)) as heir:
        first.close()
        assert not second.try_acquire()
        heir.kill()
    assert second.try_acquire()
    second.close()


def test_a_data_directory_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    cases = {file: "it is not a directory", file / "below": "it is not a directory"}
    if sys.platform == "linux":
        cases[Path("/proc/runlease")] = ""  # not even root can write there
    for path, problem in cases.items():
        with pytest.raises(StartupError, match=f"cannot use data directory {path}: {problem}.*--data-dir"):
            lock_data_dir(path)


def test_a_socket_path_that_is_too_long_is_refused(runtime: Path) -> None:
    deep = runtime / ("x" * MAX_SOCKET_PATH_BYTES)
    deep.mkdir()
    socket = socket_path(runtime, {"XDG_RUNTIME_DIR": str(deep)})
    assert deep in socket.parents
    with pytest.raises(StartupError, match=r"bytes, the system takes .*set XDG_RUNTIME_DIR or TMPDIR"):
        prepare_socket_dir(socket)
    assert not any(deep.iterdir())


def test_stores_that_come_and_go_share_a_directory_and_leave_none(runtime: Path) -> None:
    # Given several stores of one user that make and remove their directories at the same time
    sockets = [runtime / "runlease" / str(number) / "store.sock" for number in range(4)]

    def come_and_go(socket: Path) -> None:
        for _ in range(200):
            prepare_socket_dir(socket)
            assert socket.parent.is_dir()
            remove_socket_dir(socket)

    with ThreadPoolExecutor(len(sockets)) as pool:
        list(pool.map(come_and_go, sockets))
    # then none takes another's away, and the last one takes the shared one along.
    assert not any(runtime.iterdir())


def test_a_directory_that_another_store_uses_stays(runtime: Path) -> None:
    ours, theirs = (runtime / "runlease" / name / "store.sock" for name in ("ours", "theirs"))
    prepare_socket_dir(ours)
    prepare_socket_dir(theirs)
    remove_socket_dir(ours)
    assert theirs.parent.is_dir()
    assert not ours.parent.exists()
