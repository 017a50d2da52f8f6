"""All checks of a store, in the order in which people read them."""

from __future__ import annotations

from collections.abc import Iterator

from runlease.doctor.finding import Finding

from runlease_coordinator.doctor.metas import check_metas
from runlease_coordinator.doctor.nodes import check_node
from runlease_coordinator.doctor.shards import check_shard
from runlease_coordinator.doctor.survey import Survey
from runlease_coordinator.doctor.topology import check_topology


def examine(survey: Survey) -> Iterator[Finding]:
    """Yield what each check finds."""
    yield from check_metas(survey)
    yield from check_topology(survey)
    for shard in survey.shards:
        yield from check_shard(survey, shard)
        for node in (shard.primary, *shard.replicas):
            yield from check_node(node)
