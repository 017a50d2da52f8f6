"""Thousands of leases and streams on one coordinator, while coordinators are killed and the store fails over.

`python -m tests.bench.load --minutes 10 --leases 10000 --streams 2000` starts three data nodes with their Sentinels,
two coordinators that wait for a replica (--data-nodes 3), and a process that plays all the holders
(`tests.bench.swarm`), which are all on the first coordinator until it is killed. Whatever is killed is started again
after a few seconds. Printed are, a period each: the latencies of what was answered, what was refused, the CPU time and
the memory of every process. A lease is lost when the coordinator says so, suspended when its holder's own deadline
passes without a renewal; the exit status is 1 if one was lost, or not renewed at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench import plot, processes, report
from tests.bench.soak import Samples, slope
from tests.bench.swarm import Plan
from tests.support.coordinator import CoordinatorProcess
from tests.support.redis import RedisServer
from tests.support.sentinels import SentinelSite

_SAMPLE_S = 2.0
#: How long a killed process stays away at least.
_AWAY_S = 5.0
#: When faults come, in parts of the run; the second half shows whether memory grows while nothing happens.
_KILLS, _FAIL_OVERS = (0.1, 0.2), (0.3, 0.4)

_Pid = Callable[[], int | None]


class Fault(NamedTuple):
    """Something that is done to the processes."""

    at_s: float
    name: str
    do: Callable[[], None]


class Sampler(threading.Thread):
    """Follows memory and CPU time of processes by role; a role's process may be another one later."""

    def __init__(self, roles: dict[str, _Pid]) -> None:
        """Take how to find each role's process."""
        super().__init__(name="sampler", daemon=True)
        self._roles = roles
        self._cpu: dict[str, tuple[int, float]] = {}
        self._ended = threading.Event()
        self._began = time.monotonic()
        self.memory: Samples = {}

    def run(self) -> None:
        """Look at all of them again and again, until `end`."""
        while not self._ended.wait(_SAMPLE_S):
            for role, find in self._roles.items():
                with suppress(OSError):
                    if pid := find():
                        at = time.monotonic() - self._began
                        self.memory.setdefault(role, []).append((at, processes.resident_mib(pid)))

    def end(self) -> None:
        """Stop."""
        self._ended.set()
        if self.ident is not None:
            self.join()

    def used_s(self) -> dict[str, float]:
        """Return the CPU time of each role since the last call, in seconds."""
        used = {}
        for role, find in self._roles.items():
            with suppress(OSError):
                if pid := find():
                    before_pid, before_s = self._cpu.get(role, (pid, 0.0))
                    now_s = processes.cpu_s(pid)
                    self._cpu[role] = (pid, now_s)
                    used[role] = now_s - (before_s if before_pid == pid else 0.0)
        return used


def run(plan: Plan, with_faults: bool) -> tuple[dict[str, Any], Samples]:
    """Load two coordinators behind Sentinels; returns the swarm's outcome and the memory of every process."""
    with ExitStack() as stack:
        both = stack.enter_context(processes.two_behind_sentinels(plan.ttl_s))
        if both is None:
            sys.exit("redis-server is not on PATH: install it (Debian: apt install redis-server)")
        site, coordinators = both
        plan = Plan(**asdict(plan) | {"address": ",".join(each.address for each in coordinators)})
        swarm = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.swarm", json.dumps(asdict(plan))], stdout=subprocess.PIPE, text=True
        )
        stack.callback(processes.end, swarm)
        roles: dict[str, _Pid] = {"swarm": lambda: swarm.pid}
        roles |= {f"node {number}": partial(_pid, each) for number, each in enumerate(site.nodes, 1)}
        roles |= {f"coordinator {number}": partial(_pid, each) for number, each in enumerate(coordinators, 1)}
        faults = [
            Fault(part * plan.seconds, f"SIGKILL of coordinator {number + 1}", partial(_kill, coordinators[number]))
            for number, part in enumerate(_KILLS)
        ]
        faults += [
            Fault(part * plan.seconds, "SIGKILL of the primary", partial(_fail_over, site)) for part in _FAIL_OVERS
        ]
        sampler = Sampler(roles)
        outcome = _follow(swarm, sampler, faults if with_faults else (), plan.seconds)
        return outcome, sampler.memory


def _pid(of: CoordinatorProcess | RedisServer) -> int | None:
    process = of.process
    return process.pid if process is not None and process.poll() is None else None


def _kill(coordinator: CoordinatorProcess) -> None:
    coordinator.kill()
    time.sleep(_AWAY_S)
    coordinator.start()


def _fail_over(site: SentinelSite) -> None:
    before = site.primary
    site.failover()
    time.sleep(_AWAY_S)
    before.start()
    site.settle()


def _follow(swarm: subprocess.Popen[str], sampler: Sampler, faults: Sequence[Fault], seconds: float) -> dict[str, Any]:
    """Print the swarm's lines as they come, bring the faults before the time is up; returns the outcome."""
    assert swarm.stdout is not None
    began = threading.Event()
    ended = threading.Event()

    def bring() -> None:
        began.wait()
        start = time.monotonic()
        for fault in sorted(faults):
            if ended.wait(max(0.0, start + fault.at_s - time.monotonic())):
                return
            print(f"  {time.monotonic() - start:6.1f} s  {fault.name}", flush=True)
            fault.do()

    bringer = threading.Thread(target=bring, name="faults", daemon=True)
    bringer.start()
    outcome: dict[str, Any] = {}
    try:
        for line in swarm.stdout:
            told = json.loads(line)
            if "outcome" in told:
                outcome = told["outcome"]
                continue
            if "began" in told:
                sampler.start()
                began.set()
            elif told["at"] > seconds - 1:
                ended.set()
            _tell(told, sampler)
    finally:
        ended.set()
        began.set()
        bringer.join()
        sampler.end()
    return outcome


def _tell(told: dict[str, Any], sampler: Sampler) -> None:
    when = "began " if "began" in told else f"{told['at']:6.1f} s"
    states = " ".join(f"{name} {count:,}" for name, count in told.get("states", {}).items())
    print(f"{when}  {states}")
    for kind, took in told["took_ms"].items():
        print(
            f"  {kind:8} {took['n']:7,}  ms p50 {took['p50']:.1f}, p99 {took['p99']:.1f}, "
            f"p99.9 {took['p999']:.1f}, max {took['max']:.1f}"
        )
    if told["failed"]:
        print("  refused  " + ", ".join(f"{name} {count:,}" for name, count in sorted(told["failed"].items())))
    memory = {role: values[-1][1] for role, values in sampler.memory.items()}
    used = (f"{role} {s:.1f} s, {memory.get(role, 0.0):.0f} MiB" for role, s in sampler.used_s().items())
    print("  CPU, memory  " + "; ".join(used), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.load", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--leases", type=int, default=Plan.leases)
    parser.add_argument("--streams", type=int, default=Plan.streams)
    parser.add_argument("--ttl", type=float, default=Plan.ttl_s, metavar="SECONDS")
    parser.add_argument("--append-every", type=float, default=Plan.append_every_s, metavar="SECONDS")
    parser.add_argument("--churn", type=float, default=Plan.churn, metavar="RUNS", help="that come and go a second")
    parser.add_argument("--connections", type=int, default=Plan.connections, help="that all of it shares")
    parser.add_argument("--period", type=float, default=60.0, metavar="SECONDS", help="between two reports")
    parser.add_argument("--no-faults", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw memory over time")
    options = parser.parse_args()
    plan = Plan(
        address="",
        leases=options.leases,
        streams=options.streams,
        seconds=options.minutes * 60,
        period_s=options.period,
        ttl_s=options.ttl,
        append_every_s=options.append_every,
        churn=options.churn,
        connections=options.connections,
    )
    print(report.machine(), processes.conditions(), sep="\n")
    outcome, memory = run(plan, not options.no_faults)
    print(processes.conditions())
    print(json.dumps(outcome, indent=2))
    for role, values in memory.items():
        mib = [value for _, value in values]
        print(
            f"{role}: {mib[0]:.1f} MiB at first, {mib[-1]:.1f} at last, {max(mib):.1f} at most, "
            f"{slope(values):+.0f} KiB/min after the first 40 %"
        )
    if options.plot:
        options.plot.write_text(plot.lines(memory, "seconds", "MiB"))
    sys.exit(1 if outcome["lost"] or outcome["unrenewed"] else 0)


if __name__ == "__main__":
    main()
