"""What one check of `runlease doctor` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: ``ok``; ``warning``: works, but could be better or could not be seen; ``error``: does not work, or a promise breaks.
Verdict = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A check's result; says what was seen, and what to do unless it is ok."""

    where: str
    """What was looked at: ``this machine``, a coordinator, the store, or one of its nodes."""

    name: str
    """The check's name, as in ``persistence``."""

    verdict: Verdict

    seen: str
    """What was seen, in words."""

    remedy: str = ""
    """What to change; empty if the verdict is ``ok``, or if it is in `seen`, as in the messages of our errors."""
