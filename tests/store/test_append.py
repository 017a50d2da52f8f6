"""The scripts of writers' logs: order of the checks, sessions, segments, and a store without memory."""

from __future__ import annotations

import math

import pytest
from runlease_coordinator.domain.errors import InvalidField, RunDeleted, Stale, Unavailable
from runlease_coordinator.domain.metrics import Entry, EntryKind, Writer, WriterPosition
from runlease_coordinator.domain.runs import RunState
from runlease_coordinator.store.keys import run_keys
from runlease_coordinator.store.metrics import Appended, Gap

from tests.support.stores import LiveStore, commit_entry, points_entry, rewind_entry, writer_of

VOID = EntryKind.VOID


def opened(live: LiveStore, project: str, *, name: str = "main", session: str = "s1", fence: int = 0) -> Writer:
    writer = writer_of(project, fence or live.acquire(project).fence, name=name, session=session)
    live.run(live.metrics.open_writer(writer))
    return writer


def append(live: LiveStore, writer: Writer, entry: Entry) -> Appended | Gap:
    return live.run(live.metrics.append(writer, entry))


def steps(live: LiveStore, project: str) -> list[int]:
    return [step for series in live.read(project) for step in series.steps]


# Order of the checks: incarnation, fence, session, seq, segment. Each entry below breaks a rule and all later ones.


def test_the_fence_is_checked_before_the_session(live: LiveStore, project: str) -> None:
    writer = opened(live, project)
    live.release(project, writer.fence)
    opened(live, project, session="s2")
    before = live.dump(project)
    with pytest.raises(Stale) as caught:
        append(live, writer, points_entry(9, [(0, 1.0)], segment=9))
    assert caught.value.reason == "STALE_FENCE"
    assert live.dump(project) == before


def test_the_session_is_checked_before_the_seq(live: LiveStore, project: str) -> None:
    writer = opened(live, project)
    opened(live, project, session="s2", fence=writer.fence)
    before = live.dump(project)
    for seq in (1, 9):
        with pytest.raises(Stale) as caught:
            append(live, writer, points_entry(seq, [(0, 1.0)], segment=9))
        assert caught.value.reason == "SESSION_TAKEN"
    assert live.dump(project) == before


@pytest.mark.parametrize(("seq", "answer"), [(1, Appended(2)), (2, Appended(2)), (4, Gap(2)), (2**53, Gap(2))])
def test_the_seq_is_checked_before_the_segment(live: LiveStore, project: str, seq: int, answer: object) -> None:
    writer = opened(live, project)
    for number in (1, 2):
        append(live, writer, points_entry(number, [(number, 1.0)]))
    before = live.dump(project)
    assert append(live, writer, points_entry(seq, [(50, 9.0)], segment=9)) == answer
    assert live.dump(project) == before


def test_a_wrong_segment_is_named_and_stores_nothing(live: LiveStore, project: str) -> None:
    writer = opened(live, project)
    append(live, writer, points_entry(1, [(0, 1.0)]))
    before = live.dump(project)
    for entry in (
        points_entry(2, [(1, 1.0)], segment=1),
        commit_entry(2, 1, writer.fence, segment=1),
        rewind_entry(2, 0, segment=0),  # after a write a rewind opens the next one
        rewind_entry(2, 0, segment=2),
    ):
        with pytest.raises(InvalidField) as caught:
            append(live, writer, entry)
        assert caught.value.field == "entry.segment"
    assert live.dump(project) == before
    assert append(live, writer, rewind_entry(2, 0, segment=1)) == Appended(2)


def test_a_writer_that_nobody_opened_may_not_append(live: LiveStore, project: str) -> None:
    fence = live.acquire(project).fence
    with pytest.raises(Stale) as caught:
        append(live, writer_of(project, fence), points_entry(1, [(0, 1.0)]))
    assert caught.value.reason == "SESSION_TAKEN"


def test_a_deleted_run_takes_nothing(live: LiveStore, project: str) -> None:
    writer = opened(live, project)
    live.release(project, writer.fence)
    live.run(live.runs.delete_run(project, "r", "r", writer.fence, ""))
    with pytest.raises(RunDeleted):
        append(live, writer, points_entry(1, [(0, 1.0)]))


# Sessions and duplicates


def test_a_duplicate_is_acknowledged_and_not_stored(live: LiveStore, project: str) -> None:
    writer = opened(live, project)
    assert append(live, writer, points_entry(1, [(0, 1.0), (1, 1.0)])) == Appended(1)
    assert append(live, writer, points_entry(2, [(2, 2.0)])) == Appended(2)
    assert append(live, writer, points_entry(1, [(7, 9.0)])) == Appended(2)
    assert steps(live, project) == [0, 1, 2]
    assert live.get(project).run.points == 3


def test_a_new_session_goes_on_where_the_old_one_was(live: LiveStore, project: str) -> None:
    writer = opened(live, project)
    append(live, writer, points_entry(1, [(0, 1.0)]))
    append(live, writer, rewind_entry(2, 0, segment=1))
    heir = writer_of(project, writer.fence, session="s2")
    assert live.run(live.metrics.open_writer(heir)) == WriterPosition(2, 1, True)
    assert append(live, heir, points_entry(3, [(0, 3.0)], segment=1)) == Appended(3)
    with pytest.raises(Stale):
        append(live, writer, points_entry(4, [(1, 4.0)], segment=1))
    assert live.read(project)[0].values.tolist() == [3.0]


def test_a_session_that_was_replaced_gets_nothing_back(live: LiveStore, project: str) -> None:
    first = opened(live, project)
    append(live, first, points_entry(1, [(0, 1.0)]))
    sessions = [writer_of(project, first.fence, session=f"s{number}") for number in range(2, 40)]
    for session in sessions:
        live.run(live.metrics.open_writer(session))
    for session in (sessions[-2], sessions[10], sessions[-2]):
        with pytest.raises(Stale) as caught:
            live.run(live.metrics.open_writer(session))
        assert caught.value.reason == "SESSION_TAKEN"
    # The present one may open again, as after a broken stream, and is not disturbed by the others' tries.
    assert live.run(live.metrics.open_writer(sessions[-1])).seq == 1
    assert append(live, sessions[-1], points_entry(2, [(1, 2.0)])) == Appended(2)
    remembered = live.raw.hget(run_keys(project, "r").seq, "main~")
    assert isinstance(remembered, str)
    assert len(remembered.split()) == 33
    # Another writer's sessions, and those under another fence, are other ones.
    other = writer_of(project, first.fence, name="rank1", session="s11")
    assert live.run(live.metrics.open_writer(other)).seq == 0
    live.release(project, first.fence)
    fence = live.acquire(project).fence
    assert live.run(live.metrics.open_writer(writer_of(project, fence, session="s11"))).seq == 0


def test_a_new_fence_starts_anew(live: LiveStore, project: str) -> None:
    writer = opened(live, project)
    append(live, writer, points_entry(1, [(0, 1.0)]))
    live.release(project, writer.fence)
    fence = live.acquire(project).fence
    assert live.run(live.metrics.open_writer(writer_of(project, fence))) == WriterPosition(0, 0, False)


def test_writers_do_not_share_their_seqs(live: LiveStore, project: str) -> None:
    writer = opened(live, project)
    append(live, writer, points_entry(1, [(0, 1.0)]))
    other = opened(live, project, name="rank1", fence=writer.fence)
    assert append(live, other, points_entry(1, [(0, 2.0)])) == Appended(1)
    shown = live.read(project, writers=("main", "rank1"))
    assert [(one.writer, one.values.tolist()) for one in shown] == [("main", [1.0]), ("rank1", [2.0])]


def test_an_expired_lease_without_successor_may_still_append(live: LiveStore, project: str) -> None:
    writer = opened(live, project, fence=live.acquire(project, ttl_us=20_000).fence)
    live.wait_past(int(live.raw.hget(run_keys(project, "r").run, "expiry") or 0))
    assert append(live, writer, points_entry(1, [(0, 1.0)])) == Appended(1)
    live.run(live.sweeper.sweep())
    assert append(live, writer, points_entry(2, [(1, 1.0)])) == Appended(2)
    assert steps(live, project) == [0, 1]


def test_a_void_entry_uses_up_its_seq_and_stores_nothing(live: LiveStore, project: str) -> None:
    writer = opened(live, project)
    log = run_keys(project, "r").log
    assert append(live, writer, Entry(1, 7, VOID, b"", 0, 0)) == Appended(1)
    assert live.raw.xlen(log) == 0
    # It is no write: the rewind behind it still replaces the start.
    assert append(live, writer, rewind_entry(2, 5)) == Appended(2)
    attempt = live.get(project).run.attempts[0]
    assert (attempt.starting_step, len(attempt.segments), attempt.segments[0].counts) == (5, 1, False)
    assert append(live, writer, Entry(9, 0, VOID, b"", 0, 0)) == Gap(2)
    assert append(live, writer, points_entry(3, [(5, 1.0)])) == Appended(3)


def test_entries_lie_in_the_log_under_their_fence(live: LiveStore, project: str) -> None:
    fences = []
    for value in (1.0, 2.0):
        writer = opened(live, project)
        fences.append(writer.fence)
        append(live, writer, points_entry(1, [(0, value)]))
        append(live, writer, commit_entry(2, 0, writer.fence))
        live.release(project, writer.fence)
    log = live.run(live.store.reads.call("XRANGE", run_keys(project, "r").log, "-", "+"))
    assert [int(entry_id.split(b"-")[0]) for entry_id, _ in log] == [fence for fence in fences for _ in range(2)]


def test_values_come_back_as_they_went_in(live: LiveStore, project: str) -> None:
    writer = opened(live, project)
    values = [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1]
    append(live, writer, points_entry(1, list(enumerate(values))))
    assert [value.hex() for value in live.read(project)[0].values] == [value.hex() for value in values]


def test_the_highest_steps_stay_exact(live: LiveStore, project: str) -> None:
    writer = opened(live, project)
    top = 2**53 - 2
    append(live, writer, points_entry(1, [(top - 1, 1.0), (top, 2.0)]))
    append(live, writer, commit_entry(2, top, writer.fence))
    assert live.read(project)[0].steps.tolist() == [top - 1, top]
    run = live.get(project).run
    assert (run.next_step, run.last_step) == (top + 1, top)
    live.release(project, writer.fence)
    grant = live.acquire(project)
    assert (grant.starting_step, grant.checkpoint and grant.checkpoint.step) == (top + 1, top)


def test_a_long_log_is_read_in_pages(live: LiveStore, project: str) -> None:
    writer = opened(live, project)
    for seq in range(1, 131):  # more than the 16 entries of a first page
        append(live, writer, points_entry(seq, [(seq, float(seq))]))
    assert steps(live, project) == list(range(1, 131))
    assert live.read(project, superseded=True)[0].steps.tolist() == list(range(1, 131))  # none read twice


# A store without memory


def test_without_memory_metrics_wait_and_leases_go_on(live: LiveStore, project: str) -> None:
    writer = opened(live, project)
    other = live.acquire(project, "other").fence
    payload = [(step, float(step)) for step in range(2_000)]
    used = int(live.raw.info("memory")["used_memory"])
    live.raw.config_set("maxmemory", used + 500_000)
    acknowledged = 0
    try:
        refusal: Unavailable | None = None
        while refusal is None and acknowledged < 10_000:
            try:
                append(live, writer, points_entry(acknowledged + 1, payload))
                acknowledged += 1
            except Unavailable as error:
                refusal = error
        assert refusal is not None
        assert refusal.reason == "OUT_OF_MEMORY"
        assert acknowledged > 0
        live.raw.config_set("maxmemory", 1)  # else a small entry may still fit
        before = live.dump(project)
        with pytest.raises(Unavailable):
            append(live, writer, commit_entry(acknowledged + 1, 5, writer.fence))
        assert live.dump(project) == before
        # All that controls leases still works, reads too.
        assert live.acquire(project, "new").attempt == 1
        assert live.run(live.leases.renew(project, "r", writer.fence)).remaining_us > 0
        assert live.release(project, other, run_id="other") == "finished"
        assert live.run(live.metrics.open_writer(writer)) == WriterPosition(acknowledged, 0, True)
        live.run(live.sweeper.sweep())
        assert live.get(project).run.state is RunState.RUNNING
    finally:
        live.raw.config_set("maxmemory", 0)
    assert append(live, writer, points_entry(acknowledged + 1, payload)) == Appended(acknowledged + 1)
    assert live.get(project).run.points == (acknowledged + 1) * len(payload)
