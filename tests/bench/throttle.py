"""What a rate limit costs the training loop: the time of a step, throttled to a fifth of what it logs, and not.

A step multiplies matrices for about two milliseconds and logs 5 scalars. Each round is a process of its own; once
its loop is over the limit goes, so that the backlog gets out, and the history is compared with what was logged. Run
as a program it is one such process and prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from statistics import median
from typing import Any

from tests.bench.processes import ROOT
from tests.bench.rounds import Figure, Wanted, interleave

KEYS = ("train/loss", "train/acc", "lr", "grad_norm", "throughput")
#: A step's work: so many products of square matrices of this size, on one thread.
_PRODUCTS, _SIZE = 4, 256
#: Steps before the timed ones: the first seconds are those in which BLAS and the writer warm up.
_WARM_UP = 100
_SHARE = 0.2
_SETTLED_S = 60.0
#: The ratio of throttled to unthrottled that is wanted, at most.
WANTED = Wanted(1.02, False, "unthrottled")


def _loop(run: Any, steps: int) -> tuple[float, float]:
    """Train; returns the median time of a step in milliseconds and the seconds of it all."""
    import numpy as np

    generator = np.random.default_rng(0)
    x, y = (generator.standard_normal((_SIZE, _SIZE)) for _ in range(2))
    took = []
    began = time.perf_counter()
    for step in range(steps):
        start = time.perf_counter_ns()
        for _ in range(_PRODUCTS):
            product = x @ y
        run.log({key: product[0, place] + step for place, key in enumerate(KEYS)})
        took.append((time.perf_counter_ns() - start) / 1e6)
    return median(took), time.perf_counter() - began


def main() -> None:
    import runlease

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--throttled", action="store_true")
    options = parser.parse_args()
    project = f"throttle-{secrets.token_hex(5)}"
    with runlease.Client() as client, runlease.init(project=project, id="r", resume="allow") as run:
        client.set_limits(project, run_points=0, run_bytes=0, project_points=0, project_bytes=0)
        _, took_s = _loop(run, _WARM_UP)
        assert run.flush(_SETTLED_S)
        if options.throttled:
            points = int(_SHARE * len(KEYS) * _WARM_UP / took_s)
            client.set_limits(project, run_points=points, burst_s=0.1)
        steps = int(options.seconds * _WARM_UP / took_s)
        step_ms, _ = _loop(run, steps)
        during = run.stats()
        client.set_limits(project, run_points=0)
        assert run.flush(_SETTLED_S)
        stats = run.stats()
        found = [[*series.steps] for series in client.history(project, "r").series]
    wanted = [*range(_WARM_UP + steps)]
    whole = found == [wanted] * len(KEYS) and stats.acknowledged == stats.logged
    print(
        json.dumps(
            {
                "step_ms": step_ms,
                "steps": steps,
                "waiting_points": during.buffered,
                "throttled_s": stats.throttled_s,
                "is_whole": whole,
            }
        )
    )


def measure(environment: Mapping[str, str], seconds: float, throttled: bool) -> dict[str, Any]:
    """Run one process; returns what it found."""
    command = [sys.executable, "-m", "tests.bench.throttle", "--seconds", str(seconds)]
    done = subprocess.run(
        command + ["--throttled"] * throttled,
        cwd=ROOT,
        env={**environment, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
        timeout=180,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def figures(environment: Mapping[str, str], seconds: float, rounds: int) -> AsyncIterator[Figure]:
    """Yield the median time of a step; says on stderr how much was held back, and whether everything arrived."""

    async def one(throttled: bool) -> dict[str, Any]:
        return measure(environment, seconds, throttled)

    found = await interleave({"runlease": partial(one, True), "unthrottled": partial(one, False)}, rounds)
    throttled = found["runlease"]
    share = median(each["waiting_points"] / (each["steps"] * len(KEYS)) for each in throttled)
    lost = sum(not each["is_whole"] for series in found.values() for each in series)
    print(
        f"\n  {share:.0%} of the points still waited when the loop was over, throttled for "
        f"{median(each['throttled_s'] for each in throttled):.1f} s; then "
        + (f"{lost} HISTORIES WERE NOT WHOLE" if lost else "all arrived, once and in order, in every round"),
        file=sys.stderr,
    )
    values = {name: [each["step_ms"] for each in series] for name, series in found.items()}
    yield Figure("step of 5 scalars under a limit of a fifth of them", "ms", values, [WANTED], 3, 3)


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
