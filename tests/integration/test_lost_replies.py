"""Replies that never arrive: the repetition gives the same result, and nothing of the first try is left over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import runlease
from runlease.channel import Caller, open_channel
from runlease.v1 import leases_pb2, leases_pb2_grpc, runs_pb2
from runlease_coordinator.store.keys import run_keys

from tests.support.cli import bootstrap
from tests.support.coordinator import CoordinatorProcess
from tests.support.proxy import TO_CLIENT, Proxy
from tests.support.redis import RedisServer, free_port
from tests.support.wait import until


class Victim:
    """A client behind a proxy that loses replies, and one that sees what became of its calls."""

    def __init__(self, address: str, project: str) -> None:
        self.project = project
        self.proxy = Proxy(address)
        self.client = runlease.Client(self.proxy.address, timeout_s=30)
        self.channel = open_channel(self.proxy.address)
        self.stub = leases_pb2_grpc.LeaseServiceStub(self.channel)
        self.direct = runlease.Client(address)
        self.pool = ThreadPoolExecutor(1)
        list(self.client.list_runs(project))  # both are connected: what is lost later are replies
        grpc.channel_ready_future(self.channel).result(20)

    def acquire(self, **fields: Any) -> leases_pb2.Grant:
        """Acquire by the raw API, repeating it while nobody answers."""
        caller = Caller(self.proxy.address, timeout_s=30)
        return caller(self.stub.Acquire, self.wish(**fields)).grant

    def wish(self, **fields: Any) -> leases_pb2.AcquireRequest:
        run = runs_pb2.RunRef(project=self.project, id="r")
        return leases_pb2.AcquireRequest(**{"run": run, "nonce": "n1", "mode": "RESUME_MODE_ALLOW"} | fields)

    def lose_reply(self, call: Callable[[], Any], happened: Callable[[], bool]) -> Future[Any]:
        """Make a call whose reply is lost; returns once it has taken effect, before its caller can know."""
        self.proxy.drop(TO_CLIENT)
        future = self.pool.submit(call)
        until(happened, timeout_s=20, every_s=0.01)
        assert not future.done()
        return future

    def record(self) -> runlease.records.RunRecord | None:
        try:
            return self.direct.get_run(self.project, "r")
        except runlease.RunNotFound:
            return None

    def is_attempt(self, number: int, run_id: str = "r") -> bool:
        try:
            return self.direct.get_run(self.project, run_id).attempt == number
        except runlease.RunNotFound:
            return False

    def granted(self, nonce: str = "d") -> runlease.client.Grant:
        """Acquire directly, at once."""
        return self.direct.acquire(self.project, "r", nonce=nonce, resume="allow")

    def close(self) -> None:
        self.proxy.close()
        self.pool.shutdown()
        self.client.close()
        self.channel.close()
        self.direct.close()


@pytest.fixture
def victim(coordinator: CoordinatorProcess, project: str) -> Iterator[Victim]:
    victim = Victim(coordinator.address, project)
    yield victim
    victim.close()


def trained(victim: Victim, run_id: str = "r") -> int:
    """A run with steps 0..4 and a checkpoint at 3, finished; returns its fence."""
    address = victim.direct.coordinator
    with runlease.init(project=victim.project, id=run_id, config={"lr": 1}, coordinator=address) as run:
        for step in range(5):
            run.log({"loss": step}, step=step)
            if step == 3:
                run.commit_checkpoint(step, uri="u")
    return run.fence


HOW: dict[str, dict[str, Any]] = {
    "create": {"mode": "RESUME_MODE_NEVER"},
    "resume": {"mode": "RESUME_MODE_MUST", "config": {"lr": "2"}},
    "rewind": {"mode": "RESUME_MODE_MUST", "resume_from": leases_pb2.HistoryPoint(id="r", step=1)},
    "fork": {"mode": "RESUME_MODE_NEVER", "fork_from": leases_pb2.HistoryPoint(id="parent", step=2)},
}


@pytest.mark.parametrize("how", HOW)
def test_acquire(victim: Victim, how: str) -> None:
    attempt = 2 if how in ("resume", "rewind") else 1
    if attempt == 2:
        trained(victim)
    if how == "fork":
        trained(victim, "parent")
    again = victim.lose_reply(lambda: victim.acquire(**HOW[how]), lambda: victim.is_attempt(attempt))
    first = victim.record()
    victim.proxy.cut()
    grant = again.result(30)
    assert (grant.fence, grant.attempt) == (first.fence, attempt)
    assert grant.starting_step == {"create": 0, "resume": 4, "rewind": 2, "fork": 3}[how]
    assert grant.resumed == (attempt == 2)
    run = victim.record()
    assert (run.attempt, len(run.attempts), run.state) == (attempt, attempt, "running")
    assert run.remaining_s < first.remaining_s  # not extended
    assert victim.client.release(victim.project, "r", grant.fence) == "finished"
    assert victim.granted().attempt == attempt + 1


def test_renew(victim: Victim) -> None:
    fence = victim.acquire().fence
    # Given a lease that has run for a while, only a renewal gives it more time than it has left.
    until(lambda: victim.record().remaining_s < 29)
    left_s = victim.record().remaining_s
    again = victim.lose_reply(
        lambda: victim.client.renew(victim.project, "r", fence), lambda: victim.record().remaining_s > left_s
    )
    victim.proxy.cut()
    renewal = again.result(30)
    assert not renewal.reinstated
    assert renewal.remaining_s > left_s
    run = victim.record()
    assert (run.fence, run.attempt, run.state) == (fence, 1, "running")


def test_a_late_renewal_does_not_touch_the_successor(victim: Victim) -> None:
    fence = victim.acquire().fence
    until(lambda: victim.record().remaining_s < 29)
    again = victim.lose_reply(
        lambda: victim.client.renew(victim.project, "r", fence), lambda: victim.record().remaining_s > 29
    )
    victim.direct.release(victim.project, "r", fence, "failed")
    successor = victim.granted()
    victim.proxy.cut()
    with pytest.raises(runlease.StaleFence):
        again.result(30)
    run = victim.record()
    assert (run.fence, run.attempt, run.state) == (successor.fence, 2, "running")


@pytest.mark.parametrize("succeeded", [False, True])
@pytest.mark.parametrize("outcome", ["finished", "preempted"])
def test_release(victim: Victim, outcome: str, succeeded: bool) -> None:
    fence = victim.acquire().fence
    again = victim.lose_reply(
        lambda: victim.client.release(victim.project, "r", fence, outcome), lambda: victim.record().state == outcome
    )
    successor = victim.granted() if succeeded else None
    victim.proxy.cut()
    assert again.result(30) == outcome
    run = victim.record()
    assert [attempt.outcome for attempt in run.attempts] == [outcome, "running"][: 1 + succeeded]
    assert run.fence == (successor.fence if successor else fence)
    assert run.state == ("running" if succeeded else outcome)


@pytest.mark.parametrize("succeeded", [False, True])
@pytest.mark.parametrize("force", [False, True])
def test_break(victim: Victim, force: bool, succeeded: bool) -> None:
    held = victim.granted("h")
    again = victim.lose_reply(
        lambda: victim.client.break_lease(victim.project, "r", held.fence, force=force, reason="why"),
        lambda: victim.record().state == "killed" if force else victim.record().revoked,
    )
    broken = victim.record().fence
    assert (broken > held.fence) == force
    successor = None
    if succeeded:
        if not force:  # the holder lets go
            victim.direct.release(victim.project, "r", held.fence, "failed")
        successor = victim.granted()
    victim.proxy.cut()
    if succeeded and not force:
        with pytest.raises(runlease.StaleFence):
            again.result(30)
    else:
        assert again.result(30) == broken
    run = victim.record()
    if successor is not None:
        assert (run.fence, run.attempt, run.state, run.revoked) == (successor.fence, 2, "running", False)
    else:
        assert (run.fence, run.attempt) == (broken, 1)
    kinds = [event.kind for event in events(victim)]
    assert kinds.count("broken" if force else "revoked") == 1


def events(victim: Victim) -> list[runs_pb2.Event]:
    """All that has happened to the run so far."""
    from runlease.v1 import runs_pb2_grpc

    stub = runs_pb2_grpc.RunServiceStub(victim.channel)
    found = []
    stream = stub.Watch(runs_pb2.WatchRequest(project=victim.project, id="r", after="*=0-0"), timeout=30)
    for answer in stream:
        if not answer.HasField("event"):
            break
        found.append(answer.event)
    stream.cancel()
    return found


def test_a_run_of_the_sdk_over_lost_replies(victim: Victim) -> None:
    """The same through `init` and `finish`: one attempt, one lease, the outcome as said."""
    trained(victim)
    address = victim.proxy.address
    # Its connection is new, so that its replies are held up and not dropped: it has to be set up first.
    victim.proxy.delay(TO_CLIENT, 1.0)
    opened = victim.pool.submit(
        lambda: runlease.init(project=victim.project, id="r", resume="must", coordinator=address)
    )
    until(lambda: victim.is_attempt(2), timeout_s=20, every_s=0.01)
    victim.proxy.cut()
    run = opened.result(60)
    assert (run.attempt, run.starting_step, run.lease.state.value) == (2, 4, "held")
    run.log({"loss": 4.0}, step=4)
    assert run.flush(30)
    ended = victim.lose_reply(lambda: run.finish("preempted"), lambda: victim.record().state == "preempted")
    victim.proxy.cut()
    assert ended.result(60)
    record = victim.record()
    assert [attempt.outcome for attempt in record.attempts] == ["finished", "preempted"]
    assert len(victim.direct.history(victim.project, "r")) == 5


def test_a_release_whose_reply_is_lost_has_ended_the_belief(victim: Victim) -> None:
    """When the run is free, its holder no longer believes in the lease, though it has not heard of it yet."""
    run = runlease.init(project=victim.project, id="r", coordinator=victim.proxy.address)
    assert run.lease.state.value == "held"
    ended = victim.lose_reply(run.finish, lambda: victim.record().state == "finished")
    successor = victim.granted()
    assert not ended.done()
    assert (run.lease.state.value, run.lease.remaining_s) == ("released", 0.0)
    with pytest.raises(runlease.LeaseLost):
        run.lease.check()
    victim.proxy.cut()
    assert ended.result(60)
    assert (run.lease.state.value, victim.record().fence) == ("released", successor.fence)


# Callers that are gone for good


@pytest.fixture
def store(redis_binary: str) -> Iterator[tuple[RedisServer, Proxy]]:
    """A store, and the proxy through which its coordinator reaches it."""
    port = free_port()
    server = RedisServer("appendonly yes", "appendfsync always", binary=redis_binary, port=port)
    proxy = Proxy(f"127.0.0.1:{port}")
    yield server, proxy
    server.close()
    proxy.close()


@pytest.fixture
def cornered(
    store: tuple[RedisServer, Proxy], start_coordinator: Callable[..., CoordinatorProcess], project: str
) -> Iterator[Victim]:
    url = f"redis://{store[1].address}/0"
    bootstrap(url)
    victim = Victim(start_coordinator("--store", url).address, project)
    yield victim
    victim.close()


def asks(server: RedisServer, *words: str) -> bytes:
    return server.command(*words)


def test_a_caller_that_is_gone_while_it_waits_gives_its_place_up(
    cornered: Victim, store: tuple[RedisServer, Proxy]
) -> None:
    server, _ = store
    queue = run_keys(cornered.project, "r").wait
    held = cornered.granted("h")
    waiting = cornered.stub.Acquire.future(cornered.wish(wait_ms=20_000), timeout=30)
    until(lambda: asks(server, "ZCARD", queue) == b":1\r\n")
    cornered.proxy.cut(for_good=True)
    until(lambda: asks(server, "ZCARD", queue) == b":0\r\n")
    assert waiting.exception(30).code() is grpc.StatusCode.UNAVAILABLE
    cornered.direct.release(cornered.project, "r", held.fence)
    assert cornered.granted("next").attempt == 2  # nobody is before it


@pytest.mark.parametrize("resumes", [False, True])
def test_a_grant_that_no_longer_finds_its_caller_is_given_back(
    cornered: Victim, store: tuple[RedisServer, Proxy], resumes: bool
) -> None:
    """Given a store whose answer is on its way when the caller goes: the grant is made, and nobody is told."""
    server, link = store
    run_key = run_keys(cornered.project, "r").run
    if resumes:
        trained(cornered)
        before = cornered.record()
    link.stall(TO_CLIENT)
    lost = cornered.stub.Acquire.future(cornered.wish(config={"lr": "9"}, wait_ms=20_000), timeout=30)
    until(lambda: b"$2\r\nn1\r\n" in asks(server, "HGET", run_key, "nonce"))  # granted
    cornered.proxy.cut(for_good=True)
    assert lost.exception(30).code() is grpc.StatusCode.UNAVAILABLE
    for _ in range(5):  # what the coordinator answers by itself comes after what it heard before
        with pytest.raises(runlease.InvalidArgument):
            cornered.direct.renew(cornered.project, "r", 0)
    link.flow(TO_CLIENT)
    if resumes:
        until(lambda: asks(server, "HGET", run_key, "attempt") == b"$1\r\n1\r\n")
    else:
        until(lambda: asks(server, "EXISTS", run_key) == b":0\r\n")
    if resumes:
        run = cornered.record()
        assert run.fence > before.fence  # used up
        assert (run.state, run.attempt, run.config, run.lock_delay_s) == ("finished", 1, {"lr": 1}, 0)
        assert run.attempts == before.attempts
    grant = cornered.granted("next")  # at once: no lock-delay
    assert (grant.attempt, grant.resumed) == (2, True) if resumes else (1, False)
