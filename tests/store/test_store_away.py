"""A store that stops answering, dies or comes back while calls are on their way."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest
from runlease_coordinator.domain.errors import Unavailable
from runlease_coordinator.domain.metrics import WriterPosition
from runlease_coordinator.store.metrics import Appended
from runlease_coordinator.store.store import Store

from tests.support.stores import LiveStore, points_entry, writer_of
from tests.support.wait import until


@pytest.fixture
def own() -> Iterator[LiveStore]:
    """A store of the test's own, whose server is started again when it dies."""
    store = LiveStore()

    async def back() -> None:
        return None

    async def watch() -> asyncio.Task[None]:
        return asyncio.create_task(store.embedded.watch(back))

    store.run(watch())
    yield store
    if store.embedded.pid is not None:
        store.signal_server(signal.SIGCONT)
    store.close()


def works(own: LiveStore, project: str, fence: int) -> bool:
    try:
        own.run(own.leases.renew(project, "r", fence))
        own.run(own.metrics.open_writer(writer_of(project, fence)))
        own.get(project)
    except Unavailable:
        return False
    return True


async def outcomes(own: LiveStore, project: str, fence: int) -> list[object]:
    """Make calls on all three connections at once; each must end."""
    calls = [own.leases.renew(project, "r", fence) for _ in range(5)]
    calls += [own.metrics.open_writer(writer_of(project, fence)), own.runs.get_run(project, "r", "r")]
    return await asyncio.gather(*calls, return_exceptions=True)


def test_a_store_that_is_silent_is_given_up_and_found_again(own: LiveStore, project: str) -> None:
    fence = own.acquire(project).fence
    own.signal_server(signal.SIGSTOP)
    # Nobody closes the connection: only the bound on an answer's time ends these calls.
    ended = own.run(outcomes(own, project, fence))
    assert [type(outcome) for outcome in ended] == [Unavailable] * 7
    assert {outcome.reason for outcome in ended if isinstance(outcome, Unavailable)} == {"STORE_UNAVAILABLE"}
    # Now that it is known to be away, calls fail without a wait; still nothing hangs.
    assert all(isinstance(outcome, Unavailable) for outcome in own.run(outcomes(own, project, fence)))
    own.signal_server(signal.SIGCONT)
    until(lambda: works(own, project, fence))
    assert own.get(project).run.fence == fence


def test_calls_in_flight_end_when_the_store_is_killed(own: LiveStore, project: str) -> None:
    fence = own.acquire(project).fence
    own.signal_server(signal.SIGSTOP)

    async def kill_with_calls_in_flight() -> list[object]:
        task = asyncio.create_task(outcomes(own, project, fence))
        await asyncio.sleep(0)  # the calls are queued
        own.signal_server(signal.SIGKILL)
        return await task

    ended = own.run(kill_with_calls_in_flight())
    assert all(isinstance(outcome, Unavailable) for outcome in ended)
    until(lambda: works(own, project, fence))


def test_nothing_acknowledged_is_lost_by_a_kill(own: LiveStore, project: str) -> None:
    fence = own.acquire(project, nonce="n1").fence
    writer = writer_of(project, fence)
    own.run(own.metrics.open_writer(writer))
    acknowledged: list[int] = []

    async def append_until_it_dies() -> None:
        seq = 0
        while True:
            batch = range(seq + 1, seq + 9)
            calls = [own.metrics.append(writer, points_entry(n, [(n, float(n))])) for n in batch]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            acknowledged.extend(n for n, answer in zip(batch, answers, strict=True) if answer == Appended(n))
            if any(isinstance(answer, Unavailable) for answer in answers):
                return
            assert all(isinstance(answer, Appended) for answer in answers)
            seq += 8
            if seq == 200:
                own.signal_server(signal.SIGKILL)

    own.run(append_until_it_dies())
    until(lambda: works(own, project, fence))
    stored = own.read(project)[0].steps.tolist()
    assert len(acknowledged) >= 200
    # In order, each once, and at least what was acknowledged: an answer may have been lost, a write not.
    assert stored == list(range(1, len(stored) + 1))
    assert len(stored) >= acknowledged[-1]
    assert own.run(own.metrics.open_writer(writer)) == WriterPosition(len(stored), 0, True)
    assert own.acquire(project, nonce="n1").fence == fence


def test_a_store_that_is_not_there_is_said_so(own: LiveStore, project: str) -> None:
    async def connect() -> None:
        await Store("unix:///nowhere/store.sock").start(0.3)

    with pytest.raises(Unavailable, match="away") as caught:
        own.run(connect())
    assert caught.value.reason == "STORE_UNAVAILABLE"


def test_concurrent_calls_get_their_own_answers(own: LiveStore, project: str) -> None:
    # Given hundreds of calls of one turn, some of them cancelled: the others' answers must not shift.
    for index in range(20):
        own.release(project, own.acquire(project, f"run-{index}").fence, run_id=f"run-{index}")

    async def read_all() -> list[tuple[int, str]]:
        tasks = [asyncio.create_task(own.runs.get_run(project, f"run-{n % 20}", f"run-{n % 20}")) for n in range(400)]
        await asyncio.sleep(0)
        for task in tasks[::7]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        return [(n, answer.run.id) for n, answer in enumerate(done) if not isinstance(answer, BaseException)]

    answers = own.run(read_all())
    assert len(answers) >= 400 - len(range(0, 400, 7))
    assert all(run_id == f"run-{n % 20}" for n, run_id in answers)
