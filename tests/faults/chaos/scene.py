"""One seed: processes on a site, faults for some seconds, recovery, and the check of all that was recorded."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import redis
import runlease
from runlease.clock import suspend_aware
from runlease.exceptions import RunleaseError
from runlease_coordinator.store.keys import partition_keys, partition_of

from tests.faults.chaos.sites import LOCK_DELAY_S, MAX_TTL_S, make_site
from tests.faults.chaos.trainer import FINISH_S, Wish
from tests.faults.history import final
from tests.faults.history.check import check
from tests.faults.history.leases import Violation
from tests.faults.history.logs import Account
from tests.faults.history.recorder import Recorder
from tests.faults.history.records import load
from tests.faults.history.register import Rules
from tests.faults.history.reinstated import Leases

PROJECTS = ("chaos-a", "chaos-b")
RUNS = ("chaos-a/r1", "chaos-a/r2", "chaos-b/r1")
LIMITED_RUN = "chaos-a/limited"
#: For backoffs, and for processes that get little of a busy machine.
GRACE_S = 8.0
#: What sync says of an attempt that went with the store's data: that spool stays where it is.
_FORGOTTEN = "the run has no attempt"
#: Threads that make faults: so many may go on at once.
_HANDS = 2
#: Points a second of the run that is limited, whose trainer logs 100.
_LIMIT, _BURST_S = 30, 1.0
_TRAINERS = 5


@dataclass(slots=True)
class Outcome:
    """What came of a seed."""

    seed: int
    topology: str
    seconds: float = 0.0
    operations: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    failovers: int = 0
    reinstated: int = 0
    """Leases that came back under a new fence."""
    recovery_s: float = 0.0
    account: Account = field(default_factory=Account)
    violations: list[Violation] = field(default_factory=list)
    notes: str = ""

    def __str__(self) -> str:
        account = self.account
        lost = f"{account.lost} lost, {account.doubled} doubled, {account.declared} declared"
        kind = f"{self.topology}{f' ({self.notes})' if self.notes else ''}"
        what = "FAILED" if self.violations else "ok"
        return (
            f"seed {self.seed} {kind}: {what}, {self.seconds:.1f} s, {self.operations.total()} operations, "
            f"{self.faults.total()} faults, {self.failovers} failovers, {self.reinstated} leases back, "
            f"{account.found} points ({lost}), recovered in {self.recovery_s:.1f} s"
        )


class Nursery:
    """Starts the recorded processes."""

    def __init__(self, environment: dict[str, str], variant: str | None) -> None:
        """Import what they need."""
        run = ["tests.faults.variants", variant, "python", "-m"] if variant else []
        self._process = subprocess.Popen(
            [sys.executable, "-m", *run, "tests.faults.chaos.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._lock = threading.Lock()
        self.pids: dict[str, int] = {}

    def start(self, wish: Wish) -> int:
        """Start a process; returns its PID."""
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            print(json.dumps(asdict(wish)), file=self._process.stdin, flush=True)
            pid = self.pids[wish.name] = int(self._process.stdout.readline())
        return pid

    def lives(self, name: str) -> bool:
        """Whether a process has not ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pids[name], 0)
            return True
        return False

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one that may have ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pids[name], number)

    def wait(self, names: list[str], timeout_s: float) -> list[str]:
        """Wait for the end of processes; returns those that go on."""
        deadline = time.monotonic() + timeout_s
        while (left := [name for name in names if self.lives(name)]) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def close(self) -> None:
        """End all of them."""
        for name in self.pids:
            self.signal(name, signal.SIGKILL)
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


class Scene:
    """Everything of one seed."""

    def __init__(self, seed: int, topology: str, folder: Path, fault_s: float, variant: str | None = None) -> None:
        """Start the site and all processes."""
        self.outcome = Outcome(seed, topology)
        self._random = Random(f"{seed} {topology}")
        self._folder, self._fault_s = folder, fault_s
        self._recorder = Recorder(folder / "runner.jsonl")
        self._stack = contextlib.ExitStack()
        self._numbers = iter(range(1, 1 << 16))
        self._wishes: dict[str, Wish] = {}
        self._over = threading.Event()
        self._ended = threading.Event()
        self._limited = self._random.random() < 0.3
        try:
            self.site = make_site(topology, self._random, variant)
            self._stack.callback(self.site.close)
            self.site.on_loss = lambda: self._recorder.write("loss")
            if hasattr(self.site, "partitions"):
                self.site.partitions = tuple({partition_of(project) for project in PROJECTS})
            environment = self.site.coordinators[0].env | {"RUNLEASE_SILENT": "1"}
            self.nursery = Nursery(environment | {"RUNLEASE_DIR": str(folder / "spools")}, variant)
            self._stack.callback(self.nursery.close)
        except BaseException:  # an interrupt, too, leaves nothing half-made
            self._stack.close()
            raise

    def play(self) -> Outcome:
        """Let it all happen, and judge it."""
        began = time.monotonic()
        with contextlib.closing(self):
            quarantines = threading.Thread(target=self._watch_quarantines)
            quarantines.start()
            try:
                for phase in (self._start_all, self._make_faults, self._recover):
                    self._recorder.write("phase", name=phase.__name__)
                    phase()
                state = self._read_store()
            finally:
                self._ended.set()
                quarantines.join()
            logs = self.site.logs
        history = load(self._folder)
        rules = Rules(LOCK_DELAY_S, self.site.lossy, self.site.clock_slack_s)
        found, self.outcome.account = check(history, state, rules)
        self.outcome.violations += found + self._crashes(logs)
        self.outcome.operations = Counter(call.method for call in history.calls)
        self.outcome.operations["append"] = sum(len(stream.entries) for stream in history.streams)
        leases = Leases(history.calls, state)
        self.outcome.reinstated = sum(len(leases.reinstated(run)) for run in history.runs)
        self.outcome.failovers = getattr(self.site, "failovers", 0)
        self.outcome.notes = getattr(self.site, "keeps", "")
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    def close(self) -> None:
        """End all processes."""
        self._stack.close()

    # The processes.

    def _wish(self, role: str, name: str, runs: tuple[str, ...], **more: Any) -> Wish:
        number = next(self._numbers)
        return Wish(
            name=f"{name}.{number}",
            number=number,
            seed=self._random.randrange(1 << 32),
            role=role,
            runs=runs,
            folder=str(self._folder),
            address=self.site.address_of(self.site.ways),
            renewals=self.site.address_of(self.site.renewal_ways),
            ttl_s=MAX_TTL_S,
            **more,
        )

    def _begin(self, wish: Wish) -> None:
        self._wishes[wish.name] = wish
        self.nursery.start(wish)

    def _start_all(self) -> None:
        for number in range(_TRAINERS):
            self._begin(self._wish("trainer", f"trainer{number}", RUNS))
        self._begin(self._wish("trainer", "holder", RUNS[:1], group="gang"))
        self._begin(self._wish("member", "member", RUNS[:1], group="gang"))
        self._begin(self._wish("operator", "operator", RUNS))
        if self._limited:
            self._begin(self._wish("trainer", "limited", (LIMITED_RUN,), calm=True))

    def _kill_client(self, random: Random) -> None:
        """SIGKILL, and another one in its place."""
        name = random.choice(sorted(self._wishes))
        with self.site.alone(f"client {name}") as free:
            if free and (wish := self._wishes.pop(name, None)):
                self._recorder.write("killed", process=name)
                self.nursery.signal(name, signal.SIGKILL)
                number = next(self._numbers)
                fresh = {"name": f"{name.rpartition('.')[0]}.{number}", "number": number}
                self._begin(Wish(**asdict(wish) | fresh | {"seed": random.randrange(1 << 32)}))

    def _freeze_client(self, random: Random) -> None:
        """SIGSTOP in the middle of whatever it does, also beyond its ttl."""
        name = random.choice(sorted(self._wishes))
        with self.site.alone(f"client {name}") as free:
            if free and name in self._wishes:
                self.nursery.signal(name, signal.SIGSTOP)
                time.sleep(random.uniform(0.1, 1.5) if random.random() < 0.5 else random.uniform(5.0, 7.5))
                self.nursery.signal(name, signal.SIGCONT)

    # The faults.

    def _make_faults(self) -> None:
        faults = {
            **self.site.faults(),
            "kill client": self._kill_client,
            "freeze client": self._freeze_client,
        }
        # Not all of them in each seed: some combinations need room for themselves.
        names = sorted(faults)
        few = self._random.sample(names, self._random.randrange(3, len(names) + 1))
        hands = [
            threading.Thread(target=self._hand, args=({name: faults[name] for name in few}, self._random.random()))
            for _ in range(_HANDS)
        ]
        self._over.wait(1.0)
        with self._limits():
            for hand in hands:
                hand.start()
            self._over.wait(self._fault_s)
            self._over.set()
            for hand in hands:
                hand.join()
            self.site.heal()

    def _hand(self, faults: dict[str, Any], seed: float) -> None:
        random = Random(seed)
        while not self._over.wait(random.uniform(0.05, 0.5)):
            name = random.choice(sorted(faults))
            began = suspend_aware()
            try:
                faults[name](random)
            except (AssertionError, OSError, redis.RedisError, subprocess.SubprocessError) as error:
                self.outcome.faults[f"{name}: {type(error).__name__}"] += 1
                self._recorder.write("no_fault", name=name, began=began, error=str(error)[:300])
                continue
            self._recorder.write("fault", name=name, began=began, ended=suspend_aware())
            self.outcome.faults[name] += 1

    def _limit(self, run_points: int) -> None:
        """Set the limit of the run that has one, in points a second; 0: none."""
        project, run_id = LIMITED_RUN.split("/")
        address = self.site.coordinators[-1].address
        with runlease.Client(address, timeout_s=2.0) as client:
            until_s = time.monotonic() + GRACE_S
            while time.monotonic() < until_s:
                with contextlib.suppress(RunleaseError):
                    client.set_limits(project, run_id, run_points=run_points, burst_s=_BURST_S)
                    return
                time.sleep(0.1)  # its trainer has not made it yet
        raise AssertionError("the limit could not be set")

    @contextlib.contextmanager
    def _limits(self) -> Iterator[None]:
        if not self._limited:
            yield
            return
        self._limit(_LIMIT)
        began = suspend_aware()
        yield
        facts = {"run": LIMITED_RUN, "points": _LIMIT, "burst_s": _BURST_S, "ended": suspend_aware()}
        self._recorder.write("limit", began=began, **facts)
        with contextlib.suppress(AssertionError):  # where a wiped store has lost the run, it has lost its limit, too
            self._limit(0)

    def _watch_quarantines(self) -> None:
        metas = {project: partition_keys(partition_of(project)).meta for project in PROJECTS}
        seen: set[tuple[str, int]] = set()
        away = (redis.RedisError, OSError, AssertionError, ValueError, IndexError)
        while not self._ended.wait(0.3):
            with contextlib.suppress(*away), contextlib.closing(self.site.open_store()) as store:
                for project, meta in metas.items():
                    found = store.hmget(meta, "quarantine_until_us", "quarantine_us")
                    until_us, length_us = (int(value or 0) for value in found)
                    if until_us and (meta, until_us) not in seen and not self.site.clock_ahead_s:
                        seen.add((meta, until_us))
                        facts = {"began_us": until_us - length_us, "until_us": until_us}
                        self._recorder.write("quarantine", project=project, **facts)

    # The end.

    def _recover(self) -> None:
        names = sorted(self._wishes)
        for name in names:
            self.nursery.signal(name, signal.SIGTERM)
        left = self.nursery.wait(names, timeout_s=FINISH_S + 3 * GRACE_S)
        self.outcome.violations += [
            Violation("I10", f"{name} did not end within {FINISH_S + 3 * GRACE_S} s") for name in left
        ]
        bound = MAX_TTL_S + LOCK_DELAY_S + self.site.quarantine_s + self.site.clock_ahead_s + GRACE_S
        runs = [*RUNS, *([LIMITED_RUN] if self._limited else [])]
        probers = [self._wish("prober", "prober", (run,), bound_s=bound) for run in runs]
        for prober in probers:
            self.nursery.start(prober)
        self.nursery.wait([prober.name for prober in probers], 2 * bound + GRACE_S)
        for prober in probers:
            told = [record for record in _records(self._folder / f"{prober.name}.jsonl") if record["e"] == "probed"]
            took = told[0]["took"] if told else None
            self._recorder.write("recovery", run=prober.runs[0], took=took, bound=bound)
            self.outcome.recovery_s = max(self.outcome.recovery_s, took or 0.0)
        sync = self._wish("sync", "sync", (), bound_s=bound)
        self.nursery.start(sync)
        if self.nursery.wait([sync.name], 2 * bound):
            self.outcome.violations.append(Violation("I10", "`runlease sync` does not end"))
        for record in _records(self._folder / f"{sync.name}.jsonl"):
            if record["e"] == "synced":
                left = [reason for reason in record["left"] if not (self.site.lossy and _FORGOTTEN in reason)]
                self.outcome.violations += [Violation("I7", f"kept by sync: {reason}") for reason in left]

    def _read_store(self) -> dict[str, final.FinalRun]:
        runs = [*RUNS, *([LIMITED_RUN] if self._limited else [])]
        with contextlib.closing(self.site.open_store()) as store:
            return final.read(store, runs)

    def _crashes(self, logs: str) -> list[Violation]:
        said = {path.name: path.read_text() for path in self._folder.glob("*.err")} | {"coordinator": logs}
        marks = ("Traceback (most recent call last)", "Fatal Python error")
        return [
            Violation("crash", name, tuple(text[text.index(mark) :].splitlines()[-30:]))
            for name, text in sorted(said.items())
            for mark in marks
            if mark in text
        ]


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)
