"""Checks of a primary and its replicas: who is there, what a write takes, what the user may call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runlease.doctor.finding import Finding

from runlease_coordinator.doctor.nodes import CLOCK_S
from runlease_coordinator.doctor.survey import Node, Shard, Survey

#: A renewal's period at the shortest ttl is 1.7 s; an acknowledgement must be a small part of it.
_SLOW_S = 0.25
#: Below this, a replica that was away for a moment needs a full copy.
_BACKLOG_BYTES = 1 << 20


def check_shard(survey: Survey, shard: Shard) -> Iterator[Finding]:
    """Yield what each check of a shard finds."""
    yield _role(survey, shard)
    yield _permissions(shard)
    yield _replicas(survey, shard)
    if shard.replicas or survey.wait_replicas:
        yield _backlog(shard.primary)
        yield _own_minimum(survey, shard.primary)
        yield _clocks((shard.primary, *shard.replicas))
    yield _write(shard)


def _where(shard: Shard) -> str:
    return f"primary {shard.primary.address}"


def _role(survey: Survey, shard: Shard) -> Finding:
    role = shard.primary.info.get("role")
    if survey.cluster is None and shard.primary.info.get("cluster_enabled"):
        seen = "is a node of a cluster, which has only a part of the partitions"
        return Finding(_where(shard), "role", "error", seen, "give --store redis+cluster://HOST:PORT")
    if role == "master":
        return Finding(_where(shard), "role", "ok", "takes writes")
    if role is None:
        return Finding(_where(shard), "role", "warning", "cannot be read", "allow this user INFO (+info)")
    return Finding(_where(shard), "role", "error", "is a replica, and refuses writes", "name its primary")


def _permissions(shard: Shard) -> Finding:
    refused = shard.refused_commands
    if refused is None:
        remedy = "make sure that this user has `~rl:* &rl:* +@all -@dangerous +info` or more"
        return Finding(_where(shard), "permissions", "warning", "cannot be seen", remedy)
    if not refused:
        return Finding(_where(shard), "permissions", "ok", "this user may call all that a coordinator calls")
    seen = f"this user may not call {', '.join(refused)} on keys `rl:*` and channels `rl:*`"
    remedy = "ACL SETUSER ... ~rl:* &rl:* " + " ".join(f"+{name.lower()}" for name in refused)
    return Finding(_where(shard), "permissions", "error", seen, remedy)


def _replicas(survey: Survey, shard: Shard) -> Finding:
    online, wanted, waits_for = _online(shard), survey.data_nodes, survey.wait_replicas
    have = len(shard.replicas)
    seen = f"{online} online, control writes wait for {waits_for}"
    if online < waits_for:
        remedy = f"start replicas: with fewer than {waits_for} online nothing is granted, renewed or committed"
        return Finding(_where(shard), "replicas", "error", seen, remedy)
    if have and not waits_for:
        remedy = (
            f"open it for what it is, `runlease bootstrap URL --data-nodes {have + 1}`: else a failover may lose grants"
        )
        return Finding(_where(shard), "replicas", "error", seen, remedy)
    if waits_for and waits_for != (have + 1) // 2 and wanted is None:
        remedy = f"if it has {have + 1} data nodes for good: `runlease bootstrap URL --data-nodes {have + 1}`"
        return Finding(_where(shard), "replicas", "warning", f"{seen}, {have} connected", remedy)
    if waits_for == 1 and have == 1:
        remedy = "add a third data node: of two, the one that is left refuses to go on alone"
        return Finding(_where(shard), "replicas", "warning", seen, remedy)
    return Finding(_where(shard), "replicas", "ok", seen if waits_for else "none, and none are waited for")


def _online(shard: Shard) -> int:
    states = (shard.primary.info.get(f"slave{number}") for number in range(len(shard.replicas)))
    return sum(isinstance(state, dict) and state.get("state") == "online" for state in states)


def _backlog(primary: Node) -> Finding:
    where = f"primary {primary.address}"
    size = primary.setting("repl-backlog-size", "repl_backlog_size")
    if size is None:
        return Finding(where, "backlog", "warning", "cannot be read", "set `repl-backlog-size 64mb`")
    if int(size) <= _BACKLOG_BYTES:
        seen = f"{int(size) / (1 << 20):.1f} MiB: a replica that was away for a moment needs a full copy"
        return Finding(where, "backlog", "warning", seen, "set `repl-backlog-size 64mb`")
    return Finding(where, "backlog", "ok", f"{int(size) / (1 << 20):.0f} MiB")


def _own_minimum(survey: Survey, primary: Node) -> Finding:
    where, value = f"primary {primary.address}", primary.setting("min-replicas-to-write")
    if value is None:
        return Finding(where, "minimum", "warning", "min-replicas-to-write cannot be read", "leave it at 0")
    if int(value) > survey.wait_replicas:
        seen = (
            f"min-replicas-to-write {value}: the store refuses writes that {survey.wait_replicas} replicas would do for"
        )
        return Finding(where, "minimum", "warning", seen, f"set `min-replicas-to-write {survey.wait_replicas}`")
    return Finding(where, "minimum", "ok", f"min-replicas-to-write {value}; coordinators count replicas themselves")


def _clocks(nodes: Sequence[Node]) -> Finding:
    where, known = f"primary {nodes[0].address}", [node for node in nodes if not node.why_not]
    apart_s = max(node.offset_s for node in known) - min(node.offset_s for node in known)
    seen = f"{apart_s:.3f} s apart, over {len(known)} nodes"
    if apart_s - sum(node.uncertain_s for node in known) > CLOCK_S:
        remedy = "let the nodes keep their clocks with NTP: a step at a failover closes the store for a quarantine more"
        return Finding(where, "clocks", "warning", seen, remedy)
    return Finding(where, "clocks", "ok", seen)


def _write(shard: Shard) -> Finding:
    write, where = shard.write, _where(shard)
    if write.refused:
        return Finding(where, "write", "error", f"refused: {write.refused}", "see what the refusal names")
    seen = f"takes {write.took_s * 1e3:.1f} ms"
    if write.waited_for:
        if write.replicas < write.waited_for:
            seen += f"; {write.replicas} of {write.waited_for} replicas had it after {write.wait_s:.1f} s"
            return Finding(where, "write", "error", seen, "see why the replicas lag: their link, disk, or processor")
        seen += f", and {write.wait_s * 1e3:.1f} ms more until {write.waited_for} replicas have it (WAIT)"
    if write.took_s + write.wait_s > _SLOW_S:
        return Finding(where, "write", "warning", seen, "use a faster disk, or a faster link between the nodes")
    return Finding(where, "write", "ok", seen)
