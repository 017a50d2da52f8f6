"""Random sequences of everything that can happen to a project's runs: the scripts against a plain model of the design.

Each four bytes of a program are one step: what, who, and two choices. After every step all that the store has of the
runs is compared with the model, and the audit log with what the model noted.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runlease_coordinator.domain.errors import DomainError
from runlease_coordinator.domain.leases import Acquisition, Fork, Grant, Patience, ProofOfDeath, ResumeMode
from runlease_coordinator.domain.metrics import Entry, EntryKind, Writer
from runlease_coordinator.domain.runs import Holder, RunState
from runlease_coordinator.store import leases as lease_module
from runlease_coordinator.store.keys import partition_keys, partition_of, run_keys
from runlease_coordinator.store.leases import LeaseStore
from runlease_coordinator.store.records import checkpoint_json

from tests.support.enginemodel import KEY_LIFE, LOCK_DELAY, PLACE_LIFE, TTL, Engine, Refusal
from tests.support.enginerecords import Run, Wish
from tests.support.enginestate import state_of, texts
from tests.support.stores import LiveStore

#: One unit of the model's time; a sequence takes far less, so real time decides nothing.
UNIT_US = 100_000_000
RUNS = ("r0", "r1", "r2")
#: Most of it happens to the same run.
CHOICE = ("r0", "r0", "r0", "r1", "r1", "r2")
KEYS = ("k0", "k1")
MODES = ("allow", "allow", "must", "auto", "never")
OUTCOMES = ("finished", "failed", "crashed", "preempted", "killed")
SEQUENCES = int(os.environ.get("RUNLEASE_TEST_SEQUENCES", "1500"))

#: Lets time pass for a project: moves all of its moments into the past.
AGE = """
local by = tonumber(ARGV[1])
for i = 1, #KEYS - 1, 3 do
  local run, wait = KEYS[i], KEYS[i + 1]
  for _, field in ipairs({'expiry', 'avail', 'granted'}) do
    local at = tonumber(redis.call('HGET', run, field) or 0)
    if at > 0 then redis.call('HSET', run, field, string.format('%.0f', at - by)) end
  end
  for _, nonce in ipairs(redis.call('HKEYS', wait)) do
    local at, call = string.match(redis.call('HGET', wait, nonce), '^(%S+) (%S+)$')
    redis.call('HSET', wait, nonce, string.format('%.0f %s', at - by, call))
  end
  if redis.call('ZSCORE', KEYS[i + 2], ARGV[(i + 2) / 3 + 1]) then
    redis.call('ZINCRBY', KEYS[i + 2], -by, ARGV[(i + 2) / 3 + 1])
  end
end
local auto = KEYS[#KEYS]
for _, key in ipairs(redis.call('HKEYS', auto)) do
  local id, at = string.match(redis.call('HGET', auto, key), '^(%S+) (%S+)$')
  redis.call('HSET', auto, key, id .. ' ' .. string.format('%.0f', at - by))
end
"""


class Client:
    """A process that asks for runs: its machine, its group, and its last wish."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.machine = ("", "m0", "m1")[number % 3]
        self.group = ("", "", "g")[number // 2]
        self.wish: Wish | None = None

    @property
    def holder(self) -> Holder:
        boot, namespace = (self.machine, "pid:[1]") if self.machine else ("", "")
        return Holder("host", 1, "ada", "", self.group, "0.1", boot, namespace, 7)


class Machine:
    """Runs one program on the store and on the model."""

    def __init__(self, live: LiveStore, project: str) -> None:
        self.live, self.project = live, project
        self.model = Engine()
        self.clients = [Client(number) for number in range(6)]
        self.keys = {run_id: run_keys(project, run_id) for run_id in RUNS}
        self.partition = partition_keys(partition_of(project))
        self.leases = LeaseStore(live.store, live.wakeups, LOCK_DELAY * UNIT_US)
        self.sweeper = live.sweeper
        self.calls: Iterator[str] = iter(())
        self.numbers = itertools.count(1)
        never = int(live.raw.hget(live.meta(project), "epoch") or 0)  # when the store was opened
        #: All fences that were ever told, by run; the first never was.
        self.fences: dict[str, list[int]] = {run_id: [never] for run_id in RUNS}
        self.last_event = ""
        self.before: dict[str, dict[str, str]] = {}
        self.seen: Counter[str] = Counter()
        self.story: list[str] = []

    async def play(self, program: bytes) -> None:
        self.last_event = await self._last_event()
        program = b"\0\0\0\0" + program  # there is a run to begin with
        for index in range(0, len(program) - 3, 4):
            what, who, one, two = program[index : index + 4]
            name = STEPS[what % len(STEPS)]
            self.model.events.clear()
            self.story.append(f"{name} {who} {one} {two}")
            changed = await getattr(self, name)(who, one, two)
            await self._check(changed)

    def fence_of(self, run_id: str, choice: int) -> int:
        """Mostly the last fence."""
        known = self.fences[run_id]
        return known[-1] if choice % 4 else known[choice // 4 % len(known)]

    def told(self, expected: Any, found: Any) -> None:
        self.story[-1] += f": {found}"
        self.seen[found] += 1
        assert found == expected

    async def _both(self, expected: Any, call: Any) -> Any:
        """Make a call of model and store; both must say the same. Returns their common answer, or None if refused."""
        refusal = ""
        try:
            wanted = expected()
        except Refusal as error:
            refusal = str(error)
        try:
            found = await call()
        except DomainError as error:
            self.told(refusal or "no refusal", error.reason)
            return None
        self.told(refusal, "")
        self.story[-1] = self.story[-1].removesuffix(": ") + f": {found}"
        assert found == wanted
        return found

    # Steps; each returns whether the store may have changed.

    async def acquire(self, who: int, one: int, two: int) -> bool:
        client = self.clients[who % 6]
        last = client.wish
        retries = last is not None and two % 3 == 0
        if retries and last is not None:
            wish = last
            wish.call = f"c{next(self.numbers)}"
        else:
            number = next(self.numbers)
            wish = Wish(CHOICE[one % 6], MODES[one // 6 % 5], f"n{number}", f"c{number}")
            wish.wait, wish.group, wish.machine = one % 4 > 0, client.group, client.machine
            self._decorate(wish, one, two // 6)
        client.wish = wish
        return await self._acquire(client, wish)

    def _decorate(self, wish: Wish, one: int, two: int) -> None:
        match two % 12:
            case 0 | 1:
                wish.proves = self.fence_of(wish.run, one)
            case 2:
                wish.resume_step = one % 20
            case 3 if (step := one // 16) >= 0:
                wish.resume_step, wish.rewinds, wish.mode = step + 1, True, "must"
            case 4 | 5:
                parent = RUNS[(RUNS.index(wish.run) + 1 + one // 16 % 2) % 3]
                wish.fork, wish.mode = (parent, one // 16), "never"
            case 6:
                wish.member = bool(wish.group)
            case 7 | 8 | 9:
                wish.keys, wish.mode = (KEYS[: 1 + one % 2] if one % 3 else KEYS[1:]), "auto"
                wish.search = one % 4 != 0
            case 10 | 11:
                wish.sync, wish.group = True, ""
                wish.proves = self.fence_of(wish.run, one) if two % 24 > 11 else 0

    async def _acquire(self, client: Client, wish: Wish) -> bool:
        asked = wish.run
        found_by_key = self.model.find(wish.keys) if wish.search else None
        wish.run = found_by_key or wish.run
        kind = ""
        try:
            kind = next(self.model.acquire(wish))
            expected = ""
        except Refusal as error:
            expected = str(error)
        try:
            grant = await self._ask(client, wish, asked)
        except DomainError as error:
            self.told(expected or f"granted ({kind})", error.reason)
            return True
        self.told(expected, "")
        self.story[-1] += f"{wish.run} {grant.fence} {kind}"
        run_id = wish.run
        if kind == "new":
            assert grant.fence > max(self.fences[run_id])
            self.fences[run_id].append(grant.fence)
            self.model.grant(wish, grant.fence)
        self._compare(grant, self.model.runs[run_id], kind)
        wish.run = asked if kind == "member" else run_id
        return True

    def _compare(self, grant: Grant, run: Run, kind: str) -> None:
        attempt = run.last
        left_us = (run.expiry - self.model.now) * UNIT_US
        assert left_us - UNIT_US < grant.remaining_us <= left_us
        if run.is_sync:
            assert (grant.fence, grant.attempt, grant.checkpoint) == (run.fence, 0, None)
            assert grant.starting_step == grant.next_step == run.next
            assert grant.previous_state == attempt.outcome
            return
        below = [step for step, _ in run.checkpoints if step < attempt.start]
        assert (grant.fence, grant.attempt, grant.starting_step) == (run.fence, len(run.attempts), attempt.start)
        assert (grant.next_step, grant.resumed) == (attempt.next, attempt.previous != "")
        assert (grant.previous_state or "") == attempt.previous
        assert (grant.checkpoint.step if grant.checkpoint else None) == max(below, default=None)
        assert grant.member == (kind == "member")

    async def _ask(self, client: Client, wish: Wish, asked: str) -> Grant:
        proof = ProofOfDeath(wish.proves, client.machine, "pid:[1]", 1, 7) if wish.proves else None
        self.leases._calls = (call for call in (wish.call,))
        patience = Patience(1 if wish.wait else 0, last=False)  # one look, and the place stays
        return await self.leases.acquire(
            Acquisition(
                project=self.project,
                id=asked,
                canonical_id=asked,
                mode=ResumeMode(wish.mode),
                nonce=wish.nonce,
                ttl_us=TTL * UNIT_US,
                holder=client.holder,
                resume_step=wish.resume_step,
                rewinds=wish.rewinds,
                fork=Fork(*wish.fork) if wish.fork else None,
                member=wish.member,
                proof=proof,
                auto_keys=wish.keys,
                auto_search=wish.search,
                sync=wish.sync,
            ),
            patience,
        )

    async def renew(self, who: int, one: int, two: int) -> bool:
        run_id, fence = CHOICE[who % 6], self.fence_of(CHOICE[who % 6], one)

        async def call() -> bool:
            renewal = await self.leases.renew(self.project, run_id, fence)
            assert (TTL - 1) * UNIT_US < renewal.remaining_us <= TTL * UNIT_US
            return renewal.reinstated

        return await self._both(lambda: self.model.renew(run_id, fence), call) is not None

    async def release(self, who: int, one: int, two: int) -> bool:
        run_id, fence, outcome = CHOICE[who % 6], self.fence_of(CHOICE[who % 6], one), OUTCOMES[two % 5]

        async def call() -> str:
            return (await self.leases.release(self.project, run_id, fence, RunState(outcome))).value

        return await self._both(lambda: self.model.release(run_id, fence, outcome), call) is not None

    async def write(self, who: int, one: int, two: int) -> bool:
        run_id, fence = CHOICE[who % 6], self.fence_of(CHOICE[who % 6], one)
        kind, step = ("points", "points", "commit", "rewind")[two % 4], two // 4 % 20
        run, late = self.model.runs.get(run_id), 0
        if run is not None and run.is_sync and run.fence == fence:
            late = who // 6 % (len(run.attempts) + 2)  # also none, and one that there is not

        async def call() -> None:
            writer = Writer(self.project, run_id, fence, "main", f"s{next(self.numbers)}", late)
            at = await self.live.metrics.open_writer(writer)
            segment = at.segment + (kind == "rewind" and at.written)
            await self.live.metrics.append(writer, self._entry(at.seq + 1, segment, kind, step, at.fence))

        await self._both(lambda: self.model.write(run_id, fence, kind, step, late), call)
        return True

    def _entry(self, seq: int, segment: int, kind: str, step: int, fence: int) -> Entry:
        match kind:
            case "points":
                return Entry(seq, segment, EntryKind.POINTS, b"", 1, step)
            case "commit":
                return Entry(seq, segment, EntryKind.COMMIT, checkpoint_json(step, fence, "u", {}), 0, step)
        return Entry(seq, segment, EntryKind.REWIND, b"%d" % step, 0, step)

    async def break_lease(self, who: int, one: int, two: int) -> bool:
        run_id, fence, force = CHOICE[who % 6], self.fence_of(CHOICE[who % 6], one), two % 2 == 0
        refusal, forced = "", False
        try:
            forced = self.model.break_lease(run_id, fence, force)
        except Refusal as error:
            refusal = str(error)
        try:
            broken = await self.leases.break_lease(self.project, run_id, fence, force=force, reason="why", by="ada")
        except DomainError as error:
            self.told(refusal or "no refusal", error.reason)
            return False
        self.told(refusal, "")
        self.story[-1] += "broken"
        run = self.model.runs[run_id]
        if forced:
            assert broken > max(self.fences[run_id])
            self.fences[run_id].append(broken)
            run.fence = run.broken_to = broken
        assert broken == (run.broken_to if run.broken == fence else fence)
        return True

    async def delete(self, who: int, one: int, two: int) -> bool:
        run_id, fence = CHOICE[who % 6], self.fence_of(CHOICE[who % 6], one)
        runs = self.live.runs
        await self._both(
            lambda: self.model.delete(run_id, fence),
            lambda: runs.delete_run(self.project, run_id, run_id, fence, "why"),
        )
        return True

    async def undelete(self, who: int, one: int, two: int) -> bool:
        run_id, runs = CHOICE[who % 6], self.live.runs
        await self._both(
            lambda: self.model.undelete(run_id), lambda: runs.undelete_run(self.project, run_id, run_id, "why")
        )
        return True

    async def purge(self, who: int, one: int, two: int) -> bool:
        run_id, fence = CHOICE[who % 6], self.fence_of(CHOICE[who % 6], one)
        runs = self.live.runs
        await self._both(
            lambda: self.model.purge(run_id, fence),
            lambda: runs.purge_run(self.project, run_id, run_id, fence, "why"),
        )
        return True

    async def link(self, who: int, one: int, two: int) -> bool:
        run_id, parent, step = CHOICE[who % 6], RUNS[one % 3], two % 20 if two % 3 else None
        runs = self.live.runs
        await self._both(
            lambda: self.model.link(run_id, parent, step),
            lambda: runs.link(self.project, run_id, run_id, parent, step),
        )
        return True

    async def abandon(self, who: int, one: int, two: int) -> bool:
        """A caller is gone: of its last call, or of one before, which somebody else has answered since."""
        wish = self.clients[who % 6].wish
        if wish is None:
            return False
        call = wish.call if one % 4 else f"c{max(1, int(wish.call[1:]) - 1)}"
        fork_of = wish.fork[0] if wish.fork else ""
        keys = self.keys[wish.run]
        parent = self.keys[fork_of] if fork_of else keys

        async def gone() -> bool:
            return await self.leases.abandon(keys, parent, nonce=wish.nonce, call=call)

        await self._both(lambda: self.model.abandon(wish.run, nonce=wish.nonce, call=call, fork_of=fork_of), gone)
        return True

    async def give_back(self, who: int, one: int, two: int) -> bool:
        run_id, fence = CHOICE[who % 6], self.fence_of(CHOICE[who % 6], one)
        await self._both(
            lambda: self.model.abandon(run_id, fence=fence),
            lambda: self.leases.give_back(self.project, run_id, fence),
        )
        return True

    async def sweep(self, who: int, one: int, two: int) -> bool:
        await self._both(self.model.sweep, self.sweeper.sweep)
        return True

    async def wait(self, who: int, one: int, two: int) -> bool:
        by = KEY_LIFE + 1 if one == 255 else (1, 2, PLACE_LIFE, TTL, TTL + LOCK_DELAY)[one % 5]
        self.model.now += by
        names: list[str] = []
        for keys in self.keys.values():
            names += [keys.run, keys.waitx, self.partition.live]
        names.append(self.partition.auto(self.project))
        members = [keys.path for keys in self.keys.values()]
        await self.live.store.control.call("EVAL", AGE, len(names), *names, by * UNIT_US, *members)
        return True

    # What must hold after each

    async def _check(self, changed: bool) -> None:
        call = self.live.store.control.call
        questions = [
            question
            for keys in self.keys.values()
            for question in (
                call("HGETALL", keys.run),
                call("HGETALL", keys.attempts),
                call("ZRANGE", keys.ckpt, 0, -1),
                call("ZRANGE", keys.wait, 0, -1),
                call("HGETALL", keys.waitx),
                call("ZSCORE", self.partition.live, keys.path),
            )
        ]
        *answers, entries = await asyncio.gather(
            *questions, call("XRANGE", self.partition.events, f"({self.last_event}", "+")
        )
        for index, run_id in enumerate(RUNS):
            flat, attempts, ckpts, waiting, places, score = answers[index * 6 : index * 6 + 6]
            record = texts(flat)
            if not changed:
                assert record == self.before.get(run_id, {}), "a refused call changed the record"
            self.before[run_id] = record
            now_us = self.live.store.clock_of(self.project).now_us()
            found = state_of(record, texts(attempts), [name.decode() for name in ckpts], now_us)
            lives = {nonce: int(text.split()[0]) for nonce, text in texts(places).items()}
            found["queue"] = [nonce.decode() for nonce in waiting if lives[nonce.decode()] > now_us]
            assert found == self.model.state(run_id)
            if record and record["end"] == "" and not found["deleted"]:
                assert float(score) == float(record["expiry"])  # the sweeper will find it
        noted = []
        for entry, flat in entries:
            self.last_event = entry.decode()
            event = texts(flat)
            assert event["p"] == self.project
            noted.append((event["k"], event["r"], int(event["a"])))
        assert sorted(noted) == sorted(self.model.events)
        self.seen.update(kind for kind, _, _ in noted)

    async def _last_event(self) -> str:
        last = await self.live.store.control.call("XREVRANGE", self.partition.events, "+", "-", "COUNT", 1)
        return last[0][0].decode() if last else "0-0"


#: As often as they are useful.
STEPS = ("acquire",) * 8 + ("wait",) * 3 + ("renew",) * 2 + ("release",) * 3 + ("write",) * 4
STEPS += ("break_lease", "delete", "delete", "undelete", "purge", "purge", "link", "link")
STEPS += ("abandon", "abandon", "give_back", "sweep")


#: What a thousand sequences of about fifty steps meet: refusals, and kinds of events.
REFUSALS = {"LEASE_HELD", "LOCK_DELAY", "LEASE_QUEUED", "NO_HOLDER", "RUN_EXISTS", "RUN_NOT_FOUND", "RUN_DELETED"}
REFUSALS |= {"NONCE_ENDED", "STALE_FENCE", "LEASE_ENDED", "REVOKED", "RUN_GONE", "LEASE_FREE", "INVALID_FIELD"}
REFUSALS |= {"CYCLE", "LINKED_ALREADY", "NOT_DELETED", "REFERENCED"}
EVENTS = {"created", "granted", "reinstated", "released", "expired", "proved-dead", "given-back", "revoked", "broken"}
EVENTS |= {"linked", "deleted", "undeleted", "purged", "sync_began", "sync_ended"}

NUMBERS = itertools.count()
SEEN: Counter[str] = Counter()


@pytest.fixture(scope="module")
def machine_store() -> Iterator[LiveStore]:
    store = LiveStore()
    store.raw.config_set("appendfsync", "no")  # what is on disk is not the question here
    with mock.patch.object(lease_module, "PLACE_LIFE_US", PLACE_LIFE * UNIT_US):
        yield store
    store.close()


@pytest.mark.timeout(60 + SEQUENCES)
@settings(
    max_examples=SEQUENCES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(program=st.binary(min_size=80, max_size=320))
def test_the_engine_does_what_the_design_says(machine_store: LiveStore, program: bytes) -> None:
    machine = Machine(machine_store, f"machine-{next(NUMBERS)}")
    try:
        machine_store.run(machine.play(program))
    except AssertionError as error:
        error.add_note("\n".join(machine.story))
        raise
    finally:
        for keys in machine.keys.values():  # the next sequence's sweeps are its own
            machine_store.raw.zrem(machine.partition.live, keys.path)
    SEEN.update(machine.seen)


def test_the_sequences_met_everything() -> None:
    if SEEN.total() < 50_000:
        pytest.skip("too few steps to tell")
    assert not {word for word in REFUSALS | EVENTS if not SEEN[word]}
