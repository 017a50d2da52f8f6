"""Points of four ranks through kills, cut connections and a throttle: each acknowledged one is there, once, in order.

    python -m tests.faults.points --points 10000000 --seed 1 --store redis

Exits with 1 and the first difference where something is lost, doubled or out of order. The same seed gives the same
faults at the same counts of acknowledged points; what happens within them is up to the machine.
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import runlease
from runlease.exceptions import RunleaseError

from tests.faults.formula import RANKS, points_of, steps_for
from tests.faults.site import Site
from tests.faults.verify import Difference, check_checkpoints, check_history, check_log, check_spools

PROJECT, RUN = "faults", "ranks"
#: Checkpoints of the whole run.
COMMITS = 20
#: No acknowledgement for this long is a failure: everything that is killed is started again at once.
STUCK_S = 180.0
#: What rate limits let through while they hold back, as a part of what came in before, and for how long at a look.
THROTTLE_PART, LOOK_S = 0.3, 0.25
READ_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to how many points."""

    points: int
    seed: int
    store: str
    faults: int
    #: Points that a rank logs a second, and those of it that may wait before it logs on.
    rate: int = 25_000
    backlog: int = 400_000
    #: Bytes of a rank's memory for points that wait; the others go to its spool.
    memory: int = 1 << 20
    #: Part of the time for which limits shall hold the ranks back.
    throttle: float = 0.2
    #: A run with so many bytes in the store is archived.
    archive_bytes: int = 16 << 20

    @property
    def steps(self) -> int:
        """Steps of each rank."""
        return steps_for(self.points)

    @property
    def commit_every(self) -> int:
        """Steps between checkpoints."""
        return max(1, self.steps // COMMITS)


@dataclass(slots=True)
class Summary:
    """What was done, and what it came to."""

    plan: Plan
    points: int = 0
    seconds: float = 0.0
    throttled_s: float = 0.0
    #: Of all ranks, at most, at one moment.
    spooled: int = 0
    #: Points that the store still holds; the others are in the archive.
    hot: int = 0
    checkpoints: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        plan, done = self.plan, ", ".join(f"{count} x {name}" for name, count in sorted(self.faults.items()))
        return (
            f"seed {plan.seed}, store {plan.store}: {self.points:,} points of {RANKS} ranks in {self.seconds:.0f} s, "
            f"{self.points / self.seconds:,.0f} points/s\n"
            f"faults: {done or 'none'}\n"
            f"throttled: {self.throttled_s:.1f} s, {self.throttled_s / self.seconds:.0%} of the time; "
            f"in spools at most: {self.spooled:,} points; archived: {self.points - self.hot:,}\n"
            f"every point is there once and in order; {self.checkpoints} checkpoints"
        )


class Rank:
    """A rank's process, and what it last told."""

    def __init__(self, site: Site, plan: Plan, number: int) -> None:
        wish = {"project": PROJECT, "id": RUN, "rank": number, "steps": plan.steps, "commit_every": plan.commit_every}
        wish |= {"rate": plan.rate, "backlog": plan.backlog, "memory": plan.memory}
        self.told: dict[str, Any] = {}
        self._stderr: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.rank", json.dumps(wish)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=site.env,
        )
        self._readers = [threading.Thread(target=read) for read in (self._read, self._read_stderr)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.told = json.loads(line)

    def _read_stderr(self) -> None:
        assert self.process.stderr
        self._stderr.extend(self.process.stderr)

    @property
    def stderr(self) -> str:
        return "".join(self._stderr)

    @property
    def acknowledged(self) -> int:
        return int(self.told.get("acknowledged", 0))

    def finish(self) -> None:
        """Let it finish its run; it must have delivered everything."""
        assert self.process.stdin
        self.process.stdin.close()
        status = self.process.wait(60)
        self.close()
        if status or not self.told.get("finished"):
            raise Difference(f"a rank did not finish: {self.told}\n{self.stderr}")

    def close(self) -> None:
        """End it, if it has not ended, and its pipes."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                stream.close()


class Training:
    """The ranks, what is done to their way, and how far they are."""

    def __init__(self, site: Site, plan: Plan, say: Callable[[str], None]) -> None:
        self._site, self._plan, self._say = site, plan, say
        self._random = Random(plan.seed)
        self._client = runlease.Client(site.steady_address, timeout_s=5.0)
        self.summary = Summary(plan)
        self._limit: int | None = None
        self._began = time.monotonic()
        self._ranks = [Rank(site, plan, number) for number in range(RANKS)]
        self._acknowledged, self._moved_at = 0, self._began

    def run(self) -> Summary:
        """Return once every rank says that all of its points are acknowledged, and has finished."""
        total = points_of(self._plan.steps) * RANKS
        due = self._schedule(total)
        told_at = 0.0
        while not all(rank.told.get("done") for rank in self._ranks):
            self._watch(total)
            while due and self._acknowledged >= due[0][0]:
                self._do(due.pop(0)[1])
                self._watch(total)
                self._throttle()
            self._throttle()
            if time.monotonic() >= told_at + 10:
                told_at = time.monotonic()
                self._say(f"{self._acknowledged:>12,} of {total:,} points, {told_at - self._began:.0f} s")
            time.sleep(LOOK_S)
        self.summary.seconds = time.monotonic() - self._began
        self.summary.throttled_s = self._throttled_s()
        if due:
            raise Difference(f"{len(due)} faults were not made: the points came in too fast for them")
        for rank in reversed(self._ranks):  # the holder last: its release ends the others' lease
            rank.finish()
        for rank in self._ranks:
            self._check_counts(rank.told)
        self.summary.points = total
        return self.summary

    def _do(self, name: str) -> None:
        self._say(f"{self._acknowledged:>12,} points: {name}")
        self._site.faults()[name](self._random)
        self.summary.faults[name] += 1

    def _schedule(self, total: int) -> list[tuple[int, str]]:
        """Return (count of acknowledged points, fault): every fault equally often, in random order."""
        names = list(self._site.faults())
        chosen = [names[number % len(names)] for number in range(self._plan.faults)]
        self._random.shuffle(chosen)
        # Not at the very end: what waits there comes in at once.
        return list(zip(sorted(int(total * self._random.uniform(0.02, 0.8)) for _ in chosen), chosen, strict=True))

    def _watch(self, total: int) -> None:
        acknowledged, now = sum(rank.acknowledged for rank in self._ranks), time.monotonic()
        spooled = sum(rank.told.get("spooled", 0) for rank in self._ranks)
        self.summary.spooled = max(self.summary.spooled, spooled)
        if acknowledged > self._acknowledged:
            self._acknowledged, self._moved_at = acknowledged, now
        told = [rank.told for rank in self._ranks]
        dead = [rank for rank in self._ranks if rank.process.poll() is not None]
        if dead:
            raise Difference(f"a rank died at {self._acknowledged:,} of {total:,} points: {dead[0].stderr}")
        if now > self._moved_at + STUCK_S:
            raise Difference(f"no point was acknowledged for {STUCK_S:g} s: {told}\n{self._site.logs}")

    def _throttled_s(self) -> float:
        return sum(rank.told.get("throttled_s", 0.0) for rank in self._ranks) / RANKS

    def _throttle(self) -> None:
        """Set a limit while the ranks were held back for less than their part of the time, else none."""
        elapsed = time.monotonic() - self._began
        low = self._throttled_s() < self._plan.throttle * elapsed and self._acknowledged > 0
        limit = max(1000, int(self._acknowledged / elapsed * THROTTLE_PART)) if low else 0
        if self._limit is not None and bool(limit) == bool(self._limit):
            return
        try:
            self._client.set_limits(
                PROJECT, run_points=limit, run_bytes=0, project_points=0, project_bytes=0, burst_s=0.2
            )
            self._limit = limit
        except RunleaseError as error:  # it was killed, or its store
            self._say(f"the limit is set later: {error}")

    def _check_counts(self, told: dict[str, Any]) -> None:
        logged = points_of(self._plan.steps)
        counts = {name: told[name] for name in ("logged", "acknowledged", "spooled", "dropped", "rejected", "lost")}
        if counts != dict.fromkeys(counts, 0) | {"logged": logged, "acknowledged": logged}:
            raise Difference(f"a rank that logged {logged} points counts {counts}")

    def close(self) -> None:
        """End all processes of ranks."""
        for rank in self._ranks:
            rank.close()
        self._client.close()


def run(plan: Plan, say: Callable[[str], None] = print) -> Summary:
    """Carry out a plan and compare.

    Raises:
        Difference: the first one.
    """
    site = Site(plan.store, "--archive-bytes", str(plan.archive_bytes))
    try:
        training = Training(site, plan, say)
        try:
            summary = training.run()
        finally:
            training.close()
        say("compare")
        with site.open_store() as store:
            summary.hot = check_log(store, PROJECT, RUN, plan.steps)
        check_spools(site.spools)
        with runlease.Client(site.steady_address, timeout_s=READ_TIMEOUT_S) as client:
            check_history(client, PROJECT, RUN, plan.steps)
            summary.checkpoints = check_checkpoints(client, PROJECT, RUN, plan.steps, plan.commit_every)
        return summary
    finally:
        site.close()


def main() -> int:
    """Read the plan from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.points", description=__doc__.split("\n")[0])
    parser.add_argument("--points", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--store", choices=("embedded", "redis"), default="embedded")
    parser.add_argument("--faults", type=int, help="default: one for 250 000 points, 6 at least")
    parser.add_argument("--rate", type=int, default=25_000, help="points a second of a rank")
    parser.add_argument("--memory", type=int, default=1 << 20, help="bytes of a rank's memory for points that wait")
    parser.add_argument("--archive-bytes", type=int, default=16 << 20, help="bytes in the store that are archived")
    parser.add_argument("--backlog", type=int, default=400_000, help="points of a rank that may wait")
    parser.add_argument("--throttle", type=float, default=0.2, help="part of the time that limits hold back")
    args = parser.parse_args()
    faults = max(6, args.points // 250_000) if args.faults is None else args.faults
    plan = Plan(
        args.points,
        args.seed,
        args.store,
        faults,
        args.rate,
        args.backlog,
        args.memory,
        args.throttle,
        args.archive_bytes,
    )
    print(plan, flush=True)
    began = time.monotonic()
    try:
        summary = run(plan, lambda line: print(f"{time.monotonic() - began:7.1f} s  {line}", flush=True))
    except Difference as difference:
        print(f"DIFFERENCE (seed {plan.seed}): {difference}", file=sys.stderr)
        return 1
    print(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
