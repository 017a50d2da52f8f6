"""The directory's resume file: what it remembers, and that nothing wrong with it ever reaches a training."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runlease import resumefile
from runlease.resumefile import ResumeFile, generate_key

KEY = "file:" + "0123456789abcdef" * 2
OTHER = "file:" + "f" * 32


@pytest.fixture
def obeyed(tmp_path: Path) -> None:
    """Skip where modes stop nobody, as for root."""
    probe = tmp_path / "probe"
    probe.touch(mode=0)
    if os.access(probe, os.R_OK):
        pytest.skip("root reads and writes anywhere")
    probe.unlink()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, logger="runlease")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / ".runlease" / "resume.json"
    path.parent.mkdir()
    return path


def entry(project: str = "p", script: str = "train.py", array_index: str = "", key: object = KEY) -> dict[str, object]:
    return {"project": project, "script": script, "array_index": array_index, "key": key, "run": "r1"}


def test_keys_are_new_each_time() -> None:
    keys = {generate_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(resumefile._KEY.fullmatch(key) for key in keys)


def test_nothing_is_made_by_asking(tmp_path: Path, warnings: Callable[[], list[str]]) -> None:
    assert ResumeFile(tmp_path).key("p", "train.py", "") is None
    assert ResumeFile(tmp_path / "missing").key("p", "train.py", "") is None
    assert list(tmp_path.iterdir()) == []
    assert warnings() == []


def test_remembered_by_project_script_and_array_index(tmp_path: Path, warnings: Callable[[], list[str]]) -> None:
    places = [("p", "a.py", ""), ("q", "a.py", ""), ("p", "b.py", ""), ("p", "a.py", "1"), ("p", "a.py", "2")]
    keys = {place: generate_key() for place in places}
    for place in places:
        assert ResumeFile(tmp_path).remember(*place, keys[place], "r")
    assert {place: ResumeFile(tmp_path).key(*place) for place in places} == keys
    assert ResumeFile(tmp_path).key("p", "c.py", "") is None
    assert warnings() == []


def test_a_new_run_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    file = ResumeFile(tmp_path)
    assert file.remember("p", "train.py", "", KEY, "r1")
    assert file.remember("p", "train.py", "", OTHER, "r2")
    assert file.key("p", "train.py", "") == OTHER
    assert [run["run"] for run in json.loads(file.path.read_text())["runs"]] == ["r2"]


def test_made_for_people_and_kept_out_of_repositories(tmp_path: Path) -> None:
    file = ResumeFile(tmp_path)
    assert file.remember("p", "train.py", "", KEY, "r1")
    assert file.path == tmp_path / ".runlease" / "resume.json"
    content = json.loads(file.path.read_text())
    assert content["runs"] == [entry()]
    assert "Delete it to start anew" in content["about"]
    assert (tmp_path / ".runlease" / ".gitignore").read_text() == "*\n"
    assert not list(file.path.parent.glob("*.tmp"))


def test_the_umask_says_who_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert ResumeFile(tmp_path).remember("p", "train.py", "", KEY, "r1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / ".runlease" / "resume.json").stat().st_mode) == 0o640


def test_the_same_again_writes_nothing(tmp_path: Path) -> None:
    assert ResumeFile(tmp_path).remember("p", "train.py", "", KEY, "r1")
    before = (tmp_path / ".runlease" / "resume.json").stat()
    assert ResumeFile(tmp_path).remember("p", "train.py", "", KEY, "r1")
    after = (tmp_path / ".runlease" / "resume.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


WHOLE = json.dumps({"runs": [entry()]}, indent=1).encode()
DAMAGED = {
    "empty": b"",
    "half-written": WHOLE[: len(WHOLE) // 2],
    "not JSON": b"run: r1\n",
    "not UTF-8": b"\xff\xfe\x00",
    "zeros after a power cut": b"\0" * 200,
    "too deep": b"[" * 100_000,
    "a number of many digits": b"1" * 10_000,
    "null": b"null",
    "a list": b"[]",
    "a text": b'"runs"',
    "no runs": b"{}",
    "runs are no list": b'{"runs": {"p": "file:00"}}',
    "runs are a number": b'{"runs": 7}',
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_said_once_ignored_and_mended(
    content: bytes, path: Path, warnings: Callable[[], list[str]]
) -> None:
    path.write_bytes(content)
    file = ResumeFile(path.parent.parent)
    assert file.key("p", "train.py", "") is None
    assert file.key("p", "train.py", "") is None
    assert file.remember("p", "train.py", "", OTHER, "r2")
    assert len(warnings()) == 1
    assert f"{path} is damaged and is ignored" in warnings()[0]
    assert file.key("p", "train.py", "") == OTHER


WRONG_ENTRIES = [
    None,
    7,
    "p",
    [],
    {},
    entry(key=None),
    entry(key=7),
    entry(key=""),
    entry(key="key:mine"),
    entry(key="file:xyz"),
    entry(key="file:" + "0" * 65),
    entry(key=KEY + "\n"),
    entry() | {"project": 7},
    entry() | {"array_index": None},
    {"script": "train.py", "key": KEY},
]


@pytest.mark.parametrize("wrong", WRONG_ENTRIES, ids=repr)
def test_a_damaged_entry_is_ignored_beside_the_others(
    wrong: object, path: Path, warnings: Callable[[], list[str]]
) -> None:
    path.write_text(json.dumps({"runs": [wrong, entry("q", key=OTHER)]}))
    file = ResumeFile(path.parent.parent)
    assert file.key("p", "train.py", "") is None
    assert file.key("q", "train.py", "") == OTHER
    assert len(warnings()) == 1
    assert "1 of 2 entries are damaged" in warnings()[0]


def test_what_other_versions_add_is_kept(path: Path) -> None:
    other = entry("q", key=OTHER) | {"since": "2031"}
    path.write_text(json.dumps({"runs": [other], "version": 9}))
    assert ResumeFile(path.parent.parent).remember("p", "train.py", "", KEY, "r1")
    assert other in json.loads(path.read_text())["runs"]


def test_a_file_that_is_too_large_is_not_read(
    path: Path, warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumefile, "_MAX_BYTES", len(WHOLE) - 1)
    path.write_bytes(WHOLE)
    assert ResumeFile(path.parent.parent).key("p", "train.py", "") is None
    assert "is ignored" in warnings()[0]


def test_the_oldest_entries_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumefile, "MAX_ENTRIES", 3)
    for index in "0123":
        assert ResumeFile(tmp_path).remember("p", "train.py", index, KEY, "r")
    assert ResumeFile(tmp_path).remember("p", "train.py", "1", OTHER, "r")
    assert ResumeFile(tmp_path).remember("p", "train.py", "4", KEY, "r")
    known = [index for index in "01234" if ResumeFile(tmp_path).key("p", "train.py", index)]
    assert known == ["1", "3", "4"]


def _directory(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [_directory, _pipe, _loop])
def test_something_else_in_the_files_place(
    make: Callable[[Path], None], path: Path, warnings: Callable[[], list[str]]
) -> None:
    make(path)
    file = ResumeFile(path.parent.parent)
    assert file.key("p", "train.py", "") is None
    assert not file.remember("p", "train.py", "", KEY, "r1")
    assert len(warnings()) == 1
    assert str(path) in warnings()[0]


def test_a_file_in_the_folders_place(tmp_path: Path, warnings: Callable[[], list[str]]) -> None:
    (tmp_path / ".runlease").write_text("mine")
    file = ResumeFile(tmp_path)
    assert file.key("p", "train.py", "") is None
    assert warnings() == []
    assert not file.remember("p", "train.py", "", KEY, "r1")
    assert len(warnings()) == 1
    assert "auto_key=" in warnings()[0]
    assert (tmp_path / ".runlease").read_text() == "mine"


@pytest.mark.parametrize("code", [13, 28, 30], ids=["EACCES", "ENOSPC", "EROFS"])
@pytest.mark.parametrize("call", ["mkdir", "fsync", "replace"])
def test_a_directory_that_cannot_be_written(
    code: int,
    call: str,
    tmp_path: Path,
    warnings: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ResumeFile(tmp_path).remember("p", "train.py", "", KEY, "r1")

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    # Given a directory that was writable when the run started; the tests may run as root, whom no mode stops.
    with monkeypatch.context() as patch:
        patch.setattr(Path if call == "mkdir" else os, call, refuse)
        file = ResumeFile(tmp_path)
        assert file.key("p", "train.py", "") == KEY
        assert file.remember("p", "train.py", "", KEY, "r1"), "that is there already"
        assert warnings() == []
        assert not file.remember("p", "train.py", "", OTHER, "r2")
        assert not file.remember("p", "train.py", "", OTHER, "r2")
    assert len(warnings()) == 1
    assert os.strerror(code) in warnings()[0]
    assert file.key("p", "train.py", "") == KEY, "the file is as it was"
    assert not list(file.path.parent.glob("*.tmp"))


@pytest.mark.usefixtures("obeyed")
def test_a_directory_of_somebody_else(tmp_path: Path, warnings: Callable[[], list[str]]) -> None:
    tmp_path.chmod(0o500)
    try:
        assert not ResumeFile(tmp_path).remember("p", "train.py", "", KEY, "r1")
    finally:
        tmp_path.chmod(0o700)
    assert len(warnings()) == 1


@pytest.mark.usefixtures("obeyed")
def test_a_file_of_somebody_else(path: Path, warnings: Callable[[], list[str]]) -> None:
    path.write_bytes(WHOLE)
    path.chmod(0)
    file = ResumeFile(path.parent.parent)
    assert file.key("p", "train.py", "") is None
    assert not file.remember("p", "train.py", "", KEY, "r1"), "it is not overwritten"
    path.chmod(0o600)
    assert path.read_bytes() == WHOLE


TEXTS = st.one_of(st.text(max_size=20), st.binary(max_size=20).map(lambda raw: raw.decode("utf-8", "surrogateescape")))


@settings(max_examples=50, deadline=None)  # each example waits for the disk
@given(project=TEXTS, script=TEXTS, array_index=TEXTS, run_id=TEXTS)
def test_any_text_comes_back(project: str, script: str, array_index: str, run_id: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        assert ResumeFile(Path(directory)).remember(project, script, array_index, KEY, run_id)
        assert ResumeFile(Path(directory)).key(project, script, array_index) == KEY


@settings(deadline=None)
@given(st.recursive(st.none() | st.integers() | TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)))
def test_any_json_is_read_without_an_error(content: object) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = ResumeFile(Path(directory))
        file.path.parent.mkdir()
        for text in (json.dumps(content), json.dumps({"runs": content}), json.dumps({"runs": [content]})):
            file.path.write_text(text)
            assert file.key("p", "train.py", "") is None


# --- several at once ---

_REMEMBER_MANY = """
import sys
from pathlib import Path
from runlease.resumefile import ResumeFile, generate_key
file = ResumeFile(Path(sys.argv[1]))
sys.stdin.readline()
for index in range(20):
    assert file.remember(sys.argv[2], "train.py", str(index), generate_key(), "r")
"""


def test_processes_of_one_directory_keep_each_others_entries(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _REMEMBER_MANY, str(tmp_path), f"project-{number}"], env=env, stdin=subprocess.PIPE
        )
        for number in range(4)
    ]
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.close()
        assert [process.wait() for process in processes] == [0, 0, 0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    file = ResumeFile(tmp_path)
    assert all(file.key(f"project-{number}", "train.py", str(index)) for number in range(4) for index in range(20))
    assert not list(file.path.parent.glob("*.tmp"))


def test_threads_keep_each_others_entries_and_readers_never_see_half_a_file(
    tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    assert ResumeFile(tmp_path).remember("p", "always.py", "", KEY, "r")
    done = threading.Event()
    missing = 0

    def read() -> None:
        nonlocal missing
        while not done.is_set():
            missing += ResumeFile(tmp_path).key("p", "always.py", "") != KEY

    def write(number: int) -> None:
        for index in range(20):
            ResumeFile(tmp_path).remember(f"p{number}", "train.py", str(index), generate_key(), "r")

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    file = ResumeFile(tmp_path)
    assert all(file.key(f"p{number}", "train.py", str(index)) for number in range(4) for index in range(20))
    assert missing == 0
    assert warnings() == []


@pytest.fixture
def lock(path: Path) -> Iterator[int]:
    """The lock of a process that is stopped in the middle of writing."""
    descriptor = os.open(path.parent / "resume.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield descriptor
    os.close(descriptor)


def test_a_lock_that_never_comes_free_does_not_stop_a_training(lock: int, tmp_path: Path) -> None:
    file = ResumeFile(tmp_path, lock_wait_s=0.1)
    assert file.remember("p", "train.py", "", KEY, "r1")
    assert file.key("p", "train.py", "") == KEY


def test_a_lock_is_waited_for(lock: int, tmp_path: Path) -> None:
    file = ResumeFile(tmp_path, lock_wait_s=60)
    thread = threading.Thread(target=file.remember, args=("p", "train.py", "", KEY, "r1"))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    assert file.key("p", "train.py", "") is None
    fcntl.flock(lock, fcntl.LOCK_UN)
    thread.join()
    assert file.key("p", "train.py", "") == KEY


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert ResumeFile(tmp_path).remember("p", "train.py", "", KEY, "r1")
    monkeypatch.setattr(resumefile, "fcntl", None)
    assert ResumeFile(tmp_path).remember("p", "train.py", "", OTHER, "r2")
    assert ResumeFile(tmp_path).key("p", "train.py", "") == OTHER
