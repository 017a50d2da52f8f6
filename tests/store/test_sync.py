"""Leases of syncs, and what they bring in: entries of ended attempts, lost ones, and how an attempt really ended."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from runlease_coordinator.domain.errors import DomainError, InvalidField, LeaseHeld, RunDeleted, RunNotFound, Stale
from runlease_coordinator.domain.leases import Grant, ProofOfDeath
from runlease_coordinator.domain.metrics import Entry, EntryKind, Writer, WriterPosition
from runlease_coordinator.domain.runs import RunState
from runlease_coordinator.store.keys import run_keys
from runlease_coordinator.store.metrics import Appended, Gap

from tests.support.stores import HOLDER, LiveStore, commit_entry, points_entry, rewind_entry, writer_of

SYNCER = replace(HOLDER, host="laptop", pid=77, group="g")


class Story:
    """One run whose attempts leave entries behind."""

    def __init__(self, live: LiveStore, project: str) -> None:
        self.live, self.project = live, project
        self.keys = run_keys(project, "r")
        self.fences: list[int] = []

    def attempt(self, *entries: Entry, outcome: str = "crashed", **how: Any) -> Writer:
        """One whole attempt; returns its writer."""
        grant = self.live.acquire(self.project, **how)
        self.fences.append(grant.fence)
        writer = writer_of(self.project, grant.fence)
        self.open(writer)
        self.put(writer, *entries)
        if outcome:
            self.live.release(self.project, grant.fence, outcome)
        return writer

    def sync(self, **how: Any) -> Grant:
        grant = self.live.acquire(self.project, sync=True, **how)
        self.fences.append(grant.fence)
        return grant

    def open(self, writer: Writer) -> WriterPosition:
        return self.live.run(self.live.metrics.open_writer(writer))

    def put(self, writer: Writer, *entries: Entry) -> None:
        for entry in entries:
            assert self.live.run(self.live.metrics.append(writer, entry)) == Appended(entry.seq)

    def late(self, attempt: int, *entries: Entry, name: str = "main", **how: Any) -> Writer:
        """Bring entries in under the last fence, which is a sync's."""
        writer = replace(writer_of(self.project, self.fences[-1], name=name, session="late"), attempt=attempt)
        self.open(writer)
        self.put(writer, *entries)
        return writer

    def release(self) -> str:
        return self.live.release(self.project, self.fences[-1], "failed")

    @property
    def run(self) -> Any:
        return self.live.get(self.project).run

    def events(self) -> list[tuple[str, int, dict[str, Any]]]:
        entries = [e for _, e in self.live.raw.xrange(self.keys.partition.events) if e["p"] == self.project]
        return [(e["k"], int(e["a"]), json.loads(e["d"])) for e in entries]

    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.events()]

    def expire(self) -> None:
        self.live.raw.hset(self.keys.run, mapping={"expiry": 1, "avail": 2})
        self.live.raw.zadd(self.keys.partition.live, {f"{self.project}/r": 1})

    def shown(self, writer: str = "main") -> dict[int, float]:
        series = self.live.read(self.project, writers=(writer,))
        return {step: value for one in series for step, value in zip(one.steps, one.values, strict=True)}


@pytest.fixture
def story(live: LiveStore, project: str) -> Story:
    return Story(live, project)


def points(seq: int, *steps: int, value: float = 1.0, segment: int = 0) -> Entry:
    return points_entry(seq, [(step, value) for step in steps], segment=segment)


def end_entry(seq: int, outcome: str) -> Entry:
    return Entry(seq, 0, EntryKind.END, outcome.encode(), 0, 0)


def lost_entry(seq: int, entries: int, lost_points: int, segment: int = 0) -> Entry:
    return Entry(seq, segment, EntryKind.LOST, b"", lost_points, entries)


def refused(story: Story, writer: Writer, entry: Entry) -> DomainError:
    with pytest.raises(DomainError) as caught:
        story.live.run(story.live.metrics.append(writer, entry))
    return caught.value


# The lease


def test_a_sync_holds_the_run_and_opens_no_attempt(story: Story) -> None:
    story.attempt(points(1, 0, 1), outcome="finished")
    before = story.run
    grant = story.sync(holder=SYNCER)
    assert (grant.attempt, grant.resumed, grant.previous_state, grant.next_step) == (0, True, RunState.FINISHED, 2)
    assert grant.fence > before.fence
    assert grant.remaining_us > 0
    held = story.run
    assert (held.state, held.attempt, held.fence) == (RunState.RUNNING, 1, grant.fence)
    assert (held.holder.host, held.holder.pid, held.holder.group) == ("laptop", 77, "")  # nobody joins a sync
    assert held.attempts == before.attempts
    assert held.runtime_us == before.runtime_us
    with pytest.raises(LeaseHeld):
        story.live.acquire(story.project)
    assert story.live.run(story.live.leases.renew(story.project, "r", grant.fence)).remaining_us > 0
    assert story.release() == "finished"
    assert story.release() == "finished"  # a repetition
    after = story.run
    assert replace(after, fence=0, now_us=0, updated_us=0, ttl_us=0) == replace(
        before, fence=0, now_us=0, updated_us=0, ttl_us=0
    )
    assert story.kinds() == ["created", "released", "sync_began", "sync_ended"]
    assert story.live.acquire(story.project).attempt == 2


def test_a_sync_is_refused_as_a_resume_is(story: Story) -> None:
    with pytest.raises(RunNotFound):
        story.sync()
    fence = story.live.acquire(story.project).fence
    with pytest.raises(LeaseHeld) as caught:
        story.sync()
    assert caught.value.reason == "LEASE_HELD"
    story.live.release(story.project, fence)
    story.live.run(story.live.runs.delete_run(story.project, "r", "r", fence, "why"))
    with pytest.raises(RunDeleted):
        story.sync()


def test_a_retry_gets_the_same_sync_and_its_end_is_told(story: Story) -> None:
    story.attempt(outcome="failed")
    first = story.sync(nonce="s")
    again = story.sync(nonce="s")
    assert (again.fence, again.attempt, again.previous_state) == (first.fence, 0, RunState.FAILED)
    story.release()
    with pytest.raises(Stale) as caught:
        story.sync(nonce="s")
    assert (caught.value.reason, caught.value.attempt) == ("NONCE_ENDED", 0)
    with pytest.raises(Stale) as caught:
        story.live.acquire(story.project, nonce="s")
    assert (caught.value.reason, caught.value.attempt) == ("NONCE_ENDED", 0)


def test_an_ended_nonce_names_its_attempt(story: Story) -> None:
    story.attempt()
    story.attempt(nonce="offline")
    with pytest.raises(Stale) as caught:
        story.live.acquire(story.project, nonce="offline")
    assert (caught.value.reason, caught.value.attempt) == ("NONCE_ENDED", 2)


@pytest.mark.parametrize("how", ["sweep", "grant", "sync", "break", "proof", "swept proof", "give back", "delete"])
def test_however_a_sync_ends_the_run_stands_as_before(story: Story, how: str) -> None:
    story.attempt(points(1, 0), outcome="preempted")
    before = story.run
    fence = story.sync(holder=SYNCER).fence
    live, name = story.live, (story.project, "r")
    proof = ProofOfDeath(fence, SYNCER.boot_id, SYNCER.pid_namespace, SYNCER.pid, SYNCER.process_started)
    ends = ["sync_ended"]
    match how:
        case "sweep":
            story.expire()
            live.run(live.sweeper.sweep())
        case "grant" | "sync":
            story.expire()
            grant = live.acquire(story.project, sync=how == "sync")
            assert grant.previous_state is RunState.PREEMPTED
            live.run(live.leases.give_back(*name, grant.fence))
            ends += ["sync_began", "sync_ended"] if how == "sync" else ["granted", "given-back"]
        case "break":
            live.run(live.leases.break_lease(*name, fence, force=True, reason="why", by="me"))
            assert story.events()[-1][2] == {"reason": "why", "by": "me"}
        case "proof" | "swept proof":
            if how == "swept proof":
                live.raw.hset(story.keys.run, "expiry", 1)
                live.raw.zadd(story.keys.partition.live, {f"{story.project}/r": 1})
                live.run(live.sweeper.sweep())
                ends.append("sync_ended")
            grant = live.acquire(story.project, proof=proof)
            assert (grant.attempt, grant.previous_state) == (2, RunState.PREEMPTED)
            live.run(live.leases.give_back(*name, grant.fence))
            ends += ["granted", "given-back"]
        case "give back":
            live.run(live.leases.give_back(*name, fence))
            assert not live.raw.hkeys(story.keys.attempts).count("nonce.")
        case "delete":
            story.expire()
            live.run(live.runs.delete_run(*name, "r", fence, "why"))
            live.run(live.runs.undelete_run(*name, "r", "why"))
            ends += ["deleted", "undeleted"]
    after = story.run
    assert (after.state, after.attempt, after.attempts) == (RunState.PREEMPTED, 1, before.attempts)
    assert (after.runtime_us, after.points, after.next_step) == (before.runtime_us, before.points, before.next_step)
    assert story.kinds() == ["created", "released", "sync_began", *ends]
    if how not in ("sweep", "delete"):  # there the record names who synced, until the next grant
        assert (after.holder, after.granted_us) == (before.holder, before.granted_us)


def test_an_expired_sync_is_given_back_to_its_holder(story: Story) -> None:
    story.attempt(points(1, 0))
    runtime_us = story.run.runtime_us
    fence = story.sync(holder=SYNCER).fence
    story.expire()
    story.live.run(story.live.sweeper.sweep())
    assert story.run.state is RunState.CRASHED
    assert story.live.run(story.live.leases.renew(story.project, "r", fence)).reinstated
    assert (story.run.state, story.run.holder.host) == (RunState.RUNNING, "laptop")
    assert story.release() == "crashed"
    assert story.run.runtime_us == runtime_us
    assert story.kinds()[2:] == ["sync_began", "sync_ended", "sync_began", "sync_ended"]


def test_a_sync_ends_an_attempt_that_expired_and_was_not_swept(story: Story) -> None:
    story.attempt(points(1, 0), outcome="")
    story.expire()
    grant = story.sync()
    assert grant.previous_state is RunState.CRASHED
    assert [(a.outcome, a.points) for a in story.run.attempts] == [(RunState.CRASHED, 1)]
    assert story.release() == "crashed"


# Who may bring in what


def test_an_attempt_is_named_under_a_sync_and_only_there(story: Story) -> None:
    writer = story.attempt(outcome="")
    for late, field in ((replace(writer, attempt=1), "open.attempt"),):
        with pytest.raises(InvalidField) as caught:
            story.open(late)
        assert caught.value.field == field
    story.live.release(story.project, writer.fence)
    fence = story.sync().fence
    for attempt in (0, 2):
        with pytest.raises(InvalidField) as caught:
            story.open(replace(writer, fence=fence, attempt=attempt))
        assert caught.value.field == "open.attempt"
    with pytest.raises(Stale):
        story.open(writer)
    assert story.open(replace(writer, fence=fence, attempt=1)).fence == writer.fence


def test_a_late_writer_goes_on_where_its_attempt_was(story: Story) -> None:
    story.attempt(points(1, 0), rewind_entry(2, 0, segment=1), points(3, 0, segment=1))
    story.attempt(points(1, 5))
    story.sync()
    writer = replace(writer_of(story.project, story.fences[-1], session="late"), attempt=1)
    assert story.open(writer) == WriterPosition(3, 1, True)
    story.put(writer, points(3, 9), points(4, 1, segment=1))  # the first is a duplicate
    assert story.open(replace(writer, attempt=2)) == WriterPosition(1, 0, True)
    assert story.open(replace(writer, name="rank1")) == WriterPosition(0, 0, False)
    assert refused(story, writer, points(5, 1, segment=1)).reason == "SESSION_TAKEN"
    assert story.open(writer) == WriterPosition(4, 1, True)
    assert story.live.run(story.live.metrics.append(writer, points(6, 1))) == Gap(4)
    assert isinstance(refused(story, writer, points(5, 1, segment=0)), InvalidField)
    story.release()
    # A second sync finds the same, and an attempt of its own starts anew.
    story.sync()
    assert story.open(replace(writer, fence=story.fences[-1])) == WriterPosition(4, 1, True)
    story.release()
    fence = story.live.acquire(story.project).fence
    assert story.open(writer_of(story.project, fence)) == WriterPosition(0, 0, False)


# What it does to the history


def test_what_came_after_hides_what_comes_late(story: Story) -> None:
    story.attempt(points(1, 0, 1, value=1.0))
    story.attempt(points(1, 3, 4, value=2.0), resume_step=3)
    story.sync()
    story.late(1, points(2, 2, 3, value=1.5), commit_entry(3, 2, story.fences[0]), commit_entry(4, 3, story.fences[0]))
    assert story.shown() == {0: 1.0, 1: 1.0, 2: 1.5, 3: 2.0, 4: 2.0}
    run = story.run
    assert (run.next_step, run.last_step, run.points) == (5, 4, 6)
    assert [(a.points, a.last_step) for a in run.attempts] == [(4, 3), (2, 4)]
    found = [(c.step, c.fence, c.attempt, c.superseded) for c in run.checkpoints]
    assert found == [(2, story.fences[0], 1, False), (3, story.fences[0], 1, True)]
    assert [list(one.attempts) for one in story.live.read(story.project)] == [[1, 1, 1, 2, 2]]


def test_an_attempt_that_begins_to_count_late_hides_what_was_before_it(story: Story) -> None:
    first = story.attempt(points(1, 0, 1, 2, 3), outcome="").fence
    story.put(writer_of(story.project, first), commit_entry(2, 1, first), commit_entry(3, 3, first))
    story.live.release(story.project, first, "crashed")
    story.attempt(resume_step=2)  # wrote nothing in time
    third = story.attempt(points(1, 5), outcome="", resume_step=5).fence
    story.put(writer_of(story.project, third), commit_entry(2, 5, third))
    story.live.release(story.project, third, "crashed")
    story.sync()
    story.late(2, points(1, 2, 6, value=2.0))
    assert story.shown() == {0: 1.0, 1: 1.0, 2: 2.0, 5: 1.0}
    shown = [(c.step, c.superseded) for c in story.run.checkpoints]
    assert shown == [(1, False), (3, True), (5, False)]
    assert story.run.next_step == 6
    assert [(a.segments[0].counts, a.points) for a in story.run.attempts] == [(True, 4), (True, 2), (True, 1)]


def test_the_last_attempt_sets_the_next_step_as_usual(story: Story) -> None:
    story.attempt(points(1, *range(10)))
    story.attempt(resume_step=4)
    story.sync()
    story.late(2, rewind_entry(1, 3), points(2, 3, value=2.0), rewind_entry(3, 7, segment=1), points(4, 7, segment=1))
    run = story.run
    assert (run.next_step, run.points, run.attempts[1].starting_step) == (8, 12, 3)
    assert [(s.segment, s.start, s.counts) for s in run.attempts[1].segments] == [(0, 3, True), (1, 7, True)]
    story.release()
    assert story.live.acquire(story.project).starting_step == 8


def test_points_of_a_synced_last_attempt_are_its_own_for_good(story: Story) -> None:
    story.attempt(points(1, 0))
    story.sync()
    story.late(1, points(2, 1, 2))
    story.release()
    story.attempt(points(1, 3))
    assert [(a.points, a.last_step) for a in story.run.attempts] == [(3, 2), (1, 3)]


# Lost entries


def test_lost_entries_use_up_their_seqs_and_are_told(story: Story) -> None:
    writer = story.attempt(points(1, 0), outcome="")
    assert refused(story, writer, lost_entry(4, 2, 9)).reason == "INVALID_FIELD"
    story.put(writer, lost_entry(4, 3, 9), points(5, 9))
    assert story.live.run(story.live.metrics.append(writer, lost_entry(4, 3, 9))) == Appended(5)  # a duplicate
    assert story.events()[-1] == ("points_lost", 1, {"entries": "3", "points": "9", "writer": "main"})
    assert story.kinds().count("points_lost") == 1
    assert (story.run.points, story.shown()) == (2, {0: 1.0, 9: 1.0})


@pytest.mark.parametrize(("lost", "starts"), [(5, [2, 0]), (0, [0])])
def test_lost_points_are_a_write(story: Story, lost: int, starts: list[int]) -> None:
    story.attempt(points(1, *range(6)))
    writer = story.attempt(outcome="", resume_step=2)
    story.put(writer, lost_entry(1, 1, lost))
    assert story.run.attempts[1].segments[0].counts == (lost > 0)
    assert story.run.next_step == (2 if lost else 6)
    story.put(writer, rewind_entry(2, 0, segment=int(lost > 0)))
    assert [s.start for s in story.run.attempts[1].segments] == starts


def test_a_rewind_may_be_among_the_lost(story: Story) -> None:
    writer = story.attempt(points(1, 0), outcome="")
    assert isinstance(refused(story, writer, lost_entry(3, 2, 1, segment=3)), InvalidField)
    story.put(writer, lost_entry(3, 2, 1, segment=1), points(4, 0, value=2.0, segment=1))
    assert story.shown() == {0: 2.0}


# How it really ended


def test_the_outcome_of_the_last_attempt_is_the_runs(story: Story) -> None:
    story.attempt(points(1, 0), outcome="", auto_keys=("k",))
    story.expire()
    story.sync()
    story.late(1, points(2, 1), end_entry(3, "finished"))
    assert story.run.state is RunState.RUNNING
    assert story.release() == "finished"
    assert (story.run.state, story.run.attempts[0].outcome) == (RunState.FINISHED, RunState.FINISHED)
    assert ("outcome", 1, {"outcome": "finished"}) in story.events()
    assert not story.live.raw.hgetall(story.keys.auto)  # as a release as finished forgets them
    # The holder's own release, should it come late, is told that it is done.
    assert story.live.release(story.project, story.fences[0], "finished") == "finished"


def test_the_outcome_of_an_earlier_attempt_is_its_own(story: Story) -> None:
    story.attempt(outcome="")
    story.expire()
    story.attempt(outcome="failed")
    story.sync()
    story.late(1, end_entry(1, "preempted"), end_entry(2, "killed"))  # what is delivered stays
    story.late(2, end_entry(1, "finished"))
    assert story.release() == "failed"
    assert [a.outcome for a in story.run.attempts] == [RunState.PREEMPTED, RunState.FAILED]
    assert story.kinds().count("outcome") == 1


# Checkpoints


def test_a_checkpoint_that_a_rewind_superseded_stays(story: Story) -> None:
    writer = story.attempt(outcome="")
    fence = writer.fence
    story.put(writer, commit_entry(1, 5, fence, uri="old"), rewind_entry(2, 4, segment=1))
    story.put(writer, commit_entry(3, 5, fence, segment=1, uri="new"))
    story.put(writer, commit_entry(4, 5, fence, segment=1, uri="newer"))
    found = [(c.uri, c.superseded) for c in story.run.checkpoints]
    assert found == [("old", True), ("newer", False)]
    assert story.run.checkpoint.uri == "newer"
    # A later segment that starts above it leaves it visible, until it is committed again.
    story.put(writer, points(5, 6, segment=1), rewind_entry(6, 6, segment=2))
    story.put(writer, commit_entry(7, 5, fence, segment=2, uri="newest"))
    found = [(c.uri, c.superseded) for c in story.run.checkpoints]
    assert found == [("old", True), ("newer", True), ("newest", False)]


def test_an_attempt_is_named_by_its_fence_too_since_a_store_that_lost_it_gives_its_number_again(
    live: LiveStore, project: str
) -> None:
    story = Story(live, project)
    story.attempt(points_entry(1, [(0, 1.0)]))
    fence = story.fences[0]
    story.sync()
    late = replace(writer_of(project, story.fences[-1], session="late"), attempt=1)
    with pytest.raises(InvalidField, match=f"no attempt 1 of fence {fence - 1}: the store has lost it"):
        story.open(replace(late, attempt_fence=fence - 1))
    assert story.open(replace(late, attempt_fence=fence)).seq == 1
