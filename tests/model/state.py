"""One state of the model. Everything is a tuple, so that states can be hashed and compared.

Time is counted in ticks from `START` on; fences are tenths of a tick, so that several grants fit into one.
"""

from __future__ import annotations

from typing import NamedTuple

START = 10
FENCES_PER_TICK = 10


class Meta(NamedTuple):
    """A partition's `meta`: what opened it (0: absent), and until when (store time) nothing is granted."""

    incarnation: int
    quarantine_until: int


class Record(NamedTuple):
    """A run's record, with the names of `acquire.lua`.

    `opened_in`: the incarnation in which it was granted or renewed. `call`: the call that was answered last with the
    grant; 0 where nobody may take it back. `attempt`: its number; `first`: the fence that it was granted or rebuilt
    under.
    """

    fence: int
    nonce: int
    expiry: int
    avail: int
    end: str
    revoked: bool
    opened_in: int
    call: int = 0
    attempt: int = 0
    first: int = 0


ABSENT = Record(fence=0, nonce=0, expiry=0, avail=0, end="absent", revoked=False, opened_in=0)


class Dataset(NamedTuple):
    """What one node stores.

    `spent`: the nonces that have an attempt. `fences`: (fence, number of its attempt), as `fence.F` of the attempts.
    """

    meta: Meta
    record: Record = ABSENT
    spent: tuple[int, ...] = ()
    fences: tuple[tuple[int, int], ...] = ()


EMPTY = Dataset(Meta(incarnation=0, quarantine_until=0))


class Primary(NamedTuple):
    """A node that takes writes, be it the elected one or one that was cut off.

    `skew`: store TIME less real time. `since`: the real time at which its incarnation began. `syncs`: full syncs that
    it gave. `disk`: what a restart finds.
    """

    name: str
    replid: int
    skew: int
    since: int
    syncs: int
    dataset: Dataset
    disk: Dataset


class Replica(NamedTuple):
    """A node that follows; `leader`: the replication ID whose stream it applies. Only former primaries have names."""

    leader: int
    name: str
    dataset: Dataset


class Token(NamedTuple):
    """What a client names of its lease: its fence, the number of its attempt, and the nonce that was granted."""

    fence: int
    attempt: int
    nonce: int


NO_TOKEN = Token(0, 0, 0)


class Reply(NamedTuple):
    """An acknowledged answer on its way to a client.

    `named`: the fence of the renewal that it answers. `as_holder`: the request claimed to be HELD.
    """

    kind: str
    token: Token
    sent: int
    remaining: int
    as_holder: bool = False
    named: int = 0


class Past(NamedTuple):
    """A lease, or a fence of it, that a client names no longer: messages under it may still be on their way."""

    token: Token
    claims: int
    released: bool


class Client(NamedTuple):
    """What a client knows: the nonce it waits with, or the lease it believes in.

    `claims`: a bit for each incarnation that was open at a moment at which this lease was HELD. `calls`: how often it
    asked with this nonce. `abandoned`: (nonce, call) of calls that it gave up, whose coordinators take the grant back.
    """

    nonce: int = 0
    nonces: int = 0
    token: Token = NO_TOKEN
    deadline: int = 0
    claims: int = 0
    reply: Reply | None = None
    past: tuple[Past, ...] = ()
    releasing: bool = False
    calls: int = 0
    abandoned: tuple[tuple[int, int], ...] = ()

    @property
    def fence(self) -> int:
        """The fence that it names; 0: it has no lease."""
        return self.token.fence


class Budget(NamedTuple):
    """How often each fault, and each operator's act, may still happen."""

    promotions: int = 0
    restarts: int = 0
    clock_steps: int = 0
    breaks: int = 0
    goings_back: int = 0
    coordinators: int = 0


class State(NamedTuple):
    """One moment.

    `primaries`: the last one is elected. `sightings`: (real time, skew) of the TIMEs that the coordinator saw.
    Of the checker's own: `granted`, the fences whose grants were acknowledged, with their nonces; `broken`, the nonces
    of leases that were ended by force; `opened`, a bit for each incarnation that some script has seen; `losses`, how
    often data may have been lost.
    """

    now: int
    primaries: tuple[Primary, ...]
    replicas: tuple[Replica, ...]
    clients: tuple[Client, ...]
    sightings: tuple[tuple[int, int], ...]
    budget: Budget
    granted: tuple[tuple[int, int], ...] = ()
    broken: tuple[int, ...] = ()
    opened: int = 0
    losses: int = 0

    @property
    def elected(self) -> Primary:
        """The primary that Sentinel names."""
        return self.primaries[-1]

    @property
    def newest(self) -> tuple[int, int]:
        """The highest fence whose grant was acknowledged, and its nonce."""
        return self.granted[-1] if self.granted else (0, 0)

    def held(self, client: Client) -> bool:
        """Whether a client is HELD by its own deadline."""
        return client.fence > 0 and self.now < client.deadline
