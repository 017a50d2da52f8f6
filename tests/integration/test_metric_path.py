"""The writer's log against a real coordinator: everything once, in order, whatever dies or stops."""

from __future__ import annotations

import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
import pytest
import runlease
from runlease.channel import open_channel
from runlease.exceptions import InvalidArgument, RunleaseError, StaleFence
from runlease.writer import LogWriter, WriterSettings

from tests.support.coordinator import CoordinatorProcess
from tests.support.proxy import Proxy
from tests.support.wait import until

PACE = WriterSettings(drain_interval_s=0.02, silence_s=0.5)
LONG = 40.0


@dataclass
class Place:
    """A run on a coordinator, and writers of it under one lease."""

    client: runlease.Client
    address: str
    project: str
    fence: int
    channels: list[grpc.Channel]
    writers: list[LogWriter]
    told: list[RunleaseError]

    def writer(self, address: str = "", **more: str) -> LogWriter:
        self.channels.append(open_channel(address or self.address))
        self.writers.append(
            LogWriter(
                self.channels[-1],
                self.project,
                "r",
                self.fence,
                settings=PACE,
                on_stale=self.told.append,
                **more,
            )
        )
        return self.writers[-1]

    def acquire(self) -> int:
        grant = self.client.acquire(self.project, "r", nonce=secrets.token_hex(8), resume="allow", ttl_s=60)
        return grant.fence

    def history(self, *keys: str, **more: bool) -> dict[str, list[tuple[int, float]]]:
        found = self.client.history(self.project, "r", keys=keys or None, **more)
        return {one.key: list(zip(one.steps, one.values, strict=True)) for one in found.series}


@pytest.fixture
def open_place(project: str) -> Iterator[Callable[[CoordinatorProcess], Place]]:
    places: list[Place] = []

    def open_on(coordinator: CoordinatorProcess) -> Place:
        client = runlease.Client(coordinator.address, timeout_s=LONG)
        places.append(Place(client, coordinator.address, project, 0, [], [], []))
        places[-1].fence = places[-1].acquire()
        return places[-1]

    yield open_on
    for place in places:
        for writer in place.writers:
            writer.close(0)
        for channel in place.channels:
            channel.close()
        place.client.close()


@pytest.fixture
def place(any_coordinator: CoordinatorProcess, open_place: Callable[[CoordinatorProcess], Place]) -> Place:
    return open_place(any_coordinator)


def train(writer: LogWriter, *steps: int) -> None:
    for step in steps:
        writer.log(step, 1e9 + step, ("loss", "lr"), (step / 4, 0.5))


def line(*steps: int) -> list[tuple[int, float]]:
    return [(step, step / 4) for step in steps]


def test_rows_of_changing_keys_come_back_as_logged(place: Place) -> None:
    writer = place.writer()
    for step in range(1000):
        keys, values = (("loss", "val"), (step / 4, 1.0)) if step % 10 == 0 else (("loss",), (step / 4,))
        writer.log(step, 1e9 + step, keys, values)
    wide = tuple(f"{i:04}{'ü' * 252}" for i in range(3000))
    writer.log(1000, 2e9, wide, tuple(float(i) for i in range(3000)))
    assert writer.flush(LONG)
    history = place.history()
    assert history["loss"] == line(*range(1000))
    assert history["val"] == [(step, 1.0) for step in range(0, 1000, 10)]
    assert [history[key] for key in wide] == [[(1000, float(i))] for i in range(3000)]
    assert writer.stats().acknowledged == 1000 + 100 + 3000


def test_commits_and_rewinds_take_effect_in_their_place(place: Place) -> None:
    writer = place.writer()
    writer.rewind(5)  # before the first write: the attempt starts here
    train(writer, 5, 6, 7)
    first = writer.commit(6, "/c/6", {"note": '"six"'})
    writer.rewind(7)
    train(writer, 7, 8)
    second = writer.commit(8, "/c/8", {})
    writer.rewind(8)
    writer.rewind(7)
    train(writer, 7)
    assert first.wait(LONG)
    assert second.wait(LONG)
    assert writer.flush(LONG)
    run = place.client.get_run(place.project, "r")
    assert [(c.step, c.superseded) for c in run.checkpoints] == [(6, False), (8, True)]
    assert place.history("loss")["loss"] == line(5, 6, 7)
    kept = place.client.history(place.project, "r", keys=["loss"], superseded=True).series[0]
    assert sorted(kept.steps) == [5, 6, 7, 7, 7, 8]


def test_what_the_coordinator_refuses_costs_nothing_behind_it(place: Place) -> None:
    writer = place.writer()
    refused = writer.commit(0, "two\nlines", {})  # the first entry: so there is no write before the rewind
    writer.rewind(3)
    train(writer, 3, 4)
    accepted = writer.commit(4, "/c/4", {})
    with pytest.raises(InvalidArgument, match="uri"):
        refused.wait(LONG)
    assert accepted.wait(LONG)
    assert place.history("loss")["loss"] == line(3, 4)
    assert place.client.get_run(place.project, "r").attempts[0].starting_step == 3


def test_a_restarted_child_of_the_same_lease_goes_on_and_its_predecessor_ends(place: Place) -> None:
    first = place.writer()
    train(first, 0, 1)
    assert first.flush(LONG)
    second = place.writer()
    second.rewind(1)
    train(second, 1, 2)
    assert second.flush(LONG)
    train(first, 99)
    assert not first.flush(LONG)
    until(lambda: bool(place.told))
    assert isinstance(place.told[0], StaleFence)
    assert place.told[0].reason == "SESSION_TAKEN"
    assert place.history("loss")["loss"] == line(0, 1, 2)


def test_a_process_that_was_replaced_while_it_was_cut_off_takes_nothing_back(place: Place) -> None:
    # Given a writer whose connection is gone, and a successor that has taken the log over meanwhile
    proxy = Proxy(place.address)
    try:
        first = place.writer(proxy.address)
        train(first, 0, 1)
        assert first.flush(LONG)
        proxy.cut(for_good=True)
        second = place.writer()
        second.rewind(1)
        train(second, 1)
        assert second.flush(LONG)
        # When the first one can connect again, then it is told, and the other one writes on
        proxy.cut()
        train(first, 99)
        assert not first.flush(LONG)
        until(lambda: bool(place.told))
        assert [getattr(error, "reason", "") for error in place.told] == ["SESSION_TAKEN"]
        train(second, 2)
        assert second.flush(LONG)
    finally:
        first.close(0)
        proxy.close()
    assert place.history("loss")["loss"] == line(0, 1, 2)


def test_an_old_fence_writes_nothing(place: Place) -> None:
    writer = place.writer()
    train(writer, 0)
    assert writer.flush(LONG)
    place.client.release(place.project, "r", place.fence)
    train(writer, 1)  # a lease that ended without a successor may still append
    assert writer.flush(LONG)
    newer = place.acquire()
    train(writer, 2)
    durable = writer.commit(2, "/c/2", {})
    with pytest.raises(StaleFence) as caught:
        durable.wait(LONG)
    assert caught.value.current_fence == newer
    assert place.history("loss")["loss"] == line(0, 1)
    assert writer.stats().lost == 2


def test_writers_of_other_names_have_logs_of_their_own(place: Place) -> None:
    main, rank = place.writer(), place.writer(writer="rank1")
    train(main, 0, 1)
    train(rank, 0)
    assert main.flush(LONG)
    assert rank.flush(LONG)
    assert place.history("loss")["loss"] == line(0, 1)
    ranks = place.client.history(place.project, "r", keys=["loss"], writers=["rank1"]).series
    assert [(one.writer, list(one.steps)) for one in ranks] == [("rank1", [0])]


def keep_training(writer: LogWriter, stop: threading.Event) -> threading.Thread:
    """Log steps and commits until told to stop, as a training does; the steps are 0, 1, 2, ..."""

    def work() -> None:
        step = 0
        while not stop.wait(0.002):
            train(writer, step)
            if step % 50 == 0:
                writer.commit(step, f"/c/{step}", {})
            step += 1

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("victims", ["coordinator", "store", "both"])
def test_a_killed_coordinator_or_store_costs_no_point_and_doubles_none(
    victims: str, start_coordinator: Callable[..., CoordinatorProcess], open_place: Callable[..., Place]
) -> None:
    coordinator = start_coordinator()
    place, stop = open_place(coordinator), threading.Event()
    writer = place.writer()
    thread = keep_training(writer, stop)
    for _ in range(2):
        before = writer.stats().acknowledged
        until(lambda: writer.stats().acknowledged > before + 100)  # noqa: B023 - used within the pass
        if victims != "coordinator":
            coordinator.kill_store()
        if victims != "store":
            coordinator.kill()
            coordinator.start()
    before = writer.stats().acknowledged
    until(lambda: writer.stats().acknowledged > before + 100)
    stop.set()
    thread.join()
    assert writer.flush(LONG)
    stats = writer.stats()
    assert stats.logged == stats.acknowledged
    assert not place.told
    steps = stats.logged // 2
    assert place.history("loss")["loss"] == line(*range(steps))
    run = place.client.get_run(place.project, "r")
    assert [c.step for c in run.checkpoints] == list(range(0, steps, 50))
    assert run.points == stats.logged  # once in the log, not only in the view


def test_a_coordinator_that_stands_still_is_left_and_met_again(
    start_coordinator: Callable[..., CoordinatorProcess], open_place: Callable[..., Place]
) -> None:
    coordinator = start_coordinator()
    place = open_place(coordinator)
    writer = place.writer()
    train(writer, 0)
    assert writer.flush(LONG)
    assert coordinator.process is not None
    coordinator.process.send_signal(signal.SIGSTOP)
    try:
        train(writer, 1)
        until(lambda: "no answer" in writer.stats().last_error)
        train(writer, 2)
        assert not writer.flush(0.2)
    finally:
        coordinator.process.send_signal(signal.SIGCONT)
    assert writer.flush(LONG)
    assert place.history("loss")["loss"] == line(0, 1, 2)
    assert place.client.get_run(place.project, "r").points == writer.stats().logged == 6
