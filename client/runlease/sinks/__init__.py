"""Sinks: processes that copy the histories of runs into other trackers, at their own pace.

A sink reads like anybody else, so nothing that happens to it holds back a trainer or the coordinator. It keeps a
cursor for each run in a file and moves it once the target has what was read: a sink that dies goes on where it was.
What was sent after the last move is sent again: TensorBoard's files are cut back before that, and MLflow's databases
take a point once, so both end up with each point once. W&B may show the last portion twice.

What was visible when it was read is sent. Points that a resume supersedes later are not taken back: TensorBoard is told
where the new attempt starts and hides them, the others show both.
"""

from __future__ import annotations

from runlease.sinks.follower import Follower
from runlease.sinks.state import BrokenState, StateFile
from runlease.sinks.target import MissingPackage, RunTarget, Target, TargetError

__all__ = ["BrokenState", "Follower", "MissingPackage", "RunTarget", "StateFile", "Target", "TargetError"]
