"""A holder is called dead only where it can never run again: real processes, alive, killed, stopped, half-ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from runlease.holder import Holder, process_stat, this_process
from runlease.liveness import is_dead

from tests.support.wait import until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux shows what it takes")

#: The first thread ends, as a C program's may; another goes on until a line comes.
_FIRST_THREAD_ENDS = """
import ctypes, sys, threading
def other():
    sys.stdin.readline()
    import os
    os._exit(0)
threading.Thread(target=other).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def holder_of(pid: int) -> Holder:
    """The record that the process itself would have made."""
    stat = process_stat(pid)
    assert stat is not None
    return replace(this_process(), pid=pid, process_started=stat.started)


@contextmanager
def process(code: str = "import sys; sys.stdin.readline()") -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as started:
        try:
            yield started
        finally:
            started.kill()


def is_zombie(pid: int) -> bool:
    stat = process_stat(pid)
    return stat is not None and stat.state == "Z"


def test_this_process_is_alive() -> None:
    this = this_process()
    assert this.boot_id
    assert this.pid_namespace.startswith("pid:")
    assert this.process_started > 0
    assert not is_dead(this, this)


def test_alive_then_killed_then_reaped() -> None:
    with process() as started:
        holder, this = holder_of(started.pid), this_process()
        assert not is_dead(holder, this)
        started.kill()
        # When it is killed and its parent has not asked for its end, it is a zombie.
        os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
        assert is_zombie(started.pid)
        assert is_dead(holder, this)
        started.wait()
        assert process_stat(started.pid) is None
        assert is_dead(holder, this)


def test_stopped_is_alive() -> None:
    with process() as started:
        started.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, started.pid, os.WSTOPPED | os.WNOWAIT)
        assert not is_dead(holder_of(started.pid), this_process())
        started.send_signal(signal.SIGCONT)
        assert not is_dead(holder_of(started.pid), this_process())


def test_a_process_whose_first_thread_ended_is_alive() -> None:
    with process(_FIRST_THREAD_ENDS) as started:
        holder, this = holder_of(started.pid), this_process()
        until(lambda: is_zombie(started.pid))
        assert not is_dead(holder, this)
        # When the other thread ends, too, it is dead.
        started.communicate(b"\n")
        assert is_dead(holder, this)


def test_another_process_of_the_same_pid() -> None:
    with process() as started:
        holder, this = holder_of(started.pid), this_process()
        assert is_dead(replace(holder, process_started=holder.process_started - 1), this)
        assert is_dead(replace(holder, process_started=holder.process_started + 1), this)


UNKNOWN = [
    {"boot_id": ""},
    {"pid_namespace": ""},
    {"pid": 0},
    {"pid": -1},
    {"process_started": 0},
    {"boot_id": "another boot"},
    {"pid_namespace": "pid:[1]"},
]


@pytest.mark.parametrize("change", UNKNOWN)
def test_of_a_holder_that_is_not_known_to_be_local_nothing_is_claimed(change: dict[str, object]) -> None:
    with process() as started:
        holder, this = holder_of(started.pid), this_process()
        started.kill()
        started.wait()
        assert is_dead(holder, this)
        assert not is_dead(replace(holder, **change), this)


@pytest.mark.parametrize("field", ["boot_id", "pid_namespace"])
def test_two_that_are_both_unknown_are_not_the_same(field: str) -> None:
    with process() as started:
        holder, this = holder_of(started.pid), this_process()
        started.kill()
        started.wait()
        assert not is_dead(replace(holder, **{field: ""}), replace(this, **{field: ""}))


def test_an_identity_from_before_a_fork_or_of_another_namespace_proves_nothing() -> None:
    with process() as started:
        holder, this = holder_of(started.pid), this_process()
        started.kill()
        started.wait()
        assert not is_dead(holder, replace(this, pid=this.pid + 1))
        elsewhere = "pid:[1]"
        assert not is_dead(replace(holder, pid_namespace=elsewhere), replace(this, pid_namespace=elsewhere))


def test_a_number_that_is_no_pid_proves_nothing() -> None:
    this = this_process()
    assert not is_dead(replace(this, pid=2**63), this)


def test_a_process_of_another_user_is_alive() -> None:
    stat = process_stat(1)
    if stat is None:
        pytest.skip("/proc hides process 1")
    this = this_process()
    assert not is_dead(replace(this, pid=1, process_started=stat.started), this)


def test_a_process_that_proc_hides_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given /proc mounted with `hidepid`: another user's process is not shown, while the kernel knows it.
    monkeypatch.setattr("runlease.liveness.process_stat", lambda pid: None)
    with process() as started:
        holder = holder_of(started.pid)
        assert not is_dead(holder, this_process())


def test_without_proc_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    with process() as started:
        holder, this = holder_of(started.pid), this_process()
        started.kill()
        started.wait()

        def missing(path: str) -> str:
            raise FileNotFoundError(path)

        monkeypatch.setattr(os, "readlink", missing)
        assert not is_dead(holder, this)


def test_a_child_knows_itself() -> None:
    # Given a command with spaces and a parenthesis in it, which proc(5) shows among the fields.
    code = (
        "import ctypes, os; ctypes.CDLL(None).prctl(15, b'a) Z 1 (', 0, 0, 0)\n"
        "from runlease.holder import this_process, process_stat\n"
        "from runlease.liveness import is_dead\n"
        "this = this_process(); print(this.process_started, is_dead(this, this), flush=True); input()\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        line = started.stdout.readline()
        assert line == f"{holder_of(started.pid).process_started} False\n"
        started.communicate("\n")
