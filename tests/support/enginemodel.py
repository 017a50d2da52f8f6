"""The lease engine in plain Python, for one project, with a clock of its own.

Refusals are raised as `Refusal` with the word that clients match. Fences come from the store and are given to
`grant`, since they follow its clock; everything else is decided here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.support.enginerecords import Attempt, Place, Run, Wish

#: Durations in the model's time; real time between the steps of a sequence is nothing beside them.
TTL, LOCK_DELAY, PLACE_LIFE, KEY_LIFE = 6, 2, 3, 30 * 864


class Refusal(Exception):
    """A call is refused; the argument is the reason."""


class Engine:
    """All runs of a project."""

    def __init__(self) -> None:
        self.now = 0
        self.runs: dict[str, Run] = {}
        self.queues: dict[str, dict[str, Place]] = {}
        self.bound: dict[str, tuple[str, int]] = {}
        #: What this step wrote to the audit log: (kind, run, attempt).
        self.events: list[tuple[str, str, int]] = []

    def note(self, kind: str, run_id: str) -> None:
        self.events.append((kind, run_id, len(self.runs[run_id].attempts)))

    # Waiters

    def head(self, run_id: str) -> str | None:
        return next(iter(self.alive(run_id)), None)

    def alive(self, run_id: str) -> dict[str, Place]:
        """The queue; a place that has died is lost."""
        queue = self.queues.get(run_id, {})
        self.queues[run_id] = queue = {nonce: place for nonce, place in queue.items() if place.until > self.now}
        return queue

    def leave(self, run_id: str, nonce: str) -> None:
        self.queues.setdefault(run_id, {}).pop(nonce, None)

    # Automatic keys

    def find(self, keys: tuple[str, ...]) -> str | None:
        return next((self.bound[key][0] for key in keys if key in self.bound and self.bound[key][1] > self.now), None)

    def bind(self, run_id: str, keys: tuple[str, ...]) -> None:
        run = self.runs[run_id]
        for key in keys:
            self.bound[key] = (run_id, self.now + KEY_LIFE)
        earlier = [key for key in run.keys if self.bound.get(key, ("", 0)) > (run_id, self.now) and key not in keys]
        run.keys = [*keys, *(key for key in earlier if self.bound[key][0] == run_id)]

    def forget(self, run_id: str) -> None:
        for key in self.runs[run_id].keys:
            if self.bound.get(key, ("",))[0] == run_id:
                del self.bound[key]
        self.runs[run_id].keys = []

    # Acquire

    def acquire(self, wish: Wish) -> Iterator[str]:
        """Decide; yields 'again', 'member' or 'new' where there is something to grant, and then wants `grant`."""
        run, run_id = self.runs.get(wish.run), wish.run
        if run and wish.nonce in {*run.sync_nonces, *(one.nonce for one in run.attempts)}:
            if run.nonce != wish.nonce or not run.held(self.now):
                raise Refusal("NONCE_ENDED")
            run.call = wish.call if run.call else ""  # renewed: no call takes it back any more
            yield "again"
            return
        if run and not run.deleted and self.now < run.avail and self.is_proved(wish, run):
            self.end("proved-dead", run_id, "crashed")
        if run and run.held(self.now) and wish.group and wish.group == run.group:
            self.leave(run_id, wish.nonce)
            yield "member"
            return
        if wish.member and not (run and run.deleted):
            raise Refusal("NO_HOLDER")
        refusal = self.judge(wish, run)
        if refusal in ("LEASE_HELD", "LOCK_DELAY", "LEASE_QUEUED"):
            if wish.wait:
                place = self.queues[run_id].setdefault(wish.nonce, Place(0, ""))
                place.until, place.call = self.now + PLACE_LIFE, wish.call
            raise Refusal(refusal)
        self.leave(run_id, wish.nonce)
        if refusal:
            raise Refusal(refusal)
        self.check_branch(wish, run)
        yield "new"

    def is_proved(self, wish: Wish, run: Run) -> bool:
        """Only who is on the holder's machine can know, and only of the present holder."""
        return bool(wish.machine) and wish.machine == run.machine and wish.proves == run.fence

    def judge(self, wish: Wish, run: Run | None) -> str:
        """The table of section 4, top down."""
        head = self.head(wish.run)
        mode = "never" if wish.fork else "must" if wish.sync else wish.mode
        if run is None:
            return "RUN_NOT_FOUND" if mode == "must" else ""
        if run.deleted:
            return "RUN_DELETED"
        if mode == "never":
            return "RUN_EXISTS"
        if run.held(self.now):
            return "LEASE_HELD"
        if self.now < run.avail:
            return "LOCK_DELAY"
        return "LEASE_QUEUED" if head not in (None, wish.nonce) else ""

    def check_branch(self, wish: Wish, run: Run | None) -> None:
        if wish.fork:
            parent = self.runs.get(wish.fork[0])
            if parent is None:
                raise Refusal("RUN_NOT_FOUND")
            if parent.deleted:
                raise Refusal("RUN_DELETED")
            if wish.fork[1] >= parent.next:
                raise Refusal("INVALID_FIELD")
        if wish.rewinds and (run is None or (wish.resume_step or 0) > run.next):
            raise Refusal("INVALID_FIELD")

    def grant(self, wish: Wish, fence: int) -> Attempt:
        """Record the grant that the last `acquire` allowed."""
        run = self.runs.get(wish.run)
        created = run is None
        if run is None:
            run = self.runs[wish.run] = Run()
        elif run.end == "":
            self.expire(wish.run)
        if wish.sync:
            self.lease(run, wish, fence)
            run.sync = fence
            run.sync_nonces.add(wish.nonce)
            self.note("sync_began", wish.run)
            return run.last
        if wish.fork:
            self.adopt(run, *wish.fork)
            run.next = wish.fork[1] + 1
        previous = "" if created else run.end
        top = max((step for step, _ in run.checkpoints), default=None)
        start = run.next if top is None else top + 1
        if wish.resume_step is not None:
            start = wish.resume_step
        elif wish.fork:
            start = wish.fork[1] + 1
        attempt = Attempt(fence, wish.nonce, start, previous, run.next)
        run.attempts.append(attempt)
        if wish.keys:
            self.bind(wish.run, wish.keys)
        self.lease(run, wish, fence)
        run.wrote, run.rewound = wish.rewinds, wish.rewinds
        if wish.rewinds:
            attempt.counts = True
            run.count_from(len(run.attempts), start)
        self.note("created" if created else "granted", wish.run)
        return attempt

    def lease(self, run: Run, wish: Wish, fence: int) -> None:
        run.fence, run.nonce, run.call, run.group, run.machine = fence, wish.nonce, wish.call, wish.group, wish.machine
        run.end, run.final, run.revoked = "", False, False
        run.expiry, run.avail = self.now + TTL, self.now + TTL + LOCK_DELAY

    def end(self, kind: str, run_id: str, outcome: str) -> None:
        """A lease ends for good."""
        self.note("sync_ended" if self.runs[run_id].is_sync else kind, run_id)
        self.runs[run_id].finish(outcome)

    def expire(self, run_id: str) -> None:
        self.note("sync_ended" if self.runs[run_id].is_sync else "expired", run_id)
        self.runs[run_id].close("crashed")

    def adopt(self, run: Run, parent_id: str, step: int) -> None:
        parent = self.runs[parent_id]
        run.parent, run.parent_step = parent_id, step
        parent.children += 1
        run.checkpoints |= {one for one in parent.checkpoints if one[0] <= step}

    # What the holder does

    def fenced(self, run_id: str, fence: int) -> Run:
        run = self.runs.get(run_id)
        if run is None:
            raise Refusal("RUN_GONE")
        if run.deleted:
            raise Refusal("RUN_DELETED")
        if run.fence != fence:
            raise Refusal("STALE_FENCE")
        return run

    def renew(self, run_id: str, fence: int) -> bool:
        run = self.fenced(run_id, fence)
        if run.final:
            raise Refusal("LEASE_ENDED")
        if run.revoked:
            raise Refusal("REVOKED")
        back = self.now >= run.expiry
        run.end = ""
        if not run.is_sync:
            run.last.outcome = "running"
        run.expiry, run.avail, run.call = self.now + TTL, self.now + TTL + LOCK_DELAY, ""
        if back:
            self.note("sync_began" if run.is_sync else "reinstated", run_id)
        return back

    def release(self, run_id: str, fence: int, outcome: str) -> str:
        run = self.runs.get(run_id)
        if run is None:
            raise Refusal("RUN_GONE")
        if run.fence != fence:
            old = run.by_fence(fence)
            if old and old.released:
                return old.outcome
            raise Refusal("STALE_FENCE")
        if run.deleted and not run.last.released:
            raise Refusal("RUN_DELETED")
        if run.final:
            return run.end
        self.end("released", run_id, outcome)
        run.revoked = False
        if not run.is_sync:
            run.last.released = True
        if run.end == "finished":
            self.forget(run_id)
        return run.end

    def write(self, run_id: str, fence: int, kind: str, step: int, late: int) -> None:
        """Log under a fence; ``late``: an ended attempt, under a sync's."""
        run = self.fenced(run_id, fence)
        if run.by_fence(fence) is None and not run.is_sync:
            raise Refusal("STALE_FENCE")
        if run.is_sync != (late > 0) or late > len(run.attempts):
            raise Refusal("INVALID_FIELD")
        run.write(late or len(run.attempts), kind, step)

    # What operators and coordinators do

    def break_lease(self, run_id: str, fence: int, force: bool) -> bool:
        """Returns whether a new fence is due."""
        run = self.runs.get(run_id)
        if run is None:
            raise Refusal("RUN_NOT_FOUND")
        if run.deleted:
            raise Refusal("RUN_DELETED")
        if run.broken == fence:
            return False
        if run.fence != fence:
            raise Refusal("STALE_FENCE")
        if self.now >= run.avail:
            raise Refusal("LEASE_FREE")
        if force:
            self.end("broken", run_id, "killed")
            run.broken, run.revoked = fence, False  # the new fence comes from the store
        elif not run.revoked:
            run.revoked = True
            self.note("revoked", run_id)
        return force

    def sweep(self) -> int:
        due = [name for name, run in self.runs.items() if run.end == "" and self.now >= run.expiry and not run.deleted]
        for name in sorted(due, key=lambda name: (self.runs[name].expiry, name)):
            self.expire(name)
        return len(due)

    def delete(self, run_id: str, fence: int) -> None:
        run = self.runs.get(run_id)
        if run is None:
            raise Refusal("RUN_NOT_FOUND")
        if run.fence != fence:
            raise Refusal("STALE_FENCE")
        if run.deleted:
            return
        if run.held(self.now):
            raise Refusal("LEASE_HELD")
        if run.end == "":
            self.expire(run_id)
        run.deleted, run.final, run.expiry, run.avail = True, True, 0, 0
        self.forget(run_id)
        self.note("deleted", run_id)

    def undelete(self, run_id: str) -> None:
        run = self.runs.get(run_id)
        if run is None:
            raise Refusal("RUN_NOT_FOUND")
        if run.deleted:
            run.deleted = False
            self.note("undeleted", run_id)

    def purge(self, run_id: str, fence: int) -> None:
        run = self.runs.get(run_id)
        if run is None:
            raise Refusal("RUN_NOT_FOUND")
        if run.fence != fence:
            raise Refusal("STALE_FENCE")
        if not run.deleted:
            raise Refusal("NOT_DELETED")
        if run.children:
            raise Refusal("REFERENCED")
        self.note("purged", run_id)
        self.remove(run_id)
        self.queues.pop(run_id, None)

    def remove(self, run_id: str) -> None:
        parent = self.runs.get(self.runs[run_id].parent)
        if parent:
            parent.children -= 1
        del self.runs[run_id]

    def link(self, run_id: str, parent_id: str, step: int | None) -> None:
        ancestor = parent_id
        while ancestor:
            if ancestor == run_id:
                raise Refusal("CYCLE")
            if ancestor not in self.runs:
                raise Refusal("RUN_NOT_FOUND")
            ancestor = self.runs[ancestor].parent
        run, parent = self.runs.get(run_id), self.runs[parent_id]
        if run is None:
            raise Refusal("RUN_NOT_FOUND")
        if run.deleted or parent.deleted:
            raise Refusal("RUN_DELETED")
        if step is None:
            step = parent.next - 1
        if not 0 <= step < parent.next:
            raise Refusal("INVALID_FIELD")
        if run.parent:
            if (run.parent, run.parent_step) == (parent_id, step):
                return
            raise Refusal("LINKED_ALREADY")
        self.adopt(run, parent_id, step)
        run.spares = {(number, one.start) for number, one in enumerate(run.attempts, 1) if not one.counts}
        run.next = max(run.next, step + 1)
        self.note("linked", run_id)

    def abandon(self, run_id: str, *, nonce: str = "", call: str = "", fork_of: str = "", fence: int = 0) -> bool:
        """The caller is gone, or (by fence) says that it never used the grant; returns whether it is taken back."""
        place = self.queues.get(run_id, {}).get(nonce)
        if place and place.call == call:
            self.leave(run_id, nonce)
        run = self.runs.get(run_id)
        mine = run is not None and (run.fence == fence if fence else (run.nonce, run.call) == (nonce, call))
        if run is None or not mine or run.end != "":
            return False
        if run.is_sync:
            run.sync_nonces.discard(run.nonce)
            run.nonce = ""
            self.end("given-back", run_id, "")
            return True
        if run.wrote and not run.rewound:
            return False
        self.note("given-back", run_id)
        if run.last.previous == "" and not run.children and (fence or run.parent == fork_of):
            self.forget(run_id)
            self.remove(run_id)
        elif run.rewound or run.last.previous == "":
            run.last.nonce = ""
            run.finish("killed")
        else:
            gone = run.attempts.pop()
            if gone.previous == "finished":
                self.forget(run_id)
            run.end, run.final, run.expiry, run.avail, run.nonce = gone.previous, True, 0, 0, ""
            run.wrote = True
        return True

    def state(self, run_id: str) -> Mapping[str, object]:
        """Return what the store should have of a run."""
        run = self.runs.get(run_id)
        found: dict[str, object] = {"queue": list(self.alive(run_id))}
        if run is None:
            return found
        attempts = [(a.fence, a.outcome, a.start, a.counts, a.released, a.previous, a.next) for a in run.attempts]
        found |= {"fence": run.fence, "end": run.end, "attempts": attempts, "final": run.final, "next": run.next}
        found |= {"held": run.held(self.now), "closed": self.now < run.avail, "revoked": run.revoked}
        found |= {"deleted": run.deleted, "checkpoints": sorted(run.checkpoints), "children": run.children}
        found |= {"parent": (run.parent, run.parent_step), "keys": sorted(run.keys)}
        found |= {"nonces": sorted([*(a.nonce for a in run.attempts if a.nonce), *run.sync_nonces])}
        return found
