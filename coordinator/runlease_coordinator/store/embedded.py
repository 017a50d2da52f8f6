"""The embedded store: a real Valkey (or Redis) server, run by one coordinator on one data directory.

Guarantees:

- A write that the server answered is on disk (`appendfsync always`): SIGKILL of the server, of the
  coordinator or of both loses none of them.
- Never two coordinators, never two servers on one directory, by locks of the kernel. A server that
  outlived its coordinator is ended before the next one starts.
- Only the user who runs the coordinator can reach the server: a Unix socket in a directory of mode 0700.

Not guaranteed: anything once the disk lies about `fsync`; locks on a network file system that ignores
them; the store while the server is away, which is the time that a restart takes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from runlease_coordinator.settings import StartupError
from runlease_coordinator.store.directory import (
    FileLock,
    ServerRecord,
    lock_data_dir,
    prepare_socket_dir,
    process_started,
    remove_socket_dir,
    socket_path,
)
from runlease_coordinator.store.server_binary import ServerBinary, data_remedy, find_server, server_config

#: Silence of a starting server that ends the wait; one that says LOADING may take any time.
ANSWER_TIMEOUT_S = 30.0
#: A long load is logged this often.
PROGRESS_EVERY_S = 5.0
#: Time for SHUTDOWN, and again for the lock to come free, before harder means; nothing is lost by them.
SHUTDOWN_GRACE_S = 3.0
#: Time for SIGTERM to work; the server looks for it ten times a second.
TERM_GRACE_S = 2.0
#: Pauses before a dead server is started again: the first, doubled up to the last.
FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 2.0
#: A server that lived this long starts the row of pauses anew.
STEADY_S = 10.0
#: The server's log is put aside (one generation) when it is larger at a start.
MAX_LOG_BYTES = 8 << 20


def running_url(data_dir: Path) -> str:
    """Return the URL of the server that runs on a data directory.

    Raises:
        StartupError: none does.
    """
    record = ServerRecord.read(data_dir.expanduser().resolve() / "store.json")
    if record is None or not record.is_running():
        raise StartupError(
            f"no embedded store runs in {data_dir}: start it with `runlease serve`, or give --data-dir its directory"
        )
    return f"unix://{quote(record.socket)}"


class EmbeddedStore:
    """One server process under one data directory; see the module for what holds and what does not.

    Call `start`, then keep `watch` running in a task, and `stop` at the end. Not thread-safe: all calls
    belong to one event loop.
    """

    def __init__(self, data_dir: Path, server_binary: str | None = None, *, log: logging.Logger | None = None) -> None:
        """Name the directory; nothing is touched before `start`.

        Args:
            data_dir: Directory of the data; created by `start` where needed.
            server_binary: Path or name on PATH of the server program; None searches for one.
            log: Where restarts and warnings go.
        """
        self.data_dir = data_dir.expanduser().resolve()
        self.server: ServerBinary | None = None
        self._wanted = server_binary
        self._log = log or logging.getLogger(__name__)
        self._socket = socket_path(self.data_dir, os.environ)
        self._log_file = self.data_dir / "store.log"
        self._record_file = self.data_dir / "store.json"
        self._held: FileLock | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._exit: asyncio.Task[int] | None = None
        self._ready_at = 0.0

    @property
    def url(self) -> str:
        """The store's URL, as in `unix:///run/user/1000/runlease/0a1b2c3d4e5f/store.sock`."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        """Process ID of the living server, else None."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Lock the directory, end a server that was left behind, start one and wait until it answers.

        Loading many data takes its time and is waited for. When this raises or is cancelled, no process
        and no lock is left.

        Raises:
            StartupError: The store cannot run here; the message holds the remedy.
            RuntimeError: It runs already.
        """
        if self._held is not None:
            raise RuntimeError("this store was started before: call stop() first")
        self._stopping = asyncio.Event()
        self._changing = asyncio.Lock()  # start, restart and stop of the process exclude each other
        self._held = lock_data_dir(self.data_dir)
        try:
            self.server = await asyncio.to_thread(find_server, self._wanted)
            prepare_socket_dir(self._socket)
            await self._launch()
        except BaseException:  # a cancelled start, too, must leave nothing behind
            await self.stop()
            raise

    async def watch(self, on_restart: Callable[[], Awaitable[None]]) -> None:
        """Start the server again whenever it dies; return once `stop` was called.

        Args:
            on_restart: Awaited after each restart, once the server answers. If it raises, that is logged
                and it is called again after a pause.
        """
        pause_s = FIRST_PAUSE_S
        while self._exit is not None and not self._stopping.is_set():
            code = await asyncio.shield(self._exit)
            if self._stopping.is_set():
                return
            self._log.error("the embedded store ended (%s), restarting it: %s", _ending(code), self._log_file)
            if asyncio.get_running_loop().time() - self._ready_at > STEADY_S:
                pause_s = FIRST_PAUSE_S
            while not await self._stopped_within(pause_s):
                pause_s = min(pause_s * 2, LAST_PAUSE_S)
                if await self._revive(on_restart):
                    break

    async def stop(self) -> None:
        """End the server, remove its socket and unlock the directory; bounded, safe to call again."""
        if self._held is None:
            return
        self._stopping.set()
        async with self._changing:
            await self._end_server()
            if self._process is not None:  # else the files are those of a server that could not be ended
                for leftover in (self._socket, self._record_file):
                    with suppress(OSError):
                        leftover.unlink()
                remove_socket_dir(self._socket)
                self._process = None
            if self._held is not None:
                self._held.close()
                self._held = None

    async def _revive(self, on_restart: Callable[[], Awaitable[None]]) -> bool:
        try:
            if self.pid is None:
                await self._launch()
            await on_restart()
        except StartupError as error:
            if not self._stopping.is_set():
                self._log.error("cannot restart the embedded store, trying on: %s", error)
            return False
        except Exception:
            # Whatever the callback met (most likely the server died again), giving up would leave a
            # coordinator without a store for ever; so it is logged and tried again.
            self._log.exception("the embedded store runs again, but preparing it failed, trying on")
            return False
        self._log.warning("the embedded store runs again (pid %s)", self.pid)
        return True

    async def _stopped_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    async def _launch(self) -> None:
        async with self._changing:
            self._refuse_if_stopping()
            lock = await self._lock_store()
            try:
                log_start = await self._spawn(lock)
            finally:
                # From here on the server alone holds the lock, and so tells whoever comes that it lives.
                lock.close()
            try:
                self._write_record()
                await self._await_answer(log_start)
            except StartupError:
                if not self._stopping.is_set():
                    await self._end_server()
                raise
            self._ready_at = asyncio.get_running_loop().time()

    def _refuse_if_stopping(self) -> None:
        if self._stopping.is_set():
            raise StartupError("the embedded store is being stopped")

    async def _lock_store(self) -> FileLock:
        """Return the lock that shows a living server, after ending the server that still holds it."""
        lock = FileLock(self.data_dir / "store.lock")
        try:
            if lock.try_acquire() or await self._end_orphan(lock):
                return lock
            record = ServerRecord.read(self._record_file)
            who = f"pid {record.pid}" if record else "pid unknown"
            raise StartupError(
                f"a server ({who}) still uses data directory {self.data_dir} and could not be ended; "
                f"end it yourself (`fuser {lock.path}` finds it) or give --data-dir another directory"
            )
        except BaseException:  # a cancelled start, too, frees the lock
            lock.close()
            raise

    async def _end_orphan(self, lock: FileLock) -> bool:
        record = ServerRecord.read(self._record_file)
        self._log.warning(
            "a server (pid %s) outlived its coordinator on %s: ending it",
            record.pid if record else "unknown",
            self.data_dir,
        )
        socket = Path(record.socket) if record else self._socket
        await _exchange(socket, b"SHUTDOWN NOSAVE", SHUTDOWN_GRACE_S)
        if await _acquired_within(lock, SHUTDOWN_GRACE_S):
            return True
        # It may be stopped (SIGSTOP) or busy. Every acknowledged write is on disk, so killing is safe.
        if record is not None and record.is_running():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(record.pid, signal.SIGKILL)
        return await _acquired_within(lock, SHUTDOWN_GRACE_S)

    async def _spawn(self, lock: FileLock) -> int:
        """Start the process; return where its part of the log begins, in bytes."""
        assert self.server is not None
        try:
            config, log_fd = self._prepare_files()
        except OSError as error:
            raise self._unwritable(error) from error
        log_start = os.lseek(log_fd, 0, os.SEEK_END)
        try:
            # A session of its own: the terminal's Ctrl-C is for the coordinator, which then stops the
            # server in order. No PR_SET_PDEATHSIG: it fires when the starting THREAD ends, exists on
            # Linux only, and a server that is left behind is found by its lock and ended anyway.
            self._process = await asyncio.create_subprocess_exec(
                self.server.path,
                config,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                start_new_session=True,
                pass_fds=(lock.fd,),
            )
        except OSError as error:
            raise StartupError(f"cannot run {self.server.path}: {error.strerror}; see --server-binary") from error
        finally:
            os.close(log_fd)
        self._exit = asyncio.create_task(self._process.wait())
        return log_start

    def _write_record(self) -> None:
        assert self._process is not None
        pid = self._process.pid
        try:
            ServerRecord(pid, process_started(pid), str(self._socket)).write(self._record_file)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> StartupError:
        return StartupError(
            f"cannot write to data directory {self.data_dir}: {error.strerror}; "
            "make room or give --data-dir a directory that you can write"
        )

    def _prepare_files(self) -> tuple[Path, int]:
        # The old record goes before a new server comes: a record always means the lock's present owner.
        self._record_file.unlink(missing_ok=True)
        folder = self.data_dir / "store"
        folder.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            if self._log_file.stat().st_size > MAX_LOG_BYTES:
                self._log_file.replace(self._log_file.with_suffix(".log.1"))
        config = self.data_dir / "store.conf"
        text = server_config(socket=self._socket, folder=folder, log_file=self._log_file)
        config.touch(mode=0o600)
        config.chmod(0o600)
        config.write_text(text)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return config, os.open(self._log_file, flags, 0o600)

    async def _await_answer(self, log_start: int) -> None:
        assert self._exit is not None
        clock = asyncio.get_running_loop().time
        began = heard = noted = clock()
        pause_s = 0.005
        while True:
            answer = await _exchange(self._socket, b"PING", 2.0)
            if answer.startswith(b"+PONG"):
                return
            self._refuse_if_stopping()
            now = clock()
            if answer.startswith(b"-LOADING"):
                heard = now
            if now - heard > ANSWER_TIMEOUT_S:
                raise StartupError(
                    f"the embedded store did not answer for {ANSWER_TIMEOUT_S:g} s; see {self._log_file}"
                )
            if now - noted >= PROGRESS_EVERY_S:
                noted = now
                self._log.info("the embedded store is loading its data, %.0f s so far", now - began)
            done, _ = await asyncio.wait({self._exit}, timeout=pause_s)
            if done:
                raise StartupError(self._obituary(self._exit.result(), log_start))
            pause_s = min(pause_s * 1.5, 0.1)

    def _obituary(self, code: int, log_start: int) -> str:
        assert self.server is not None
        lines: list[str] = []
        with suppress(OSError), self._log_file.open("rb") as file:
            file.seek(max(log_start, self._log_file.stat().st_size - 8192))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
        # `#` marks warnings and errors; the memory hint comes at every start and explains nothing.
        marked = [line for line in lines if " # " in line and "Memory overcommit" not in line]
        said = " | ".join((marked or lines)[-3:]) or "nothing"
        remedy = data_remedy(said, self.data_dir / "store", self.server) or f"see {self._log_file}"
        return f"the embedded store ended while starting ({_ending(code)}); its log says: {said}; {remedy}"

    async def _end_server(self) -> None:
        if self._process is None or self._exit is None or self._exit.done():
            return
        await _exchange(self._socket, b"SHUTDOWN NOSAVE", SHUTDOWN_GRACE_S)
        for number, grace_s in ((signal.SIGTERM, TERM_GRACE_S), (signal.SIGKILL, None)):
            # SHUTDOWN closes the connection a moment before the process is gone.
            if (await asyncio.wait({self._exit}, timeout=0.5))[0]:
                return
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
            if (await asyncio.wait({self._exit}, timeout=grace_s))[0]:
                return


async def _exchange(socket: Path, command: bytes, timeout_s: float) -> bytes:
    """Send one inline command; return the first line, or b"" if there was no answer in time."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            try:
                writer.write(command + b"\r\n")
                return await reader.readline()
            finally:
                writer.close()
    except (OSError, ValueError):  # not there, closed, too late (TimeoutError), or a line without end
        return b""


async def _acquired_within(lock: FileLock, seconds: float) -> bool:
    # Polled: the kernel tells nobody when a lock comes free, but to wait for it in a blocked thread.
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while not lock.try_acquire():
        if clock() >= deadline:
            return False
        await asyncio.sleep(0.02)
    return True


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
