"""What a store's own refusals mean: one table, from the first word of its answer; and why a server cannot be used.

Not in it: NOSCRIPT is answered with the script's source. MOVED, ASK and TRYAGAIN of a cluster are `cluster.py`'s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from runlease_coordinator.domain.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Refusal:
    """A state in which a store takes nothing, and which may pass."""

    words: str
    """What is wrong, behind "the store", and what to do about it, if anything is."""
    retry_after_ms: int
    reason: str = "STORE_UNAVAILABLE"
    doubt: bool = False
    """Whether another server may be the primary by now."""


_RIGHTS = Refusal("does not let this user do that, `runlease doctor --store URL` says what it lacks", 5000)
_LOGIN = Refusal("does not know user and password, check those of --store", 5000)
_CLUSTER = Refusal("is a cluster, name it as redis+cluster://HOST:PORT with --store", 5000)

#: What the rights of a script's caller are called in Redis and in Valkey: without a word of their own.
_RIGHTS_IN_SCRIPTS = ("ERR The user executing the script can't", "ERR ACL failure in script")

#: By the first word of the answer.
REFUSALS = {
    "READONLY": Refusal("is a replica, name its primary with --store", 1000, doubt=True),
    "MASTERDOWN": Refusal("is a replica without a primary", 1000, doubt=True),
    # The gate's, and the store's own where it has a min-replicas-to-write.
    "NOREPLICAS": Refusal("has too few replicas, look after them", 1000, reason="NOREPLICAS", doubt=True),
    "LOADING": Refusal("is loading its data", 500),
    "BUSY": Refusal("is busy with another script", 500),
    "UNKILLABLE": Refusal("is busy with another script", 500),
    "OOM": Refusal("is out of memory, raise its maxmemory", 2000, reason="OUT_OF_MEMORY"),
    "MISCONF": Refusal("cannot write to its disk, make room or mend what its log says", 2000),
    "CLUSTERDOWN": Refusal("is a cluster of which a part is down", 500, doubt=True),
    "TRYAGAIN": Refusal("is moving this project to another node", 500),
    "MOVED": _CLUSTER,
    "ASK": _CLUSTER,
    "NOPERM": _RIGHTS,
    "NOAUTH": _LOGIN,
    "WRONGPASS": _LOGIN,
}


def refusal_of(error: RedisError) -> Refusal | None:
    """Return what a refusal means; None: it is none of those that can be expected of a sound store."""
    if not isinstance(error, ResponseError):
        return None
    return _RIGHTS if str(error).startswith(_RIGHTS_IN_SCRIPTS) else REFUSALS.get(str(error).partition(" ")[0])


def unavailable(refusal: Refusal, error: RedisError) -> Unavailable:
    """Return the error that callers get."""
    return Unavailable(refusal.reason, f"the store {refusal.words}: {error}", refusal.retry_after_ms)


#: What to look at where a store cannot be used at all.
CHECK_URL = "check its URL (rediss is with TLS, redis without), and that it runs"
_UNKNOWN_USER = "it does not know user and password"


def why_not(error: BaseException) -> str:
    """Return why a server cannot be used, from what a connection to it or a first command raised."""
    text = str(error).strip().rstrip(".")
    if isinstance(error, AuthenticationError):
        return f"{_UNKNOWN_USER}: {text}"
    if unknown := re.match(r"unknown command '(\w+)'", text):
        if unknown[1] == "SENTINEL":
            return "it is no Sentinel"
        return f"it knows no {unknown[1]}: name Sentinels redis+sentinel://HOST:PORT[,HOST:PORT...]/SERVICE"
    return text or ("no answer" if isinstance(error, TimeoutError) else type(error).__name__)


def no_primary(service: str, why: str) -> RedisConnectionError:
    """Return the error of Sentinels none of which names a primary; `why`: what asking them gave, by `why_not`."""
    if _UNKNOWN_USER in why:
        why += "; those of Sentinels are the URL's options sentinel_username and sentinel_password"
    return RedisConnectionError(f"no Sentinel names a primary of {service}: {why}")
