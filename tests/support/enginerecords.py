"""What the lease engine in plain Python keeps of a run: its attempts, its waiters' places, and wishes for it."""

from dataclasses import dataclass, field

#: Durations in the model's time; real time between the steps of a sequence is nothing beside them.


@dataclass
class Attempt:
    fence: int
    nonce: str
    start: int
    previous: str
    next: int
    outcome: str = "running"
    released: bool = False
    counts: bool = False
    #: Of its writer `main`: whether it wrote, its segment, and where those that a rewind opened start.
    wrote: bool = False
    segment: int = 0
    segments: dict[int, int] = field(default_factory=dict)

    def rewind(self, step: int) -> None:
        """A rewind once the attempt counts; without a write of its own a writer stays in its segment."""
        self.segment += self.wrote
        self.segments[self.segment] = min(step, self.segments.get(self.segment, step))

    @property
    def starts(self) -> list[int]:
        return [self.start, *self.segments.values()] if self.counts else []


@dataclass
class Place:
    until: int
    call: str


@dataclass
class Run:
    """One run; `end` is '' while its last attempt has not ended, `final` once its holder cannot come back."""

    fence: int = 0
    attempts: list[Attempt] = field(default_factory=list)
    end: str = ""
    final: bool = False
    expiry: int = 0
    avail: int = 0
    nonce: str = ""
    call: str = ""
    group: str = ""
    machine: str = ""
    wrote: bool = False
    rewound: bool = False
    revoked: bool = False
    deleted: bool = False
    broken: int = 0
    broken_to: int = 0
    next: int = 0
    checkpoints: set[tuple[int, int]] = field(default_factory=set)
    parent: str = ""
    parent_step: int = -1
    #: Attempt and start of those that did not count yet at the link: they supersede nothing of the parent's.
    spares: set[tuple[int, int]] = field(default_factory=set)
    #: Fence of the last sync, and the nonces of all.
    sync: int = 0
    sync_nonces: set[str] = field(default_factory=set)
    children: int = 0
    keys: list[str] = field(default_factory=list)

    def held(self, now: int) -> bool:
        return self.end == "" and now < self.expiry and not self.deleted

    @property
    def last(self) -> Attempt:
        return self.attempts[-1]

    def by_fence(self, fence: int) -> Attempt | None:
        return next((one for one in self.attempts if one.fence == fence), None)

    @property
    def is_sync(self) -> bool:
        return self.fence == self.sync

    def close(self, outcome: str) -> None:
        """The lease ends: its attempt does, or (of a sync) the run stands as its last attempt ended."""
        if not self.is_sync:
            self.last.outcome = outcome
        self.end = self.last.outcome

    def finish(self, outcome: str) -> None:
        """End the last attempt for good: no way back, no lock-delay."""
        self.close(outcome)
        self.final, self.expiry, self.avail = True, 0, 0

    def number_of(self, fence: int) -> int:
        """The attempt of a fence; 0 for those of parents."""
        return next((n for n, one in enumerate(self.attempts, 1) if one.fence == fence), 0)

    def is_continued(self, number: int) -> bool:
        return any(one.counts for one in self.attempts[number:])

    def count_from(self, number: int, start: int, *, spares: bool = False) -> None:
        """A segment of an attempt begins to count."""
        if not self.is_continued(number):
            self.next = max(start, self.parent_step + 1) if spares else start
        self.checkpoints = {
            (step, fence)
            for step, fence in self.checkpoints
            if step < start or self.number_of(fence) > number or (spares and not self.number_of(fence))
        }

    def write(self, number: int, kind: str, step: int) -> None:
        """Take an entry of an attempt in, in time or late: what counts after it goes on hiding it."""
        attempt = self.attempts[number - 1]
        if kind == "rewind" and not attempt.counts:
            attempt.start = step
        elif kind == "rewind":
            attempt.rewind(step)
            self.count_from(number, step)
        else:
            if not attempt.counts:
                attempt.counts = True
                self.count_from(number, attempt.start, spares=(number, attempt.start) in self.spares)
            if attempt is self.last:
                self.wrote, self.rewound = True, False
            attempt.wrote = True
            later = [start for one in self.attempts[number:] for start in one.starts]
            if not self.is_continued(number):
                self.next = max(self.next, step + 1)
            if kind == "commit" and step < min(later, default=step + 1):
                self.checkpoints.add((step, attempt.fence))


@dataclass
class Wish:
    """What an acquire asks for."""

    run: str
    mode: str
    nonce: str
    call: str
    wait: bool = False
    group: str = ""
    machine: str = ""
    member: bool = False
    proves: int = 0
    resume_step: int | None = None
    rewinds: bool = False
    fork: tuple[str, int] | None = None
    keys: tuple[str, ...] = ()
    search: bool = False
    sync: bool = False
