"""The `Run` handle against a real coordinator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import runlease

from tests.support.coordinator import CoordinatorProcess
from tests.support.redis import free_port


@pytest.fixture
def client(coordinator: CoordinatorProcess) -> Iterator[runlease.Client]:
    with runlease.Client(coordinator.address) as client:
        yield client


@pytest.fixture
def init(coordinator: CoordinatorProcess, project: str) -> Any:
    def start(id: str = "r", resume: str = "allow", **more: Any) -> runlease.Run:
        return runlease.init(project=project, id=id, resume=resume, coordinator=coordinator.address, **more)

    return start


def points(client: runlease.Client, project: str, key: str = "a", **more: Any) -> list[tuple[int, float]]:
    return [(row.step, row.value) for row in client.history(project, "r", keys=[key], **more).rows()]


def test_step_is_exact_before_anything_is_logged(client: runlease.Client, project: str, init: Any) -> None:
    with init() as run:
        assert (run.step, run.starting_step, run.checkpoint) == (0, 0, None)
        for step in range(100):
            run.log({"a": step}, step=step)
            if step == 60:
                run.commit_checkpoint(step, uri=Path("/ckpt/60"), metadata={"loss": 0.1, "epoch": 3})
    with init(resume="must") as run:  # rule 2: behind the highest visible checkpoint
        assert (run.step, run.starting_step) == (61, 61)
        assert run.checkpoint is not None
        assert (run.checkpoint.uri, dict(run.checkpoint.metadata)) == ("/ckpt/60", {"epoch": 3, "loss": 0.1})
    with init(resume="must", resume_step=31) as run:  # rule 1: the caller's word
        assert (run.step, run.checkpoint) == (31, None)
    # A grant alone hides nothing.
    assert points(client, project) == [(step, float(step)) for step in range(100)]
    with init(resume="must", resume_step=31) as run:
        run.log({"a": -1}, step=31)
    assert points(client, project) == [(step, float(step)) for step in range(31)] + [(31, -1.0)]
    with init(resume="must") as run:  # rule 3: where the log ends; the checkpoint of 60 is superseded
        assert (run.step, run.checkpoint) == (32, None)
    record = client.get_run(project, "r")
    assert [(c.step, c.superseded) for c in record.checkpoints] == [(60, True)]


def test_rewind_before_and_after_a_write(client: runlease.Client, project: str, init: Any) -> None:
    with init() as run:
        for step in range(101):
            run.log({"a": step}, step=step)
    with init() as run:
        run.rewind(80)
        run.rewind(90)
        assert (run.step, run.starting_step) == (90, 90)
        run.log({"a": 900.0})
        run.rewind(50)
        assert run.step == 50
        for _ in range(50, 61):
            run.log({"a": 500.0})
        assert run.flush(30)
        assert points(client, project) == [(s, float(s)) for s in range(50)] + [(s, 500.0) for s in range(50, 61)]
    record = client.get_run(project, "r")
    assert record.next_step == 61
    assert [(s.segment, s.start) for s in record.attempts[1].segments] == [(0, 90), (1, 50)]
    assert len(points(client, project, superseded=True)) == 101 + 1 + 11


def test_values_are_read_at_the_call(client: runlease.Client, project: str, init: Any) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.array(1.5)
    with init() as run:
        run.log({"a": array, "nested": {"x": True, "y": numpy.float32(2.0)}, "bad": "text"})
        array[...] = 7.0
        run.log({"a": math.nan})
        run.log({"a": -math.inf})
        assert run.bad_values == 1
    assert points(client, project)[0] == (0, 1.5)
    assert math.isnan(points(client, project)[1][1])
    assert points(client, project)[2] == (2, -math.inf)
    assert client.history(project, "r").keys == ["a", "nested/x", "nested/y"]


def test_commit_false_holds_the_row_back(client: runlease.Client, project: str, init: Any) -> None:
    with init() as run:
        run.log({"a": 1}, commit=False)
        run.log({"b": 2}, commit=False)
        assert run.step == 0
        run.log({"a": 3})
        assert run.step == 1
        run.log({"a": 4}, step=5, commit=False)
        run.log({"a": 6}, step=9)  # another step sends the row that waits
        assert run.step == 10
    assert points(client, project) == [(0, 3.0), (5, 4.0), (9, 6.0)]
    assert points(client, project, "b") == [(0, 2.0)]


def test_steps_may_come_in_any_order(client: runlease.Client, project: str, init: Any) -> None:
    with init() as run:
        for step in (5, 3, 0, 9, 3):
            run.log({"a": step * 10 + run.step}, step=step)
        assert run.step == 10
    assert [step for step, _ in points(client, project)] == [0, 3, 5, 9]
    assert points(client, project, min_step=3, max_step=5) == [(3, 40.0), (5, 50.0)]


def test_config_merges_and_its_changes_are_told(client: runlease.Client, project: str, init: Any) -> None:
    with init(config={"lr": 0.1, "big": 2**60, "model": {"d": 64}}, notes="first", tags=["x"], name="n1") as run:
        run.update(summary={"best": 0.5}, tags=["x", "y"])
    with init(config={"lr": 0.2, "seed": 1}) as run:
        assert dict(run.config) == {"big": 2**60, "lr": 0.2, "model": {"d": 64}, "seed": 1}
        assert dict(run.summary) == {"best": 0.5}
        assert run.name == "n1"
    record = client.get_run(project, "r")
    assert (record.notes, record.tags) == ("first", ("x", "y"))
    changes = [(c.key, c.before, c.after) for c in record.attempts[1].config_changes]
    assert changes == [("lr", 0.1, 0.2), ("seed", None, 1)]


def test_the_same_run_again_is_the_same_handle(project: str, init: Any) -> None:
    assert runlease.run is None
    first, other = init(), init("other")
    assert init() is first
    assert runlease.run is other
    other.finish()
    first.finish()
    assert runlease.run is None
    again = init()
    assert again is not first
    assert again.attempt == 2
    again.finish()


def test_a_finished_run_takes_no_more(project: str, init: Any) -> None:
    run = init()
    assert run.finish()
    assert run.finish()
    for call in (
        lambda: run.log({"a": 1}),
        lambda: run.commit_checkpoint(1, uri="x"),
        lambda: run.rewind(0),
        lambda: run.update(notes="x"),
        run.lease.check,
    ):
        with pytest.raises(runlease.LeaseLost) as caught:
            call()
        assert caught.value.cause == "released"


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda run: run.log({"a": 1}, step=-1), "step"),
        (lambda run: run.log({"a": 1}, step=2**53), "step"),
        (lambda run: run.log({"a": 1}, step=1.5), "step"),
        (lambda run: run.log([1, 2]), "metrics"),
        (lambda run: run.rewind("3"), "step"),
        (lambda run: run.commit_checkpoint(-1, uri="x"), "step"),
        (lambda run: run.commit_checkpoint(1, uri=3), "uri"),
        (lambda run: run.commit_checkpoint(1, uri="x", metadata={"a": object()}), "metadata"),
        (lambda run: run.update(config={"a": object()}), "config"),
        (lambda run: run.update(tags=["t" * 65]), "tags.tags[0]"),
        (lambda run: run.finish("done"), "outcome"),
    ],
)
def test_bad_arguments_name_their_field(init: Any, call: Any, field: str) -> None:
    with init() as run:
        with pytest.raises(runlease.InvalidArgument) as caught:
            call(run)
        assert caught.value.field == field
        run.lease.check()
        run.log({"a": 1})
        assert run.flush(30)


def test_entry_lines(init: Any, project: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    with init(name="gallant-water-62") as run:
        run.log({"a": 1}, step=10)
        run.commit_checkpoint(7, uri="x")
    assert capsys.readouterr().err == "runlease: starting new run r (gallant-water-62)\n"
    with init():
        pass
    expected = "runlease: resuming run r (gallant-water-62) at step 8, attempt 2 (it had finished)\n"
    assert capsys.readouterr().err == expected
    with init(resume_step=11):
        pass
    assert "at step 11, attempt 3 (3 steps after its checkpoint, it had finished)" in capsys.readouterr().err
    monkeypatch.setenv("RUNLEASE_SILENT", "1")
    with init():
        pass
    assert capsys.readouterr().err == ""


def test_who_waits_for_a_coordinator_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    with pytest.raises(runlease.CoordinatorUnavailable):
        runlease.init(project="p", id="r", coordinator=nobody, connect_timeout=1.5)
    told = capsys.readouterr().err
    assert told.startswith(f"runlease: trying again, for up to 2 s: no coordinator answers at {nobody}")
    assert told.count("\n") == 1


def test_a_first_step_above_the_start_warns_and_names_rewind(init: Any, caplog: pytest.LogCaptureFixture) -> None:
    with init() as run:
        run.log({"a": 1}, step=500)
    assert "run.rewind(500)" in caplog.text
    caplog.clear()
    with init() as run:
        run.log({"a": 1}, step=501)
        run.log({"a": 1}, step=700)
    assert caplog.text == ""


def test_disabled_needs_no_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RUNLEASE_MODE", "disabled")
    with runlease.init(project="p", id="r", resume="must", coordinator="127.0.0.1:1", config={"a": 1}) as run:
        for _ in range(10):
            run.log({"loss": 1.0})
        run.commit_checkpoint(9, uri="x", wait=True)
        run.rewind(5)
        run.update(summary={"b": 2})
        run.lease.check()
        assert (run.step, dict(run.config), dict(run.summary), run.flush()) == (5, {"a": 1}, {"b": 2}, True)
        assert runlease.run is run
    assert runlease.run is None
    assert capsys.readouterr().err == ""


def test_no_coordinator_is_said_with_the_remedy() -> None:
    with pytest.raises(runlease.CoordinatorUnavailable) as caught:
        runlease.init(project="p", id="r", resume="allow", coordinator="127.0.0.1:1", connect_timeout=0.5)
    assert "127.0.0.1:1" in str(caught.value)
    assert "runlease serve" in str(caught.value)


def test_on_lost_calls_back(client: runlease.Client, project: str, init: Any) -> None:
    losses: list[runlease.LeaseLost] = []
    run = init(on_lost=losses.append)
    client.release(project, "r", run.fence, "killed")  # an operator's hand
    successor = client.acquire(project, "r", nonce="n2", resume="allow")
    run.log({"a": 1})
    run.flush(10)
    assert run.lease.lost.wait(30)
    assert [(loss.cause, loss.current_fence) for loss in losses] == [("superseded", successor.fence)]
    run.log({"a": 2})  # a counted no-op: the callable decides what happens
    assert not run.finish()
    assert client.get_run(project, "r").fence == successor.fence
