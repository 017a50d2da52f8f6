"""The processes of a chaos run that hold, wait for, join, break and misuse runs, each recording all that it does.

Every point that is ever logged has a value of its own, so what is found in the store tells who logged it, and when.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import runlease
import runlease.lease
from runlease.channel import open_channel
from runlease.clock import suspend_aware
from runlease.exceptions import CoordinatorUnavailable, LeaseLost, RunleaseError
from runlease.records import OUTCOMES
from runlease.spool import find_sessions
from runlease.sync import Result, Synchronizer
from runlease.writer import LogWriter

from tests.faults.history.recorder import Recorder, Sampler, install

#: A step of a training, in seconds; short, so that faults fall into the middle of something.
_STEP_S = 0.02
_TELL_EVERY_S = 0.2
#: What a process may log in all its lives, as a range of numbers of its own.
_VALUES = 1 << 32
_LIFE_VALUES = 1 << 18
FINISH_S = 6.0


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """What a process shall be."""

    name: str
    number: int
    seed: int
    role: str
    """``trainer``, ``member``, ``operator``, ``prober`` or ``sync``."""
    runs: tuple[str, ...]
    folder: str
    address: str
    renewals: str
    """The coordinators' address for renewals: those have a way of their own, which can be blocked alone."""
    ttl_s: float
    group: str = ""
    bound_s: float = 0.0
    calm: bool = False
    """No commits, rewinds or ends: only what is limited."""


class Process:
    """One process's life, which may be many attempts at many runs."""

    def __init__(self, wish: Wish) -> None:
        """Record from now on."""
        self.wish, self.random = wish, Random(wish.seed)
        self.recorder = Recorder(Path(wish.folder, f"{wish.name}.jsonl"))
        install(self.recorder)
        self.stopping = threading.Event()
        self._lives = 0
        signal.signal(signal.SIGTERM, lambda *_: self.stopping.set())
        runlease.lease.open_channel = lambda address: open_channel(wish.renewals)

    def train_on(self) -> None:
        """Take runs, log to them and end them, until told to stop."""
        while not self.stopping.is_set():
            with self._run(self.random.choice(self.wish.runs)) as run:
                if run is not None:
                    self._train(run)
            self.stopping.wait(self.random.uniform(0.0, 0.3))

    @contextlib.contextmanager
    def _run(self, path: str) -> Iterator[runlease.Run | None]:
        project, run_id = path.split("/")
        member = self.wish.role == "member"
        journaled = self.wish.number % 2 == 0
        try:
            run = runlease.init(
                project=project,
                id=run_id,
                resume="allow",
                ttl=self.wish.ttl_s,
                wait=self.random.choice((0.0, 2.0, 3.0)) if not self.wish.calm else 5.0,
                connect_timeout=3.0,
                spool="always" if journaled else "overflow",
                group=self.wish.group or None,
                holder=(not member) if self.wish.group else None,
                writer="rank1" if member else None,
            )
        except RunleaseError as error:
            self.recorder.write("refused_init", error=f"{type(error).__name__}: {error}"[:300])
            yield None
            return
        self._lives += 1
        facts = {"fence": run.fence, "writer": "rank1" if run.member else "main", "number": self._lives}
        self.recorder.write("life", run=f"{run.project}/{run.id}", journaled=journaled, **facts)
        sampler = Sampler(self.recorder, run.lease)
        teller = Teller(self.recorder, run)
        try:
            yield run
        finally:
            outcome = self.random.choice(OUTCOMES)
            delivered = run.finish(outcome, timeout=FINISH_S)
            sampler.close()
            teller.close()
            self.recorder.write("end", delivered=delivered, lost=run.lease.lost.is_set())

    def _train(self, run: runlease.Run) -> None:
        # Now and then one outlasts a quarantine, and may get its lease back behind it.
        mean_s = 20.0 if self.random.random() < 0.1 else 3.0
        until = time.monotonic() + self.random.expovariate(1 / mean_s) + (60 if self.wish.calm else 0)
        value = self.wish.number * _VALUES + self._lives * _LIFE_VALUES
        commits: list[int] = []
        while time.monotonic() < until and not self.stopping.wait(_STEP_S):
            value += 1
            row = {"x": float(value), "y": value + 0.5}
            self.recorder.write("log", step=run.step, row=row)
            try:
                run.log(row)
                if not self.wish.calm:
                    self._do_something(run, commits)
                run.lease.check()
            except LeaseLost:
                self.recorder.write("lost")
                return
            except CoordinatorUnavailable:
                continue  # suspended: a training goes on

    def _do_something(self, run: runlease.Run, commits: list[int]) -> None:
        dice = self.random.random()
        if dice < 0.03:
            self.recorder.write("commit", step=run.step - 1)
            run.commit_checkpoint(run.step - 1, uri=f"/ckpt/{run.step - 1}")
            commits.append(run.step - 1)
        elif dice < 0.04:
            step = max(0, run.step - self.random.randrange(20))
            self.recorder.write("rewind", step=step)
            run.rewind(step)
        elif dice < 0.05 and commits and not run.member:
            if run.flush(1.0) and self._tells_all(run):
                self.recorder.write("durable", steps=list(commits))
            commits.clear()
        elif dice < 0.055:
            self._fork(run)

    def _tells_all(self, run: runlease.Run) -> bool:
        """Tell what was acknowledged; returns whether that is all, as `flush` said."""
        stats = run.stats()
        self.recorder.write("told", **dataclasses.asdict(stats))
        return stats.acknowledged + stats.lost >= stats.logged

    def _fork(self, run: runlease.Run) -> None:
        child = os.fork()
        if child == 0:
            with contextlib.suppress(LeaseLost):
                run.log({"x": -1.0})  # a no-op in a child: nobody may ever read it
                run.lease.check()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            self.recorder.write("child", status=status)

    def operate(self) -> None:
        """Break leases, and use tokens that are too old, until told to stop."""
        with runlease.Client(self.wish.address, timeout_s=1.0) as client:
            while not self.stopping.wait(self.random.uniform(0.05, 0.3)):
                project, run_id = self.random.choice(self.wish.runs).split("/")
                with contextlib.suppress(RunleaseError):
                    record = client.get_run(project, run_id)
                    # The last attempt's is no old one: its lease may have come back under another.
                    old = [one.fence for one in record.attempts[:-1] if one.fence < record.fence]
                    dice = self.random.random()
                    if dice < 0.1:
                        client.break_lease(project, run_id, record.fence, reason="chaos", force=dice < 0.05)
                    elif old:
                        self._misuse(client, project, run_id, self.random.choice(old[-3:]), dice)

    def _misuse(self, client: runlease.Client, project: str, run_id: str, fence: int, dice: float) -> None:
        if dice < 0.5:
            client.renew(project, run_id, fence, held_by_own_clock=dice < 0.4)
        elif dice < 0.7:
            client.release(project, run_id, fence)
        else:
            channel = open_channel(self.wish.address)
            log = LogWriter(channel, project, run_id, fence, writer="zombie")
            log.log(0, 0.0, ("x",), (float(self.wish.number * _VALUES),))
            log.close(0.5)
            channel.close()

    def probe(self) -> None:
        """Take one run within the bound, once; what it logs must be there, too."""
        project, run_id = self.wish.runs[0].split("/")
        began = suspend_aware()
        took = None
        with contextlib.suppress(RunleaseError):
            bound = self.wish.bound_s
            run = runlease.init(
                project=project,
                id=run_id,
                resume="allow",
                ttl=self.wish.ttl_s,
                wait=bound + 5,
                connect_timeout=bound + 5,
            )
            took = suspend_aware() - began
            facts = {"fence": run.fence, "writer": "main", "number": 1}
            self.recorder.write("life", run=self.wish.runs[0], journaled=False, **facts)
            row = {"x": float(self.wish.number * _VALUES)}
            self.recorder.write("log", step=run.step, row=row)
            run.log(row)
            delivered = run.finish(timeout=self.wish.bound_s)
            self.recorder.write("told", **dataclasses.asdict(run.stats()))
            self.recorder.write("end", delivered=delivered, lost=False)
        self.recorder.write("probed", run=self.wish.runs[0], took=took, bound=self.wish.bound_s)

    def sync(self) -> None:
        """Deliver what all others have left."""
        found = find_sessions(Path(os.environ["RUNLEASE_DIR"]))
        results = [(session, Result.of(session)) for session in found.sessions]
        with Synchronizer(
            self.wish.address, None, wait_s=self.wish.bound_s, patience_s=self.wish.bound_s
        ) as synchronizer:
            synchronizer.deliver(results)
        left = [f"{result.verdict}: {result.reason}" for _, result in results if result.verdict.value != "delivered"]
        self.recorder.write("synced", sessions=len(results), left=left, unreadable=len(found.unreadable))


class Teller:
    """Tells all the time what became of the points."""

    def __init__(self, recorder: Recorder, run: runlease.Run) -> None:
        """Begin to tell."""
        self._recorder, self._run = recorder, run
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self._thread.start()

    def _tell(self) -> None:
        while not self._ended.wait(_TELL_EVERY_S):
            self._recorder.write("told", **dataclasses.asdict(self._run.stats()))

    def close(self) -> None:
        """Tell for the last time."""
        self._ended.set()
        self._thread.join()
        self._recorder.write("told", **dataclasses.asdict(self._run.stats()))


def main(wish: dict[str, Any]) -> None:
    """Be what is wished."""
    process = Process(Wish(**wish | {"runs": tuple(wish["runs"])}))
    match process.wish.role:
        case "operator":
            process.operate()
        case "prober":
            process.probe()
        case "sync":
            process.sync()
        case _:
            process.train_on()
