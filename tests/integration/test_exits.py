"""How a process ends tells how its run ends; a forked child has no run."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
import runlease

from tests.support.coordinator import CoordinatorProcess

START = "import runlease, sys, os, time\nrun = runlease.init(project={project!r}, id='r', resume='allow', ttl=5)\n"


def play(coordinator: CoordinatorProcess, project: str, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", START.format(project=project) + script],
        env=coordinator.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("script", "status", "outcome"),
    [
        ("run.log({'a': 1})", 0, "finished"),
        ("run.log({'a': 1}); sys.exit(0)", 0, "finished"),
        ("sys.exit(3)", 3, "failed"),
        ("sys.exit('no')", 1, "failed"),
        ("1 / 0", 1, "failed"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "killed"),
        ("run.finish(); sys.exit(1)", 1, "finished"),
        ("run.finish('preempted')", 0, "preempted"),
        ("with run: pass", 0, "finished"),
        ("with run: raise SystemExit(2)", 2, "failed"),
        ("with run: 1 / 0", 1, "failed"),
        ("with run: raise KeyboardInterrupt", -signal.SIGINT, "killed"),
        ("try: sys.exit(1)\nexcept SystemExit: pass", 0, "finished"),
        ("try: sys.exit(1)\nexcept SystemExit: pass\nsys.exit(2)", 2, "failed"),
        ("def f(): sys.exit(4)\ntry: f()\nfinally: x = 1", 4, "failed"),
        ("import threading; t = threading.Thread(target=sys.exit, args=(1,)); t.start(); t.join()", 0, "finished"),
        ("import argparse; argparse.ArgumentParser().parse_args(['--no'])", 2, "failed"),
    ],
)
def test_outcome(coordinator: CoordinatorProcess, project: str, script: str, status: int, outcome: str) -> None:
    assert play(coordinator, project, script).returncode == status
    with runlease.Client(coordinator.address) as client:
        run = client.get_run(project, "r")
        assert run.state == outcome
        assert run.attempts[0].outcome == outcome


def test_exit_delivers_what_was_logged(coordinator: CoordinatorProcess, project: str) -> None:
    assert play(coordinator, project, "for i in range(20000): run.log({'a': i, 'b': -i})").returncode == 0
    with runlease.Client(coordinator.address) as client:
        assert len(client.history(project, "r")) == 40_000


@pytest.mark.parametrize(
    "script",
    [
        "run.log({'a': 1.0})",
        "run.log({'a': 1.0}); sys.exit(3)",
        "atexit.register(run.log, {'a': 1.0})",
        "threading.Thread(target=lambda: (threading.main_thread().join(), run.log({'a': 1.0}))).start()",
    ],
    ids=["end of the script", "sys.exit", "exit hook", "thread that outlives the main one"],
)
def test_what_is_logged_last_arrives_and_nobody_is_cut_off(
    coordinator: CoordinatorProcess, project: str, script: str
) -> None:
    done = play(coordinator, project, f"import atexit, threading; {script}")
    assert "Error" not in done.stderr
    assert "not delivered" not in done.stderr
    with runlease.Client(coordinator.address) as client:
        assert [(row.step, row.value) for row in client.history(project, "r").rows()] == [(0, 1.0)]


def test_exit_delivers_though_the_connection_has_just_broken(
    start_coordinator: Callable[..., CoordinatorProcess], project: str
) -> None:
    # Given a script whose coordinator dies just before its end
    script = """
from runlease import exits
exits.EXIT_TIMEOUT_S = 40.0  # a machine may take its time to start a coordinator
run.log({'a': 0.0})
assert run.flush(30)
print('logged', flush=True)
while run.stats().connected:
    time.sleep(0.01)
run.log({'a': 1.0})
print('leaving', flush=True)
"""
    coordinator = start_coordinator()
    with subprocess.Popen(
        [sys.executable, "-c", START.format(project=project) + script],
        env=coordinator.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "logged\n"
        coordinator.kill()
        assert process.stdout.readline() == "leaving\n"
        # when another takes its place, then the script's last words arrive.
        coordinator.start()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "not delivered" not in errors
    with runlease.Client(coordinator.address) as client:
        assert [row.value for row in client.history(project, "r").rows()] == [0.0, 1.0]
        assert client.get_run(project, "r").state == "finished"


def test_exit_does_not_wait_for_a_call_that_got_no_threads(coordinator: CoordinatorProcess, project: str) -> None:
    # Given a script whose end falls between the first and the last thread of a new stream
    script = f"""
import gc, threading
import runlease
from runlease.buffer import WriterSettings
WriterSettings.__init__.__kwdefaults__['stays_connected'] = False
run = runlease.init(project={project!r}, id='r')
start = threading.Thread.start
def refuse(thread):
    if thread.name != 'runlease-acks':
        raise RuntimeError("can't create new thread at interpreter shutdown")
    start(thread)
threading.Thread.start = refuse
run.log({{'a': 1.0}})
run.finish()
del run
gc.collect()  # gRPC closes channels that nobody refers to
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=coordinator.env, capture_output=True, text=True, timeout=40, check=True
    )
    # then it ends nevertheless, says what was left, and its outcome is known.
    assert f"1 points of {project}/r can be delivered later: runlease sync" in done.stderr
    with runlease.Client(coordinator.address) as client:
        assert client.get_run(project, "r").state == "finished"


def test_a_forked_child_logs_nothing_and_ends_nothing(coordinator: CoordinatorProcess, project: str) -> None:
    script = """
run.log({'a': 0.0})
if os.fork() == 0:
    assert runlease.run is None
    run.log({'a': 1.0}); run.log({'a': 2.0})
    for call in (run.lease.check, lambda: run.commit_checkpoint(0, uri='x'), lambda: run.rewind(0)):
        try:
            call()
        except runlease.LeaseLost as error:
            assert error.cause == 'forked', error.cause
        else:
            os._exit(1)
    assert run.ignored == 2
    sys.exit(7)  # its exit hooks run, and say nothing
_, status = os.wait()
assert os.waitstatus_to_exitcode(status) == 7, status
run.lease.check()
run.log({'a': 3.0})
"""
    done = play(coordinator, project, script)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("log() does nothing here") == 1  # one warning for two calls
    with runlease.Client(coordinator.address) as client:
        assert [(row.step, row.value) for row in client.history(project, "r").rows()] == [(0, 0.0), (1, 3.0)]
        assert client.get_run(project, "r").state == "finished"


def test_fork_support_of_grpc_is_off_unless_the_user_chose(coordinator: CoordinatorProcess) -> None:
    script = "import runlease, os; print(os.environ['GRPC_ENABLE_FORK_SUPPORT'])"
    env = coordinator.env
    for given, expected in ((None, "0"), ("1", "1")):
        chosen = env if given is None else env | {"GRPC_ENABLE_FORK_SUPPORT": given}
        output = subprocess.run([sys.executable, "-c", script], env=chosen, capture_output=True, text=True, check=True)
        assert output.stdout.strip() == expected
