"""Checks of what runlease itself keeps in a store: whether it was opened, for what, and whether it is in quarantine."""

from __future__ import annotations

from collections.abc import Iterator
from time import time

from runlease.doctor.finding import Finding

from runlease_coordinator.doctor.survey import Partition, Survey
from runlease_coordinator.store.keys import PARTITIONS, SCHEMA_VERSION

WHERE = "store"


def check_metas(survey: Survey) -> Iterator[Finding]:
    """Yield what each check of the partitions' metas finds."""
    opened = [each for each in survey.partitions if each.meta]
    yield _opened(survey, opened)
    if opened:
        yield _schema(opened)
        yield _longest_ttl(opened)
        yield _data_nodes(survey, opened)
        yield _quarantine(survey, opened)


def _opened(survey: Survey, opened: list[Partition]) -> Finding:
    if len(opened) == PARTITIONS:
        return Finding(WHERE, "opened", "ok", f"all {PARTITIONS} partitions")
    seen = f"{len(opened)} of {PARTITIONS} partitions"
    if opened:
        seen += ": the others were lost"
        remedy = "restore a backup; else open what is lost anew, its runs gone: `runlease bootstrap URL --lost-data`"
        return Finding(WHERE, "opened", "error", seen, remedy)
    remedy = "if it is new: `runlease bootstrap URL`, once; else restore a backup, or add --lost-data"
    return Finding(WHERE, "opened", "error", seen, remedy)


def _schema(opened: list[Partition]) -> Finding:
    found = sorted({each.meta.get("schema", "?") for each in opened})
    if found == [str(SCHEMA_VERSION)]:
        return Finding(WHERE, "schema", "ok", f"version {SCHEMA_VERSION}")
    seen = f"version {', '.join(found)}; this runlease knows {SCHEMA_VERSION}"
    return Finding(WHERE, "schema", "error", seen, "use the version of runlease that wrote the store")


def _longest_ttl(opened: list[Partition]) -> Finding:
    found = {_seconds(each, "max_ttl_us") for each in opened}
    if len(found) == 1:
        return Finding(WHERE, "max ttl", "ok", f"{found.pop():g} s: coordinators may have --max-ttl up to that")
    seen = f"{min(found):g} to {max(found):g} s, not the same in all partitions"
    return Finding(WHERE, "max ttl", "error", seen, f"`runlease bootstrap URL --max-ttl {max(found):g}` again")


def _data_nodes(survey: Survey, opened: list[Partition]) -> Finding:
    found = {int(each.meta.get("replicas", 0)) for each in opened}
    seen = f"opened for writes that wait for {', '.join(map(str, sorted(found)))} replicas"
    wanted = survey.data_nodes
    if len(found) > 1 or (wanted is not None and found != {wanted // 2}):
        nodes = wanted if wanted is not None else max(found) * 2 + 1
        remedy = f"`runlease bootstrap URL --data-nodes {nodes}` again"
        return Finding(WHERE, "data nodes", "error", seen, remedy)
    return Finding(WHERE, "data nodes", "ok", seen)


def _quarantine(survey: Survey, opened: list[Partition]) -> Finding:
    changed = [each for each in opened if _changed(survey, each)]
    if changed:
        seen = (
            f"{len(changed)} partitions are of another replication ID: the store was restarted or failed over, and no "
            "coordinator has noticed yet"
        )
        longest = max(_seconds(each, "quarantine_us") for each in changed)
        remedy = f"start a coordinator: it begins the quarantine, and grants again {longest:.0f} s later"
        return Finding(WHERE, "quarantine", "warning", seen, remedy)
    left_s = max(_quarantine_left_s(survey, each) for each in opened)
    if left_s > 0:
        seen = f"{left_s:.0f} s left: leases that are held go on, none is granted"
        return Finding(WHERE, "quarantine", "warning", seen, "wait for it: the store was restarted or failed over")
    lasts_s = max(_seconds(each, "quarantine_us") for each in opened)
    seen = f"none now; {lasts_s:g} s after a restart or failover" if lasts_s else "never: the store loses nothing"
    return Finding(WHERE, "quarantine", "ok", seen)


def _changed(survey: Survey, partition: Partition) -> bool:
    """Compare as the scripts' gate does."""
    info = survey.shards[partition.shard].primary.info
    if "master_replid" not in info:  # this user may not read it
        return False
    now = str(info["master_replid"])
    if int(partition.meta.get("replicas", 0)) > 0:
        now += f":{info.get('sync_full')}"
    return partition.meta.get("incarnation") != now


def _quarantine_left_s(survey: Survey, partition: Partition) -> float:
    store_now_s = time() + survey.shards[partition.shard].primary.offset_s
    return _seconds(partition, "quarantine_until_us") - store_now_s


def _seconds(partition: Partition, name: str) -> float:
    return int(partition.meta.get(name, "0")) / 1e6
