"""`runlease sync`: what spools hold comes to the coordinator, once, however often it is tried.

`runs` takes a run's leases and decides the order, `upload` brings one session's entries in, `report` says what came of
it. What cannot be delivered stays in its spool, with the reason.
"""

from __future__ import annotations

from runlease.sync.report import Result, Verdict
from runlease.sync.runs import Synchronizer

__all__ = ["Result", "Synchronizer", "Verdict"]
