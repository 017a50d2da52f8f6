"""Checks of those who promote a replica: Sentinels, or the other shards of a cluster."""

from __future__ import annotations

from collections.abc import Iterator

from runlease.doctor.finding import Finding

from runlease_coordinator.doctor.survey import Sentinels, Slots, Survey

_SLOTS = 16384
#: Fewer than this, and the loss of one stops all failovers: a majority must agree.
_LEAST = 3


def check_topology(survey: Survey) -> Iterator[Finding]:
    """Yield what each check finds of what stands around the shards; nothing of a single server."""
    if survey.sentinels is not None:
        yield _sentinels(survey.sentinels)
        yield _named(survey.sentinels)
    if survey.cluster is not None:
        yield _coverage(survey.cluster)
        yield _majority(survey)


def _sentinels(sentinels: Sentinels) -> Finding:
    where, known, quorum = f"service {sentinels.service}", sentinels.known, sentinels.quorum
    seen = f"{known} know each other, quorum {quorum}, a failover begins after {sentinels.down_after_ms / 1000:g} s"
    if "down" in sentinels.flags or "failover" in sentinels.flags:
        seen = f"they say of the primary: {sentinels.flags}"
        return Finding(where, "sentinels", "error", seen, "wait for the failover, or see the Sentinels' logs")
    if quorum > known:
        return Finding(where, "sentinels", "error", seen, f"`SENTINEL SET {sentinels.service} quorum {known // 2 + 1}`")
    if known < _LEAST:
        remedy = "run three Sentinels, on three machines: without a majority of them nothing is promoted"
        return Finding(where, "sentinels", "error", seen, remedy)
    if quorum < 2:
        remedy = f"`SENTINEL SET {sentinels.service} quorum 2`: one that is cut off must not begin a failover alone"
        return Finding(where, "sentinels", "warning", seen, remedy)
    return Finding(where, "sentinels", "ok", seen)


def _named(sentinels: Sentinels) -> Finding:
    where = f"service {sentinels.service}"
    if sentinels.silent:
        seen = f"no answer from {', '.join(sentinels.silent)}"
        return Finding(where, "named", "warning", seen, "start them, or take them out of the URL")
    seen = f"the URL names {sentinels.named} of {sentinels.known}"
    if sentinels.named < min(_LEAST, sentinels.known):
        remedy = "name all in the URL: coordinators find the primary by those that are named"
        return Finding(where, "named", "warning", seen, remedy)
    return Finding(where, "named", "ok", seen)


def _coverage(cluster: Slots) -> Finding:
    seen = f"{cluster.served} of {_SLOTS} slots are served"
    if cluster.failing:
        seen += f"; failing: {', '.join(cluster.failing)}"
    if cluster.served == _SLOTS:
        return Finding("cluster", "coverage", "ok", seen)
    return Finding("cluster", "coverage", "error", seen, "see `redis-cli --cluster check HOST:PORT`")


def _majority(survey: Survey) -> Finding:
    shards = len(survey.shards)
    if shards < _LEAST and any(shard.replicas for shard in survey.shards):
        remedy = "use three shards: a majority of the primaries must agree before a replica is promoted"
        return Finding("cluster", "majority", "warning", f"{shards} shards", remedy)
    return Finding("cluster", "majority", "ok", f"{shards} shards")
