"""What the model takes for granted of replication IDs and full syncs, on real Redis and Valkey."""

from __future__ import annotations

from tests.support.nodes import Node


def test_a_promotion_changes_the_replid_also_of_a_server_that_comes_back(nodes: list[Node]) -> None:
    first, second, third = nodes
    opened = first.replid
    second.promote()
    third.follow(second)
    first.follow(second)
    first.promote()
    assert len({opened, second.replid, first.replid}) == 3


def test_a_primary_that_was_never_demoted_keeps_its_replid_and_only_full_syncs_show_the_loss(nodes: list[Node]) -> None:
    first, second, third = nodes
    first.write("fence", "100", replicas=2)
    opened, full_syncs = first.replid, first.full_syncs
    # Given a frozen primary, and another one that acknowledges a grant with a replica,
    first.freeze()
    second.promote()
    third.follow(second)
    second.write("fence", "200", replicas=1)
    # when the first one is named again,
    first.thaw()
    first.promote()
    third.follow(first)
    # then the grant is lost, W replicas are there, and the replid is the old one.
    assert (first.ask("GET", "fence"), third.ask("GET", "fence")) == ("100", "100")
    assert first.replid == opened
    assert first.full_syncs > full_syncs
