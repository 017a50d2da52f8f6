"""`python -m tests.faults.chaos`: seeds of random faults, each checked for all invariants."""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from tests.faults.chaos.scene import Outcome, Scene

TOPOLOGIES = ("embedded", "redis", "sentinel", "cluster")
FAULT_S = 8.0
#: A seed takes about 15 s; beyond this it hangs.
_SEED_WITHIN_S = 240.0


def play(args: argparse.Namespace) -> Outcome:
    """Play one seed; its files are kept if it fails, with the report."""
    folder = Path(tempfile.mkdtemp(prefix="rly-", dir="/tmp"))
    outcome = None
    try:
        outcome = Scene(args.seed, args.topology, folder, args.fault_seconds, args.variant).play()
        return outcome
    finally:
        if outcome is None or outcome.violations:
            kept = args.keep / "-".join(filter(None, (args.variant, args.topology, str(args.seed))))
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept)
            report = "\n".join(map(str, outcome.violations)) if outcome else "the runner failed"
            (kept / "REPORT").write_text(report + "\n")
        shutil.rmtree(folder, ignore_errors=True)


class Totals:
    """The sum over seeds."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.outcomes: list[Outcome] = []
        self.broken = 0

    def __str__(self) -> str:
        """Return it as a few lines."""
        operations, faults = Counter[str](), Counter[str]()
        for one in self.outcomes:
            operations += one.operations
            faults += one.faults
        accounts = [one.account for one in self.outcomes]
        kinds = Counter(one.topology for one in self.outcomes)
        failed = sum(bool(one.violations) for one in self.outcomes)
        return "\n".join(
            [
                f"{len(self.outcomes)} seeds ({_list(kinds)}), {sum(one.seconds for one in self.outcomes):.0f} s of "
                f"chaos, {failed} failed, {self.broken} could not be played",
                f"operations: {operations.total()} ({_list(operations)})",
                f"faults: {faults.total()} ({_list(faults)})",
                f"failovers: {sum(one.failovers for one in self.outcomes)}; "
                f"leases that came back under a new fence: {sum(one.reinstated for one in self.outcomes)}",
                f"points: {sum(one.found for one in accounts)} in the logs, {sum(one.lost for one in accounts)} lost, "
                f"{sum(one.doubled for one in accounts)} doubled; lost by a store that may, declared: "
                f"{sum(one.declared for one in accounts)}, with nobody left to declare: "
                f"{sum(one.undeclared for one in accounts)}",
                f"longest recovery: {max((one.recovery_s for one in self.outcomes), default=0):.1f} s",
            ]
        )


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def main() -> int:
    """Play seeds until the time is over."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="begin no seed after so long")
    parser.add_argument("--seed", type=int, help="the first seed; the others follow")
    parser.add_argument("--seeds", type=int, default=10**9, help="so many at most")
    parser.add_argument("--topology", choices=(*TOPOLOGIES, "all"), default="all", help="default: one after the other")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at once")
    parser.add_argument("--fault-seconds", type=float, default=FAULT_S, help="of each seed")
    parser.add_argument("--keep", type=Path, default=Path("chaos-failed"), help="where files of failed seeds stay")
    parser.add_argument("--variant", help="a known-bad one of tests/faults/variants.py: something must be found")
    parser.add_argument("--one", metavar="FILE", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if min(args.seconds, args.jobs, args.seeds) <= 0:  # nothing would be played, and nothing found
        parser.error("--seconds, --jobs and --seeds take more than 0")
    first = secrets.randbelow(10**6) if args.seed is None else args.seed
    if args.one:
        outcome = play(args)
        args.one.write_bytes(pickle.dumps(outcome))
        return 0
    totals = Totals()
    seeds = iter(range(first, first + args.seeds))
    began, lock = time.monotonic(), threading.Lock()

    def work() -> None:
        while time.monotonic() < began + args.seconds:
            with lock:
                seed = next(seeds, None)
            if seed is None:
                return
            kind = TOPOLOGIES[seed % len(TOPOLOGIES)] if args.topology == "all" else args.topology
            outcome, said = _in_process(seed, kind, args)
            with lock:
                if outcome is None:
                    totals.broken += 1
                    print(f"seed {seed} {kind}: could not be played:\n{said}", flush=True)
                else:
                    totals.outcomes.append(outcome)
                    print("\n".join([str(outcome), *map(str, outcome.violations)]), flush=True)

    workers = [threading.Thread(target=work) for _ in range(args.jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(totals)
    return 1 if totals.broken or any(one.violations for one in totals.outcomes) else 0


def _in_process(seed: int, topology: str, args: argparse.Namespace) -> tuple[Outcome | None, str]:
    """Play a seed in a process of its own: what one leaves in the interpreter is not the next one's trouble."""
    with tempfile.NamedTemporaryFile(prefix="rly-", dir="/tmp") as file:
        command = [sys.executable, "-m", "tests.faults.chaos", "--one", file.name, "--seed", str(seed)]
        command += ["--topology", topology, "--fault-seconds", str(args.fault_seconds), "--keep", str(args.keep)]
        command += ["--variant", args.variant] if args.variant else []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            timer = threading.Timer(_SEED_WITHIN_S, process.send_signal, (signal.SIGINT,))  # it ends what it started
            timer.start()
            said, _ = process.communicate()
            timer.cancel()
        with contextlib.suppress(EOFError):
            outcome: Outcome = pickle.loads(Path(file.name).read_bytes())
            return outcome, said
        return None, said


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        os._exit(main()) if "--one" in sys.argv else sys.exit(main())
