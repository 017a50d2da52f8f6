"""The key schema. Keys are built here and nowhere else.

=====================================  ============  ======================================================
key                                    type          content
=====================================  ============  ======================================================
``rl:{pp}:meta``                       hash          incarnation, epoch, quarantine, terms, schema
``rl:{pp}:run:<project>/<run>``        hash          record and lease fields; ``config.K``, ``summary.K``: JSON
``rl:{pp}:attempts:<project>/<run>``   hash          ``<attempt>.<field>``; ``fence.F`` and ``nonce.N`` -> attempt
``rl:{pp}:ckpt:<project>/<run>``       sorted set    ``<step>:<fence>`` of the visible checkpoints, by step
``rl:{pp}:ckptdoc:<project>/<run>``    hash          ``<step>:<fence>`` -> attempt, time, writer, JSON; all ever
``rl:{pp}:log:<project>/<run>``        stream        entries of all writers, ``<fence>-<n>``
``rl:{pp}:seq:<project>/<run>``        hash          writer -> fence, session, seq, segment, wrote; ``@<attempt>``: was
``rl:{pp}:names:<project>/<run>``      HyperLogLog   names of metrics
``rl:{pp}:parts:<project>/<run>``      hash          archive's manifest: parts, pending cut, generation
``rl:{pp}:wait:<project>/<run>``       sorted set    nonce of a waiter by place
``rl:{pp}:waitx:<project>/<run>``      hash          nonce -> until (us), call
``rl:{pp}:auto:<project>``             hash          automatic key -> run, until (us)
``rl:{pp}:limits:<project>``           hash          limit, or ``<limit>:<run>``, where set -> rate per second
``rl:{pp}:gcra:<project>``             hash          points, bytes, acquires -> when all would be paid for (us)
``rl:{pp}:links``                      hash          project -> how many links were made
``rl:{pp}:live``                       sorted set    ``<project>/<run>`` by expiry (us)
``rl:{pp}:hot``                        sorted set    ``<project>/<run>`` by bytes of its log, not archived
``rl:{pp}:garbage``                    sorted set    archived object by the time (us) from which it may go
``rl:{pp}:runs:<project>``             sorted set    run by update time (us)
``rl:{pp}:projects``                   sorted set    project by creation time (us)
``rl:{pp}:events``                     stream        audit log
``rl:{pp}:probe``                      string        a write of `runlease doctor`'s; goes after some seconds
=====================================  ============  ======================================================

``pp`` is the project's partition, two digits, CRC16 mod 64; as the hash tag of every key it puts a project on one
Redis Cluster slot, so every operation is one script. ``<run>`` is the canonical ID.
"""

from __future__ import annotations

from binascii import crc_hqx
from functools import lru_cache

PARTITIONS = 64
SCHEMA_VERSION = 1


def partition_of(project: str) -> int:
    """Return the partition of a project: CRC16 (XMODEM, as Redis Cluster's slots) mod 64."""
    return crc_hqx(project.encode(), 0) % PARTITIONS


def partition_of_key(key: str) -> int:
    """Return the partition that a key lies in."""
    return int(key[4:6])


def slot_of(partition: int) -> int:
    """Return the slot of a cluster that a partition's keys lie in."""
    return crc_hqx(b"%02d" % partition, 0) % 16384


class PartitionKeys:
    """Keys of one partition."""

    __slots__ = ("events", "garbage", "hot", "links", "live", "meta", "prefix", "probe", "projects")

    def __init__(self, partition: int) -> None:
        """Build the keys of partition 0..63."""
        self.prefix = prefix = f"rl:{{{partition:02d}}}:"
        self.meta = prefix + "meta"
        self.live = prefix + "live"
        self.hot = prefix + "hot"
        self.garbage = prefix + "garbage"
        self.projects = prefix + "projects"
        self.events = prefix + "events"
        self.links = prefix + "links"
        self.probe = prefix + "probe"

    def runs(self, project: str) -> str:
        """Return the key of a project's runs."""
        return f"{self.prefix}runs:{project}"

    def auto(self, project: str) -> str:
        """Return the key of a project's automatic keys."""
        return f"{self.prefix}auto:{project}"

    def limits(self, project: str) -> str:
        """Return the key of the rate limits that were set in a project."""
        return f"{self.prefix}limits:{project}"

    def gcra(self, project: str) -> str:
        """Return the key of a project's use of its limits; that of a run is in its record."""
        return f"{self.prefix}gcra:{project}"


class RunKeys:
    """Keys of one run, and of the partition it lives in."""

    __slots__ = (
        "attempts",
        "auto",
        "canonical_id",
        "ckpt",
        "ckptdoc",
        "gcra",
        "limits",
        "log",
        "names",
        "partition",
        "parts",
        "path",
        "project",
        "run",
        "runs",
        "seq",
        "wait",
        "waitx",
    )

    def __init__(self, project: str, canonical_id: str) -> None:
        """Build the keys of a run."""
        self.partition = partition = partition_keys(partition_of(project))
        self.project, self.canonical_id = project, canonical_id
        self.path = path = f"{project}/{canonical_id}"
        prefix = partition.prefix
        self.run = f"{prefix}run:{path}"
        self.attempts = f"{prefix}attempts:{path}"
        self.ckpt = f"{prefix}ckpt:{path}"
        self.ckptdoc = f"{prefix}ckptdoc:{path}"
        self.log = f"{prefix}log:{path}"
        self.seq = f"{prefix}seq:{path}"
        self.names = f"{prefix}names:{path}"
        self.parts = f"{prefix}parts:{path}"
        self.wait = f"{prefix}wait:{path}"
        self.waitx = f"{prefix}waitx:{path}"
        self.runs = partition.runs(project)
        self.auto = partition.auto(project)
        self.limits = partition.limits(project)
        self.gcra = partition.gcra(project)


_ALL = tuple(PartitionKeys(number) for number in range(PARTITIONS))


def partition_keys(partition: int) -> PartitionKeys:
    """Return the keys of a partition, 0..63."""
    return _ALL[partition]


@lru_cache(maxsize=16384)
def run_keys(project: str, canonical_id: str) -> RunKeys:
    """Return the keys of a run; cached, since every call of a run needs them."""
    return RunKeys(project, canonical_id)
