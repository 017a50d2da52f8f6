"""What happens to a store that loses data: its partition goes back to what it was, and its incarnation changes."""

from __future__ import annotations

import redis
from runlease_coordinator.domain.errors import Unconfirmed
from runlease_coordinator.domain.leases import Acquisition, Claim, Grant, Renewal, ResumeMode
from runlease_coordinator.store.keys import partition_of, run_keys

from tests.support.stores import HOLDER, TTL_US, LiveStore

QUARANTINE_US = 60_000_000


class Losses:
    """Failovers and restores of the partition of one project; `mend` ends what they did to others of the partition."""

    def __init__(self, live: LiveStore, project: str) -> None:
        self.live, self.project = live, project
        self.meta = live.meta(project)
        self.guard = live.store._guards[partition_of(project)]
        self._prefix = run_keys(project, "r").partition.prefix
        self._raw = redis.Redis.from_url(live.embedded.url)
        self._kept: dict[bytes, bytes] = {}

    def keep(self) -> None:
        """Remember what the partition is now."""
        self._kept = {key: self._raw.dump(key) for key in self._raw.scan_iter(self._prefix + "*", 1000)}

    def fail_over(self, quarantine_us: int = QUARANTINE_US) -> None:
        """Change the incarnation, as a failover does that loses nothing."""
        self.live.raw.hset(self.meta, mapping={"incarnation": "0" * 40, "quarantine_us": quarantine_us})

    def lose(self, quarantine_us: int = QUARANTINE_US) -> None:
        """Fail over to a replica that has what `keep` remembered."""
        for key in self._raw.scan_iter(self._prefix + "*", 1000):
            self._raw.delete(key)
        for key, value in self._kept.items():
            self._raw.restore(key, 0, value)
        self.fail_over(quarantine_us)

    def end_quarantine(self) -> None:
        """Let the quarantine's time be over, once a script has opened it."""
        assert int(self.live.raw.hget(self.meta, "quarantine_until_us") or 0) > self.live.now_us()
        self.live.raw.hset(self.meta, "quarantine_until_us", 0)

    def mend(self) -> None:
        """Leave the partition as others want it."""
        self.live.raw.hset(self.meta, mapping={"quarantine_until_us": 0, "quarantine_us": 0})
        self.guard._lowest.clear()
        self._raw.close()

    # Holders.

    def renew(self, fence: int, claim: Claim | None = None, run_id: str = "r") -> Renewal:
        return self.live.run(self.live.leases.renew(self.project, run_id, fence, claim))

    def told(self, fence: int, run_id: str = "r") -> str:
        """Renew as a holder does that knows of no loss; returns the incarnation that the refusal names."""
        try:
            self.renew(fence, Claim("1"), run_id)
        except Unconfirmed as refusal:
            return refusal.incarnation
        raise AssertionError("renewed without a word of the loss")

    def confirm(self, grant: Grant, nonce: str = "n") -> Renewal:
        """Renew as a holder does that is still HELD: told of the loss, it claims, and says what it was granted."""
        wish = Acquisition(
            self.project,
            grant.run.id,
            grant.run.canonical_id,
            ResumeMode.ALLOW,
            nonce,
            TTL_US,
            HOLDER,
            config={"a": "1"},
        )
        incarnation = self.told(grant.fence)
        return self.renew(
            grant.fence, Claim(incarnation, wish, grant.attempt, grant.next_step, grant.starting_step), grant.run.id
        )
