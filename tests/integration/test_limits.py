"""Rate limits through all layers: a trainer above them goes on, and everything arrives, once and in order."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest
import runlease
from runlease.channel import open_channel
from runlease.exceptions import InvalidArgument, RunNotFound
from runlease.v1 import metrics_pb2 as pb
from runlease.v1 import metrics_pb2_grpc, runs_pb2

from tests.support.cli import Cli
from tests.support.coordinator import CoordinatorProcess
from tests.support.wait import until

LONG = 60.0


@pytest.fixture
def client(coordinator: CoordinatorProcess) -> Iterator[runlease.Client]:
    with runlease.Client(coordinator.address) as client:
        yield client


@pytest.fixture
def init(coordinator: CoordinatorProcess, project: str) -> Any:
    def start(**more: Any) -> runlease.Run:
        return runlease.init(project=project, id="r", resume="allow", coordinator=coordinator.address, **more)

    return start


def steps(client: runlease.Client, project: str) -> list[int]:
    return [row.step for row in client.history(project, "r").rows()]


def use_up(client: runlease.Client, run: runlease.Run) -> None:
    """Log 1000 points at a limit of one a second: nothing more comes in for a quarter of an hour."""
    client.set_limits(run.project, run_points=1, burst_s=0)
    for _ in range(1000):
        run.log({"a": 0})
    run.commit_checkpoint(999, uri="file:///c", wait=True)


def test_everything_arrives_once_and_in_order(client: runlease.Client, project: str, init: Any) -> None:
    # Given a limit that lets through a fraction of what is logged at once; two seconds' worth waits.
    client.set_limits(project, run_points=20_000, burst_s=0.05)
    with init() as run:
        for step in range(40_000):
            run.log({"a": step}, step=step)
        assert run.flush(LONG)
        stats = run.stats()
        assert (stats.logged, stats.acknowledged, stats.dropped, stats.lost) == (40_000, 40_000, 0, 0)
        assert stats.throttled_s > 0
        assert steps(client, project) == list(range(40_000))


def test_a_training_above_its_limit_loses_and_reorders_nothing_of_any_key(
    client: runlease.Client, project: str, init: Any
) -> None:
    # Given a training of five scalars a step, a limit far below what it logs, and a checkpoint that goes beyond it.
    keys = ("train/loss", "train/acc", "lr", "grad_norm", "speed")
    client.set_limits(project, run_points=500, burst_s=0.05)
    with init() as run:
        for step in range(2000):
            run.log({key: step + place / 8 for place, key in enumerate(keys)})
            if step == 499:
                run.commit_checkpoint(step, uri="file:///c")
        until(lambda: run.stats().throttled_s > 0)
        waiting = run.stats()
        assert waiting.buffered > 0
        assert (waiting.dropped, waiting.lost) == (0, 0)
        client.set_limits(project, run_points=0)
        assert run.flush(LONG)
    found = {series.key: series for series in client.history(project, "r").series}
    assert sorted(found) == sorted(keys)
    for place, key in enumerate(keys):
        assert list(found[key].steps) == list(range(2000))
        assert list(found[key].values) == [step + place / 8 for step in range(2000)]
    assert [each.step for each in client.get_run(project, "r").checkpoints] == [499]


def test_the_loop_and_the_lease_go_on_and_a_raised_limit_holds_at_once(
    client: runlease.Client, project: str, init: Any
) -> None:
    with init(ttl=5) as run:
        use_up(client, run)
        for _ in range(5000):
            run.log({"a": 1})
        until(lambda: run.stats().throttled_s > 0)
        assert (run.step, run.stats().acknowledged, run.stats().buffered) == (6000, 1000, 5000)
        # The lease is renewed meanwhile: what remains of it grows again.
        remaining = [run.lease.remaining_s]

        def grows() -> bool:
            remaining.append(run.lease.remaining_s)
            return remaining[-1] > remaining[-2]

        until(grows)
        run.lease.check()
        assert run.stats().acknowledged == 1000
        client.set_limits(project, run_points=0)
        assert run.flush(LONG)
    assert steps(client, project) == list(range(6000))


def test_what_a_checkpoint_waits_for_is_taken_in(client: runlease.Client, project: str, init: Any) -> None:
    with init() as run:
        use_up(client, run)
        for _ in range(1000):
            run.log({"a": 1})
        until(lambda: run.stats().throttled_s > 0)
        run.commit_checkpoint(1999, uri="file:///c", wait=True)
        assert steps(client, project) == list(range(2000))
        assert client.get_run(project, "r").checkpoints[-1].step == 1999
        run.log({"a": 2})
        assert not run.flush(0.2)
        client.set_limits(project, run_points=0)


def test_entries_behind_a_throttled_one_get_no_answer(
    coordinator: CoordinatorProcess, client: runlease.Client, project: str
) -> None:
    client.set_limits(project, run_points=1, burst_s=0)
    channel = open_channel(coordinator.address)
    grant = client.acquire(project, "r", nonce=secrets.token_hex(8), resume="allow", ttl_s=60)
    stub = metrics_pb2_grpc.MetricServiceStub(channel)
    opening = pb.OpenWriter(
        run=runs_pb2.RunRef(project=project, id="r"), fence=grant.fence, writer="main", session=secrets.token_hex(8)
    )

    def entry(seq: int) -> pb.AppendRequest:
        points = pb.Points(steps=[seq], times=[1e9], series=[pb.Series(key="a", values=[1.0])])
        return pb.AppendRequest(entry=pb.Entry(seq=seq, points=points))

    def requests() -> Iterator[pb.AppendRequest]:
        yield pb.AppendRequest(open=opening)
        yield from map(entry, range(1, 6))  # the second is refused; the others behind it are dropped without a word
        yield from iter(later.get, None)

    later: SimpleQueue[pb.AppendRequest | None] = SimpleQueue()
    answers = stub.Append(requests())
    kinds = []
    for answer in answers:
        kinds.append(answer.WhichOneof("message"))
        if kinds[-1] == "throttle":
            break
    assert kinds == ["opened", "ack", "throttle"]
    assert (answer.throttle.seq, answer.throttle.limited, answer.throttle.limit) == (2, "run/points", 1)
    assert 0 < answer.throttle.retry_after_ms <= 1001
    assert answer.throttle.remaining == 0
    client.set_limits(project, run_points=0)
    for seq in (2, 3):
        later.put(entry(seq))
    later.put(entry(9))  # now a jump is a gap again
    seen = []
    for answer in answers:
        seen.append(answer)
        if answer.HasField("rejected"):
            break
    assert [a.ack.seq for a in seen[:-1]][-1] == 3
    assert (seen[-1].rejected.seq, seen[-1].rejected.expected_seq) == (9, 4)
    later.put(None)
    assert list(answers) == []
    channel.close()
    assert steps(client, project) == [1, 2, 3]


def test_malformed_limits_are_refused_by_name(client: runlease.Client, project: str) -> None:
    client.acquire(project, "r", nonce="n", resume="allow")
    with pytest.raises(RunNotFound):
        client.get_limits(project, "none")
    refused: list[tuple[str | None, dict[str, Any], str]] = [
        (None, {}, "limits"),
        (None, {"run_points": 10**12 + 1}, "limits.run_points"),
        (None, {"run_points": -1}, "run_points"),
        (None, {"burst_s": float("nan")}, "limits.burst_s"),
        (None, {"burst_s": 3601}, "limits.burst_s"),
        ("r", {"project_bytes": 1}, "limits.project_bytes"),
    ]
    for run_id, limits, field in refused:
        with pytest.raises(InvalidArgument) as caught:
            client.set_limits(project, run_id, **limits)
        assert caught.value.field == field


def test_the_command_line_shows_and_sets(
    coordinator: CoordinatorProcess, client: runlease.Client, project: str
) -> None:
    client.acquire(project, "r", nonce="n", resume="allow")
    cli = Cli(coordinator.env)
    assert cli("limits", "show", project).stdout.split("\n")[:2] == [
        "a run                           200 000 points/s",
        "a run                        16 777 216 bytes/s",
    ]
    said = cli("limits", "set", f"{project}/r", "--run-points", "0", "--burst", "2.5").stdout
    assert said.startswith(f"limits of {project}/r are now:\na run                         unlimited points/s\n")
    cli("limits", "set", project, "--project-points", "5", "--project-bytes", "6", "--run-bytes", "7")
    assert cli.json("limits", "show", f"{project}/r") == {
        "run_points": 0,
        "run_bytes": 7,
        "project_points": 5,
        "project_bytes": 6,
        "burst_s": 2.5,
        "acquires": 2000,
    }
    events = cli("events", project).stdout.splitlines()
    assert [line.split("  ")[1:3] for line in events[-2:]] == [[f"{project}/r", "limits"], [project, "limits"]]
    assert events[-1].endswith("limits  project_bytes: 6, project_points: 5, run_bytes: 7")
    assert "nothing to set" in cli("limits", "set", project, status=2).stderr
    cli("limits", "set", project, "--run-points", "-1", status=2)
    cli("limits", "show", f"{project}/none", status=3)
    cli("limits", "set", f"{project}/r", "--project-points", "1", status=2)
