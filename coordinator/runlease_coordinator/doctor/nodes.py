"""Checks of each server of a store: version, persistence, memory, clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from runlease.doctor.finding import Finding, Verdict

from runlease_coordinator.doctor.survey import Node
from runlease_coordinator.store.server_binary import PACKING

#: Clocks that are kept by NTP agree much better; the coordinator's guard of the store's clock leaves 1 s of slack.
CLOCK_S = 1.0
#: What a script takes; the store does nothing else meanwhile.
_SLOW_SCRIPT_US = 1000.0
_MIB = 1 << 20


def check_node(node: Node) -> Iterator[Finding]:
    """Yield what each check of a server finds."""
    if node.why_not:
        remedy = "run the doctor where this node can be reached, to see whether it is set up as its primary is"
        yield Finding(f"node {node.address}", "reached", "warning", f"not from here: {node.why_not}", remedy)
        return
    for name, check in _CHECKS.items():
        yield Finding(f"node {node.address}", name, *check(node))


#: Verdict, what was seen, and what to do about it.
_Result = tuple[Verdict, str, str]


def _version(node: Node) -> _Result:
    valkey, redis = node.info.get("valkey_version"), node.info.get("redis_version")
    if valkey or redis:
        product, version, least = ("Valkey", valkey, 8) if valkey else ("Redis", redis, 7)
        seen = f"{product} {version}"
        if int(str(version).partition(".")[0]) >= least:
            return "ok", seen, ""
        return "error", seen, "use Valkey 8 or Redis 7, or newer"
    return "warning", "cannot be read", "use Valkey 8 or Redis 7, or newer"


def _persistence(node: Node) -> _Result:
    log = node.setting("appendonly") or {"1": "yes", "0": "no"}.get(str(node.info.get("aof_enabled")), "")
    sync, snapshots = node.setting("appendfsync"), node.setting("save")
    always = "set `appendonly yes` and `appendfsync always`"
    if not log:
        return "warning", "cannot be read", f"make sure that it is on: {always}"
    if log == "yes":
        return _log_sync(sync, always, node.setting("no-appendfsync-on-rewrite") == "yes")
    if snapshots:
        seen = (
            f"snapshots only (save {snapshots}): a restart goes back by minutes, with all that was acknowledged since"
        )
        return "error", seen, always
    if snapshots is None:
        return "error", "no append-only file; whether there are snapshots cannot be read", always
    return "error", "none: a restart loses everything, and every run with it", always


def _log_sync(sync: str | None, always: str, pauses: bool) -> _Result:
    if sync == "always" and pauses:
        seen = "appendfsync always, but not while the file is rewritten: a crash then loses what was acknowledged"
        return "warning", seen, "set `no-appendfsync-on-rewrite no`"
    if sync == "always":
        return "ok", "each write is on disk before it is acknowledged (appendfsync always)", ""
    if sync is None:
        seen = "append-only file; how often it is synced cannot be read"
        return "warning", seen, "make sure that it is `appendfsync always`, or accept the loss of seconds"
    if sync == "everysec":
        seen = "appendfsync everysec: a crash loses up to 2 s of what was acknowledged"
        return "warning", seen, "set `appendfsync always`"
    return "error", f"appendfsync {sync}: a crash of its machine loses what the kernel had not written", always


def _disk(node: Node) -> _Result:
    failed = [
        what
        for what, field in (
            ("append-only file", "aof_last_write_status"),
            ("its rewrite", "aof_last_bgrewrite_status"),
            ("snapshot", "rdb_last_bgsave_status"),
        )
        if node.info.get(field, "ok") != "ok"
    ]
    if node.info.get("loading"):
        return "warning", "it is loading its data", "wait until it has"
    if failed:
        return "error", f"the last write failed: {', '.join(failed)}", "make room, and see the server's log"
    return "ok", "the last writes succeeded", ""


def _eviction(node: Node) -> _Result:
    policy = node.setting("maxmemory-policy", "maxmemory_policy")
    if policy == "noeviction":
        return "ok", "none (noeviction)", ""
    remedy = "set `maxmemory-policy noeviction`"
    if policy is None:
        return "warning", "the policy cannot be read", f"make sure that there is none: {remedy}"
    return "error", f"maxmemory-policy {policy} may evict leases and fences", remedy


def _memory(node: Node) -> _Result:
    used, most = int(node.info.get("used_memory", 0)), int(node.setting("maxmemory", "maxmemory") or 0)
    if most and used > 0.9 * most:
        seen = f"{used / _MIB:.0f} MiB of {most / _MIB:.0f} MiB: when all is used, metrics are refused and wait"
        return "warning", seen, "raise `maxmemory`, or let coordinators archive sooner (--archive-bytes)"
    if most:
        return "ok", f"{used / _MIB:.0f} MiB of {most / _MIB:.0f} MiB", ""
    system = int(node.info.get("total_system_memory", 0))
    if system and used > 0.8 * system:
        seen = f"{used / _MIB:.0f} MiB, nearly all of the machine's, and no limit: the kernel may kill the store"
        return "warning", seen, "set `maxmemory` below the machine's memory"
    return "ok", f"{used / _MIB:.0f} MiB, no limit of its own", ""


def _packing(node: Node) -> _Result:
    if node.config is None:
        return "warning", "cannot be read", "set hashes and streams as in deploy/redis.conf: less memory a run"
    wrong = [f"`{name} {wanted}`" for name, wanted in PACKING.items() if not _packs(name, node.config, int(wanted))]
    if wrong:
        remedy = f"set {', '.join(wrong)}"
        return "warning", "idle runs take about twice the memory that they need", remedy
    return "ok", "records and streams of idle runs stay small", ""


def _packs(name: str, config: Mapping[str, str], wanted: int) -> bool:
    found = int(config.get(name, wanted))
    return found <= wanted if name.startswith("stream-") else found >= wanted


def _clock(node: Node) -> _Result:
    seen = f"{node.offset_s:+.3f} s beside this machine's, known to {node.uncertain_s * 1e3:.1f} ms"
    if abs(node.offset_s) - node.uncertain_s > CLOCK_S:
        remedy = "let both machines keep their clocks with NTP; leases do not care, but the times that people read do"
        return "warning", seen, remedy
    return "ok", seen, ""


def _scripts(node: Node) -> _Result:
    stats = node.info.get("cmdstat_evalsha")
    if not isinstance(stats, dict) or not stats.get("calls"):
        return "ok", "none have run yet", ""
    mean_us = float(stats.get("usec_per_call", 0))
    seen = f"{int(stats['calls'])} calls, {mean_us:.0f} us each"
    if mean_us > _SLOW_SCRIPT_US:
        remedy = "give the store a core of its own and a faster disk, or spread projects over the shards of a cluster"
        return "warning", seen, remedy
    return "ok", seen, ""


#: By the name that they have in the report.
_CHECKS: dict[str, Callable[[Node], _Result]] = {
    "version": _version,
    "persistence": _persistence,
    "disk": _disk,
    "eviction": _eviction,
    "memory": _memory,
    "packing": _packing,
    "clock": _clock,
    "scripts": _scripts,
}
