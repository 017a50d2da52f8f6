"""Forks and links through a real coordinator: what the child shows, and what its parent does later."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import runlease
from runlease.v1 import leases_pb2, runs_pb2

from tests.support.coordinator import CoordinatorProcess


@pytest.fixture
def client(coordinator: CoordinatorProcess) -> Iterator[runlease.Client]:
    with runlease.Client(coordinator.address) as client:
        yield client


def train(
    coordinator: CoordinatorProcess,
    project: str,
    id: str,
    steps: range,
    value: float,
    *,
    save: tuple[int, ...] = (),
    resume: str = "allow",
    **how: object,
) -> runlease.Run:
    """Log one value a step, from where the run is to go on or from where ``steps`` begins."""
    with runlease.init(
        project=project, id=id, resume=None if "fork_from" in how or "resume_from" in how else resume,
        coordinator=coordinator.address, **how,
    ) as run:  # fmt: skip
        for step in steps:
            run.log({"loss": value}, step=step)
            if step in save:
                run.commit_checkpoint(step, uri=f"file:///{id}/{step}", wait=True)
    return run


def shown(client: runlease.Client, project: str, id: str, **how: object) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.history(project, id, **how).rows()]


def steps(low: int, high: int, value: float) -> list[tuple[int, float]]:
    return [(step, value) for step in range(low, high)]


def test_a_fork_shows_its_parent_as_it_was(
    coordinator: CoordinatorProcess, client: runlease.Client, project: str
) -> None:
    train(coordinator, project, "old", range(10), 1.0, save=(2, 4, 8))
    child = train(coordinator, project, "new", range(6, 8), 2.0, fork_from="old?_step=5")
    assert (child.starting_step, child.resumed) == (6, False)
    # The highest of the parent's checkpoints up to the fork.
    assert child.checkpoint is not None
    assert (child.checkpoint.step, child.checkpoint.uri) == (4, "file:///old/4")
    expected = steps(0, 6, 1.0) + steps(6, 8, 2.0)
    assert shown(client, project, "new") == expected
    record = client.get_run(project, "new")
    assert record.parent is not None
    assert (record.parent.id, record.parent.step, record.parent.attempt) == ("old", 5, 1)
    assert (record.next_step, record.points) == (8, 2)
    # Whatever the parent does from here on, rewinds and deletion too, changes nothing of its child.
    train(coordinator, project, "old", range(3, 5), 3.0, resume_from="old?_step=2")
    assert shown(client, project, "old") == steps(0, 3, 1.0) + steps(3, 5, 3.0)
    assert shown(client, project, "new") == expected
    client.delete_run(project, "old", client.get_run(project, "old").fence)
    assert shown(client, project, "new") == expected
    with pytest.raises(runlease.RunleaseError, match="1 runs show the history"):
        client.delete_run(project, "old", client.get_run(project, "old").fence, purge=True)


def test_a_child_that_rewinds_below_the_fork_supersedes_what_it_inherited(
    coordinator: CoordinatorProcess, client: runlease.Client, project: str
) -> None:
    train(coordinator, project, "old", range(10), 1.0)
    train(coordinator, project, "new", range(8, 10), 2.0, fork_from="old?_step=7")
    train(coordinator, project, "new", range(4, 6), 3.0, resume_from="new?_step=3")
    assert shown(client, project, "new") == steps(0, 4, 1.0) + steps(4, 6, 3.0)
    everything = client.history(project, "new", superseded=True).series[0]
    assert [step for step, hidden in zip(everything.steps, everything.superseded, strict=True) if hidden] == [
        *(4, 5, 6, 7),
        *(8, 9),
    ]
    # Its child in turn sees what it shows now, with the grandparent's part of it.
    train(coordinator, project, "newest", range(6, 7), 4.0, fork_from="new?_step=5")
    assert shown(client, project, "newest") == steps(0, 4, 1.0) + steps(4, 6, 3.0) + steps(6, 7, 4.0)
    assert shown(client, project, "newest", min_step=3, max_step=4) == [(3, 1.0), (4, 3.0)]
    assert shown(client, project, "old") == steps(0, 10, 1.0)


def test_a_link_mends_a_second_run(coordinator: CoordinatorProcess, client: runlease.Client, project: str) -> None:
    # Given a resume that made another run, which went on from a checkpoint of the first one.
    train(coordinator, project, "first", range(10), 1.0, save=(6,))
    with runlease.init(project=project, id="second", coordinator=coordinator.address) as run:
        run.log({"loss": 2.0}, step=7)
        run.log({"loss": 2.0}, step=8)
        record = client.link(project, "second", "first", 6)  # while it runs
        assert record.parent is not None
        run.log({"loss": 2.0}, step=9)
    assert shown(client, project, "second") == steps(0, 7, 1.0) + steps(7, 10, 2.0)
    again = client.link(project, "second", "first", 6)
    assert (again.fence, again.next_step) == (record.fence, 10)
    # When it is resumed now, it goes on behind the first run's checkpoint.
    resumed = train(coordinator, project, "second", range(7, 8), 3.0)
    assert (resumed.starting_step, resumed.attempt) == (7, 2)
    assert shown(client, project, "second") == [*steps(0, 7, 1.0), (7, 3.0)]


def test_a_link_of_a_run_without_points_lets_it_go_on(
    coordinator: CoordinatorProcess, client: runlease.Client, project: str
) -> None:
    train(coordinator, project, "first", range(10), 1.0)
    train(coordinator, project, "second", range(0), 0.0)
    assert client.link(project, "second", "first").next_step == 10
    assert train(coordinator, project, "second", range(10, 11), 2.0).starting_step == 10
    assert shown(client, project, "second") == [*steps(0, 10, 1.0), (10, 2.0)]


def test_links_that_cannot_be(coordinator: CoordinatorProcess, client: runlease.Client, project: str) -> None:
    for id in ("a", "b", "c", "empty"):
        train(coordinator, project, id, range(0 if id == "empty" else 3), 1.0)
    client.link(project, "b", "a")
    client.link(project, "c", "b")
    for id, continues, message in (
        ("a", "c", "cycle"),
        ("a", "a", "cycle"),
        ("c", "a", "continues b .* already"),
        ("c", "none", "does not exist"),
        ("none", "c", "does not exist"),
        ("a", "empty", "below the next step"),
    ):
        with pytest.raises(runlease.RunleaseError, match=message):
            client.link(project, id, continues)
    for step in (3, 2**53):
        with pytest.raises(runlease.InvalidArgument):
            client.link(project, "a", "empty", step)


def test_forks_that_cannot_be(coordinator: CoordinatorProcess, client: runlease.Client, project: str) -> None:
    train(coordinator, project, "old", range(3), 1.0)
    for how, error in (
        ("old?_step=3", runlease.InvalidArgument),
        ("none?_step=0", runlease.RunNotFound),
    ):
        with pytest.raises(error):
            train(coordinator, project, "new", range(0), 0.0, fork_from=how)
    with pytest.raises(runlease.RunNotFound):  # nothing is left of them
        client.get_run(project, "new")
    with pytest.raises(runlease.InvalidArgument, match="from itself"):
        train(coordinator, project, "old", range(0), 0.0, fork_from="old?_step=1")
    train(coordinator, project, "new", range(1), 1.0)
    with pytest.raises(runlease.RunExists):  # a fork starts a new run
        train(coordinator, project, "new", range(0), 0.0, fork_from="old?_step=1")
    client.delete_run(project, "old", client.get_run(project, "old").fence)
    with pytest.raises(runlease.RunDeleted):
        train(coordinator, project, "newer", range(0), 0.0, fork_from="old?_step=1")


def test_a_purge_frees_the_parent_and_the_id(
    coordinator: CoordinatorProcess, client: runlease.Client, project: str
) -> None:
    train(coordinator, project, "old", range(3), 1.0)
    train(coordinator, project, "new", range(2, 3), 1.0, fork_from="old?_step=1")
    old, new = client.get_run(project, "old").fence, client.get_run(project, "new").fence
    with pytest.raises(runlease.RunleaseError, match="not deleted"):
        client.delete_run(project, "new", new, purge=True)
    for id, fence in (("new", new), ("old", old)):
        client.delete_run(project, id, fence)
        client.delete_run(project, id, fence, purge=True)
        with pytest.raises(runlease.RunNotFound):
            client.get_run(project, id)
    # The ID is free again, its fences go on rising.
    train(coordinator, project, "old", range(1), 5.0)
    assert client.get_run(project, "old").fence > new
    assert shown(client, project, "old") == [(0, 5.0)]


def test_a_fork_names_its_parent_in_the_contract_s_way(client: runlease.Client, project: str) -> None:
    # The parent's form as typed and its canonical form are the same parent.
    grant = client.acquire(project, "a/b", nonce="n1", config={"x": 1})
    client.release(project, "a/b", grant.fence)
    request = leases_pb2.AcquireRequest(
        run=runs_pb2.RunRef(project=project, id="c"),
        nonce="n2",
        fork_from=leases_pb2.HistoryPoint(id="a-b", step=0),
    )
    with pytest.raises(runlease.InvalidArgument, match=r"fork_from\.step"):
        client._call(client._leases.Acquire, request)
