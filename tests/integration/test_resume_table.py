"""Every cell of the resume decision that this version covers, by the public SDK over a real socket, on both stores."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import runlease

from tests.support.coordinator import CoordinatorProcess
from tests.support.wait import until

ENDS = ["finished", "failed", "crashed", "preempted", "killed"]
MODES = ["never", "allow", "must", "auto", "by-id"]


@pytest.fixture
def client(any_coordinator: CoordinatorProcess) -> Iterator[runlease.Client]:
    with runlease.Client(any_coordinator.address) as client:
        yield client


def start(client: runlease.Client, project: str, mode: str, run_id: str = "r", **more: object) -> runlease.Run:
    how = {"resume": run_id} if mode == "by-id" else {"id": run_id, "resume": mode}
    return runlease.init(project=project, coordinator=client.coordinator, **how, **more)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", ENDS)
def test_ended(client: runlease.Client, project: str, end: str, mode: str) -> None:
    first = client.acquire(project, "r", nonce="n1")
    client.release(project, "r", first.fence, end)
    if mode == "never":
        with pytest.raises(runlease.RunExists) as caught:
            start(client, project, mode)
        assert end in str(caught.value)
        assert client.get_run(project, "r").attempt == 1
        return
    with start(client, project, mode) as run:
        assert (run.resumed, run.previous_state, run.attempt) == (True, end, 2)
        assert run.fence > first.fence
        assert client.get_run(project, "r").state == "running"


@pytest.mark.parametrize("mode", MODES)
def test_absent(client: runlease.Client, project: str, mode: str) -> None:
    if mode in ("must", "by-id"):
        with pytest.raises(runlease.RunNotFound) as caught:
            start(client, project, mode)
        assert "allow" in str(caught.value)
        assert list(client.list_runs(project)) == []
        return
    with start(client, project, mode) as run:
        assert (run.resumed, run.previous_state, run.attempt, run.step) == (False, "", 1, 0)


@pytest.mark.parametrize("mode", MODES)
def test_held(client: runlease.Client, project: str, mode: str) -> None:
    held = client.acquire(project, "r", nonce="n1")
    expected = runlease.RunExists if mode == "never" else runlease.LeaseHeld
    with pytest.raises(expected) as caught:
        start(client, project, mode, wait=0)  # auto waits by default
    error = caught.value
    assert isinstance(error, runlease.RunExists | runlease.LeaseHeld)
    assert error.holder is not None
    assert (error.holder.pid, error.fence) == (held.run.holder.pid, held.fence)
    assert 0 < error.remaining_s <= 30
    assert str(error.holder.pid) in str(error)
    after = client.get_run(project, "r")
    assert (after.fence, after.attempt) == (held.fence, 1)


@pytest.mark.parametrize("mode", MODES)
def test_deleted(client: runlease.Client, project: str, mode: str) -> None:
    first = client.acquire(project, "r", nonce="n1")
    client.release(project, "r", first.fence)
    client.delete_run(project, "r", first.fence)
    with pytest.raises(runlease.RunDeleted):
        start(client, project, mode)
    assert client.get_run(project, "r").state == "deleted"


def test_expired_in_lock_delay(client: runlease.Client, project: str) -> None:
    """Never is refused; the others wait the lock-delay out, whatever `wait` says, and then resume a crashed run."""
    fences = {mode: client.acquire(project, mode, nonce=mode, ttl_s=5).fence for mode in MODES}
    until(lambda: all(client.get_run(project, mode).remaining_s == 0 for mode in MODES))
    assert client.get_run(project, "never").lock_delay_s > 0
    with pytest.raises(runlease.RunExists):
        start(client, project, "never", "never")
    runs: dict[str, runlease.Run] = {}
    threads = [
        threading.Thread(target=lambda m=mode: runs.update({m: start(client, project, m, m)}))
        for mode in MODES
        if mode != "never"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(runs) == set(MODES) - {"never"}
    for mode, run in runs.items():
        assert (run.previous_state, run.attempt) == ("crashed", 2)
        assert run.fence > fences[mode]
        run.finish()


def test_another_spelling_is_refused(client: runlease.Client, project: str) -> None:
    with start(client, project, "allow", "a/b"):
        pass
    for mode in MODES:
        with pytest.raises(runlease.RunIdCollision) as caught:
            start(client, project, mode, "a_b")
        assert caught.value.existing_id == "a/b"
        assert "a_b" in str(caught.value)
    with start(client, project, "must", "a-b") as run:  # the canonical form is always accepted
        assert (run.id, run.attempt) == ("a/b", 2)
