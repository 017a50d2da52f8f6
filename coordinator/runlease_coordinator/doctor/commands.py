"""The commands that a coordinator sends, alone and from its scripts: what its user in the store must be allowed."""

from __future__ import annotations

from runlease_coordinator.store.keys import partition_keys

_KEY = partition_keys(0).prefix + "run:p/r"
_RANGE = (_KEY, "0", "1")

#: Name -> words behind it, so that the store can tell keys and channels from the rest. A test compares the names
#: with those that the code calls.
COMMANDS: dict[str, tuple[str, ...]] = {
    "DEL": (_KEY,),
    "EVAL": ("return 1", "1", _KEY),
    "EVALSHA": ("0" * 40, "1", _KEY),
    "EXISTS": (_KEY,),
    "GET": (_KEY,),
    "HDEL": (_KEY, "f"),
    "HGET": (_KEY, "f"),
    "HGETALL": (_KEY,),
    "HINCRBY": (_KEY, "f", "1"),
    "HMGET": (_KEY, "f"),
    "HSET": (_KEY, "f", "v"),
    "HSETNX": (_KEY, "f", "v"),
    "INFO": ("replication",),
    "PEXPIREAT": (_KEY, "1"),
    "PFADD": (_KEY, "m"),
    "PFCOUNT": (_KEY,),
    "PUBLISH": ("rl:wake", "m"),
    "SCRIPT": ("LOAD", "return 1"),
    "SET": (_KEY, "v"),
    "SUBSCRIBE": ("rl:wake", "rl:event"),
    "TIME": (),
    "WAIT": ("1", "1"),
    "XADD": (_KEY, "*", "f", "v"),
    "XINFO": ("STREAM", _KEY),
    "XLEN": (_KEY,),
    "XRANGE": (_KEY, "-", "+"),
    "XREVRANGE": (_KEY, "+", "-"),
    "XTRIM": (_KEY, "MINID", "1"),
    "ZADD": (_KEY, "1", "m"),
    "ZCARD": (_KEY,),
    "ZINCRBY": (_KEY, "1", "m"),
    "ZRANGE": _RANGE,
    "ZRANGEBYSCORE": _RANGE,
    "ZRANK": (_KEY, "m"),
    "ZREM": (_KEY, "m"),
    "ZREVRANGE": _RANGE,
    "ZREVRANGEBYSCORE": _RANGE,
    "ZSCORE": (_KEY, "m"),
}


#: What a coordinator sends to the nodes of a cluster besides.
CLUSTER_COMMANDS: dict[str, tuple[str, ...]] = {"ASKING": (), "CLUSTER": ("NODES",)}


def commands(*, cluster: bool) -> list[list[str]]:
    """Return the commands, each as a list of its words."""
    return [[name, *words] for name, words in (COMMANDS | (CLUSTER_COMMANDS if cluster else {})).items()]
