"""What a renewal says and what it believes, answer by answer, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from runlease import lease as lease_module
from runlease.exceptions import CoordinatorUnavailable
from runlease.lease import Lease, Renewer
from runlease.leasestate import LeaseMachine, LeaseState
from runlease.v1 import leases_pb2

TTL_S = 30.0
GRANTED = leases_pb2.Granted(attempt=3, starting_step=7)


class Story:
    """A lease that was granted at 0 in the incarnation `old`; its renewals get `answers`, one after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(lease_module, "suspend_aware", lambda: self.now)
        self.lease = Lease("p", "r", 5, LeaseMachine(TTL_S, 0.0, TTL_S, "old"))
        self.renewer = Renewer(self.lease, "127.0.0.1:1", (), GRANTED)
        monkeypatch.setattr(self.renewer._call, "once", self._answer)
        self.sent: list[tuple[bool, str, bool]] = []
        self.answers: list[Callable[[], Any]] = []

    def _answer(self, method: Any, request: leases_pb2.RenewRequest, timeout_s: float) -> Any:
        self.sent.append((request.held_by_own_clock, request.incarnation, request.granted == GRANTED))
        return self.answers.pop(0)()

    def renewed(self, incarnation: str, *, after_s: float = 0.0) -> Callable[[], Any]:
        def answer() -> leases_pb2.RenewResponse:
            self.now += after_s
            return leases_pb2.RenewResponse(remaining_ms=int(TTL_S * 1000), incarnation=incarnation)

        return answer

    def unconfirmed(self, incarnation: str, *, after_s: float = 0.0) -> Callable[[], Any]:
        def answer() -> Any:
            self.now += after_s
            error = CoordinatorUnavailable("lost")
            error.reason, error.incarnation = "UNCONFIRMED", incarnation
            raise error

        return answer


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    story = Story(monkeypatch)
    yield story
    story.renewer.close()


def test_who_is_held_claims_at_once_under_the_new_incarnation(story: Story) -> None:
    story.now = 10.0
    story.answers = [story.unconfirmed("new"), story.renewed("new"), story.renewed("new")]
    assert story.renewer.renew()
    assert story.renewer.renew()  # one trip again, and nothing of what was granted
    assert story.sent == [(True, "old", False), (True, "new", True), (True, "new", False)]
    assert (story.lease.state, story.lease.remaining_s > 29) == (LeaseState.HELD, True)


def test_who_is_suspended_names_what_it_knew_and_waits(story: Story) -> None:
    story.now = 40.0
    story.answers = [story.unconfirmed("new"), story.unconfirmed("new")]
    assert not story.renewer.renew()
    assert not story.renewer.renew()
    assert story.sent == [(False, "old", False)] * 2
    assert story.lease.state is LeaseState.SUSPENDED


def test_who_is_told_of_the_loss_behind_its_deadline_claims_nothing(story: Story) -> None:
    story.now = 29.0
    story.answers = [story.unconfirmed("new", after_s=3.0), story.unconfirmed("new")]
    assert not story.renewer.renew()
    assert not story.renewer.renew()
    assert story.sent == [(True, "old", False), (False, "old", False)]


def test_the_answer_to_a_claim_that_is_no_longer_true_is_not_believed(story: Story) -> None:
    story.now = 29.0
    story.answers = [story.renewed("old", after_s=3.0), story.unconfirmed("new")]
    assert not story.renewer.renew()
    assert story.sent == [(True, "old", False), (False, "old", False)]  # again at once, without the claim
    assert story.lease.state is LeaseState.SUSPENDED


def test_who_was_suspended_is_held_again_by_the_answer_to_what_claimed_nothing(story: Story) -> None:
    story.now = 40.0
    story.answers = [story.renewed("old", after_s=1.0)]
    assert story.renewer.renew()
    assert (story.sent, story.lease.state) == ([(False, "old", False)], LeaseState.HELD)


def test_a_claim_whose_answer_is_lost_is_repeated_with_what_was_granted(story: Story) -> None:
    def lost() -> Any:
        raise CoordinatorUnavailable("no answer")

    story.now = 10.0
    story.answers = [story.unconfirmed("new"), lost, story.renewed("new")]
    assert not story.renewer.renew()
    assert story.renewer.renew()
    assert story.sent[1:] == [(True, "new", True)] * 2


def test_a_store_that_loses_data_again_and_again_is_not_asked_for_ever(story: Story) -> None:
    story.now = 10.0
    story.answers = [story.unconfirmed(str(number)) for number in range(10)]
    assert not story.renewer.renew()
    assert len(story.sent) == 3


def test_a_release_that_was_refused_ends_no_belief_until_it_is_sent_again(story: Story) -> None:
    story.now = 10.0
    story.lease.releasing()
    assert story.lease.state is LeaseState.RELEASED
    assert story.lease.kept()
    assert story.lease.state is LeaseState.HELD
    assert not story.lease.kept()
