"""What a store decides, as built or as a known-bad variant, asked for until it does decide."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TypeVar

import pytest
import runlease

from tests.support.coordinator import CoordinatorProcess
from tests.support.wait import until

_Answer = TypeVar("_Answer")


def variants(name: str) -> pytest.MarkDecorator:
    """Run a test twice: with the product as built, and with a known-bad variant of it (tests/faults/variants.py)."""
    return pytest.mark.parametrize("variant", [None, name], ids=["built", name])


def is_succeeded(client: runlease.Client) -> bool:
    """Ask for the run as its second holder; returns whether it is granted, which the first one may keep it from."""
    try:
        return client.acquire("p", "r", nonce="2", resume="allow").attempt == 2
    except runlease.LeaseHeld:
        return False


def decided(call: Callable[[], _Answer]) -> _Answer | str:
    """Repeat a call until the store decides; returns its answer, or why it decides nothing after a loss of data."""
    answers: list[_Answer | str] = []

    def answered() -> bool:
        try:
            answers.append(call())
        except runlease.CoordinatorUnavailable as error:
            if error.reason in ("QUARANTINE", "UNCONFIRMED"):
                answers.append(error.reason)
        return bool(answers)

    until(answered)
    return answers[0]


def is_granted(coordinator: CoordinatorProcess) -> bool:
    """Ask for the run as somebody else; returns whether it is granted, where only a quarantine is to refuse it."""
    nonce = secrets.token_hex(8)
    with runlease.Client(coordinator.address, timeout_s=0.5) as client:
        return decided(lambda: client.acquire("p", "r", nonce=nonce, resume="allow")) != "QUARANTINE"
