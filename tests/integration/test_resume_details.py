"""What a resume carries, who is told, and how a lease passes on."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import runlease

from tests.support.coordinator import CoordinatorProcess
from tests.support.puppet import Puppet, Refused
from tests.support.wait import until

StartPuppet = Callable[..., Puppet]


@pytest.fixture
def client(coordinator: CoordinatorProcess) -> Iterator[runlease.Client]:
    with runlease.Client(coordinator.address) as client:
        yield client


@pytest.fixture
def init(coordinator: CoordinatorProcess, project: str) -> Any:
    def start(id: str | None = "r", **more: Any) -> runlease.Run:
        if not {"resume", "resume_from", "fork_from"} & more.keys():
            more["resume"] = "allow"
        return runlease.init(project=project, id=id, coordinator=coordinator.address, **more)

    return start


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, {"notes": "old", "tags": ("x",), "name": "old-1", "config": {"lr": 1, "d": 2}}),
        ({"notes": "new"}, {"notes": "new", "tags": ("x",)}),
        ({"notes": ""}, {"notes": ""}),
        ({"tags": ["y", "z"]}, {"tags": ("y", "z"), "notes": "old"}),
        ({"tags": []}, {"tags": ()}),
        ({"name": "new-2"}, {"name": "new-2"}),
        ({"config": {"lr": 3}}, {"config": {"lr": 3, "d": 2}}),
        ({"config": {"deep": {"a": [1, None]}}}, {"config": {"lr": 1, "d": 2, "deep": {"a": [1, None]}}}),
    ],
)
def test_what_is_given_replaces_what_is_not_stays(
    client: runlease.Client, project: str, init: Any, given: dict[str, Any], kept: dict[str, Any]
) -> None:
    with init(notes="old", tags=["x"], name="old-1", config={"lr": 1, "d": 2}) as run:
        run.update(summary={"best": 1.0})
    with init(**given) as run:
        assert dict(run.summary) == {"best": 1.0}
    record = client.get_run(project, "r")
    for name, value in kept.items():
        assert getattr(record, name) == value
    assert record.summary == {"best": 1.0}


def test_config_changes_are_printed(init: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with init(config={"lr": 0.1, "seed": 1}):
        pass
    capsys.readouterr()
    with init(config={"lr": 0.2, "seed": 1}) as run:
        assert [(c.key, c.before, c.after) for c in run.config_changes] == [("lr", 0.1, 0.2)]
    assert "runlease: config lr: 0.1 -> 0.2\n" in capsys.readouterr().err


def test_an_empty_run_resumes_at_0(init: Any) -> None:
    with init():
        pass
    with init(resume="must") as run:
        assert (run.resumed, run.step, run.attempt) == (True, 0, 2)


def test_resume_from_rewinds_at_once(client: runlease.Client, project: str, init: Any) -> None:
    with init() as run:
        for step in range(20):
            run.log({"a": step}, step=step)
            if step in (4, 14):
                run.commit_checkpoint(step, uri=f"c{step}")
    for bad in ("r?_step=20", "missing?_step=1"):
        with pytest.raises((runlease.InvalidArgument, runlease.RunNotFound)):
            init(None, resume_from=bad)
    with init(None, resume_from="r?_step=9") as run:
        assert (run.id, run.step, run.attempt) == ("r", 10, 2)
        assert run.checkpoint is not None
        assert run.checkpoint.step == 4
        assert [row.step for row in client.history(project, "r").rows()] == list(range(10))
    with init(resume="must") as run:
        assert run.step == 5  # the checkpoint of 14 is superseded


def test_fork_from_starts_a_run_with_the_parents_history(client: runlease.Client, project: str, init: Any) -> None:
    with init() as run:
        for step in range(20):
            run.log({"a": step}, step=step)
    with init("fork", fork_from="r?_step=9") as run:
        assert (run.resumed, run.step, run.attempt) == (False, 10, 1)
        run.log({"a": 100.0})
    assert [row.value for row in client.history(project, "fork").rows()] == [*range(10), 100.0]
    assert len(client.history(project, "r")) == 20
    with pytest.raises(runlease.RunExists):
        init("fork", fork_from="r?_step=9")


def test_a_killed_holder_of_this_machine_is_proved_dead(
    client: runlease.Client, coordinator: CoordinatorProcess, project: str, start_puppet: StartPuppet
) -> None:
    """The lease of 60 s passes on at once, and the record says by whose word."""
    holder, successor = start_puppet(coordinator), start_puppet(coordinator)
    holder.call("init", project=project, id="r", ttl=60)
    with pytest.raises(Refused):
        successor.call("init", project=project, id="r", resume="allow")  # it lives
    holder.stop()
    with pytest.raises(Refused):
        successor.call("init", project=project, id="r", resume="allow")  # stopped is not dead
    holder.kill()
    facts = successor.call("init", project=project, id="r", resume="allow")
    assert (facts["attempt"], facts["previous_state"]) == (2, "crashed")
    assert client.get_run(project, "r").attempts[0].outcome == "crashed"


def test_a_waiter_takes_over_from_a_holder_that_dies(
    coordinator: CoordinatorProcess, project: str, start_puppet: StartPuppet
) -> None:
    holder, waiter = start_puppet(coordinator), start_puppet(coordinator)
    holder.call("init", project=project, id="r", ttl=60)
    waiter.send("init", project=project, id="r", resume="allow", wait=60)
    until(lambda: "waiting for" in waiter.stderr)
    assert f":{holder.pid} " in waiter.stderr
    holder.kill()
    assert waiter.answer()["attempt"] == 2


def test_a_waiter_gets_a_released_lease(
    coordinator: CoordinatorProcess, project: str, start_puppet: StartPuppet
) -> None:
    holder, waiter = start_puppet(coordinator), start_puppet(coordinator)
    holder.call("init", project=project, id="r")
    waiter.send("init", project=project, id="r", resume="allow", wait=60)
    until(lambda: "place 1" in waiter.stderr)
    holder.call("finish")
    assert waiter.answer()["previous_state"] == "finished"


def test_on_lost_terminate(coordinator: CoordinatorProcess, project: str, start_puppet: StartPuppet) -> None:
    holder = start_puppet(coordinator)
    fence = holder.call("init", project=project, id="r", ttl=5, on_lost="terminate")["fence"]
    with runlease.Client(coordinator.address) as client:
        client.release(project, "r", fence, "killed")
        client.acquire(project, "r", nonce="n", resume="allow")
    assert holder.process.wait(timeout=60) == -signal.SIGTERM


def test_threads_share_a_run(client: runlease.Client, project: str, init: Any) -> None:
    with init() as run:

        def work(number: int) -> None:
            for step in range(500):
                run.log({f"t{number}": step}, step=step)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert run.step == 500
    history = client.history(project, "r")
    assert [len(series.steps) for series in history.series] == [500] * 8


def test_a_notebook_cell_that_runs_again_starts_again(init: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = type("ZMQInteractiveShell", (), {})()  # a kernel cannot be had without a notebook's whole machinery
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    first = init()
    first.log({"a": 1})
    second = init()
    assert second is not first
    assert (second.attempt, second.step, second.previous_state) == (2, 1, "finished")
    assert runlease.run is second
    second.finish()


def test_strict_raises_for_what_is_no_number(init: Any) -> None:
    with init(strict=True) as run, pytest.raises(runlease.InvalidArgument) as caught:
        run.log({"a": 1, "b": "text"})
    assert caught.value.field == "metrics['b']"


def test_automatic_twice_in_one_process_is_one_handle(
    coordinator: CoordinatorProcess, project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = runlease.init(project=project, resume="auto", coordinator=coordinator.address)
    assert runlease.init(project=project, resume="auto", coordinator=coordinator.address) is first
    first.finish()
