"""What can be seen of a store from outside: collected once, so that the checks are plain functions of it.

Nothing is changed but one key that goes by itself (`PartitionKeys.probe`): only a write shows how long a write takes,
and what refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One server of the store."""

    address: str
    """`HOST:PORT`, or the path of its socket."""

    why_not: str = ""
    """Why nothing is known of it; empty if it answered."""

    info: Mapping[str, Any] = field(default_factory=dict)
    """Its INFO, `commandstats` included."""

    config: Mapping[str, str] | None = None
    """Its CONFIG, as far as `survey` asks for it; None: it does not tell."""

    offset_s: float = 0.0
    """Its TIME minus the clock of this machine, in seconds."""

    uncertain_s: float = 0.0
    """By how much `offset_s` may be wrong, in seconds: half of the quickest round trip."""

    def setting(self, name: str, in_info: str = "") -> str | None:
        """Return a setting from CONFIG, else from INFO under another name; None: neither tells."""
        if self.config is not None and name in self.config:
            return self.config[name]
        return str(self.info[in_info]) if in_info in self.info else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A write at a primary and the WAIT behind it."""

    refused: str = ""
    """The store's refusal; empty if it took the write."""

    took_s: float = 0.0
    """Seconds of the write alone."""

    waited_for: int = 0
    """Replicas that WAIT was to see."""

    replicas: int = 0
    """Replicas that it saw, within the time that a coordinator gives them."""

    wait_s: float = 0.0
    """Seconds of the WAIT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition's meta."""

    number: int
    meta: Mapping[str, str]
    """Without its secret; empty: not opened."""

    shard: int = 0
    """Index of its shard in the survey."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A primary and its replicas."""

    primary: Node
    replicas: Sequence[Node]
    write: Write
    refused_commands: Sequence[str] | None
    """Commands that the user may not call; None: that cannot be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinels:
    """Those who watch a primary."""

    service: str
    quorum: int
    known: int
    """Sentinels in all, as they tell."""

    named: int
    """Sentinels in the URL."""

    silent: Sequence[str]
    """Those of the URL that do not answer."""

    down_after_ms: int
    flags: str
    """What they say of the primary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """Who serves the slots of a cluster."""

    served: int
    failing: Sequence[str]
    """Primaries that do not answer the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """A store."""

    kind: str
    """`embedded`, `standalone`, `sentinel` or `cluster`."""

    url: str
    """Without its password."""

    shards: Sequence[Shard]
    partitions: Sequence[Partition]
    data_nodes: int | None = None
    """Data nodes a shard, as the caller says."""

    sentinels: Sentinels | None = None
    cluster: Slots | None = None

    @property
    def wait_replicas(self) -> int:
        """Replicas that control writes wait for: by the caller's word, else by the store's meta."""
        if self.data_nodes is not None:
            return self.data_nodes // 2
        return max((int(each.meta.get("replicas", "0")) for each in self.partitions), default=0)
