"""Memory over time: four processes log steadily to one coordinator while another reads now and then.

`python -m tests.bench.soak --seconds 600` samples the resident memory of the coordinator, its store and the writers
every 5 s, prints what it saw with the slope after the warm-up, and draws `soak.svg` beside this file. At the end every
history is compared with what was logged.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import runlease

from tests.bench import plot, processes, report
from tests.bench.rounds import Figure
from tests.support.coordinator import CoordinatorProcess

WRITERS = 4
#: Each writer's rows of 5 scalars a second, in ticks: steady, and light for the processor.
ROWS_A_SECOND, TICKS_A_SECOND = 2000, 20
_PROJECT = "soak"
_SAMPLE_S, _READ_S = 5.0, 20.0
#: Steps that are read, the latest ones: as much at the end as at the beginning, so that what grows is no read's work.
_LAST_STEPS = 100_000
#: The part that a slope leaves out: caches fill, and each run comes to be archived for the first time.
_WARM_UP = 0.4
_PLOT = Path(__file__).with_name("soak.svg")

Samples = dict[str, list[tuple[float, float]]]


def write(name: str, seconds: float) -> None:
    """Log rows for so long, finish, print the counts: the program of a writer."""
    with runlease.init(project=_PROJECT, id=name, resume="allow") as run:
        began = time.monotonic()
        for tick in range(int(seconds * TICKS_A_SECOND)):
            for row in range(ROWS_A_SECOND // TICKS_A_SECOND):
                x = (tick + row * 0.01) * 1e-3
                run.log({"train/loss": 1 / (1 + x), "train/acc": x, "lr": 3e-4, "grad_norm": 1 + x, "speed": 1e3 - x})
            time.sleep(max(0.0, began + (tick + 1) / TICKS_A_SECOND - time.monotonic()))
        assert run.flush(60)
        stats = run.stats()
    print(json.dumps({"logged": stats.logged, "lost": stats.logged - stats.acknowledged}))


@contextmanager
def _writers(environment: dict[str, str], seconds: float) -> Iterator[list[subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "tests.bench.soak", "--seconds", str(seconds), "--write"]
    start = partial(subprocess.Popen, cwd=processes.ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    started: list[subprocess.Popen[str]] = [start([*command, f"w{number}"]) for number in range(WRITERS)]
    try:
        yield started
    finally:
        for each in started:
            processes.end(each)


def _sample(
    coordinator: CoordinatorProcess, environment: dict[str, str], seconds: float, whole: bool
) -> tuple[Samples, list[Any]]:
    """Return (seconds, MiB) of each process, and what the writers counted."""
    assert coordinator.process is not None
    samples: Samples = {}
    with runlease.Client(coordinator.address) as client, _writers(environment, seconds) as writers:
        pids = {"coordinator": coordinator.process.pid, "store": coordinator.store_pid}
        pids |= {f"writer {number}": each.pid for number, each in enumerate(writers, 1)}
        began = time.monotonic()
        read_at, number = _READ_S, 0
        while all(each.poll() is None for each in writers):
            now = time.monotonic() - began
            for name, pid in pids.items():
                if mib := processes.resident_mib(pid):  # 0: it has just ended
                    samples.setdefault(name, []).append((now, mib))
            if now >= read_at:
                first = 0 if whole else max(0, int(now * ROWS_A_SECOND) - _LAST_STEPS)
                client.history(_PROJECT, f"w{number % WRITERS}", keys=["train/loss"], min_step=first, max_points=2000)
                read_at, number = read_at + _READ_S, number + 1
            time.sleep(max(0.0, began + (len(samples["store"]) * _SAMPLE_S) - time.monotonic()))
        counts = [json.loads(each.communicate(timeout=90)[0]) for each in writers]
        for number, count in enumerate(counts):
            (found,) = client.history(_PROJECT, f"w{number}", keys=["train/loss"]).series
            count["is_whole"] = [*found.steps] == [*range(count["logged"] // 5)]
    return samples, counts


def slope(samples: list[tuple[float, float]]) -> float:
    """Return KiB a minute: the least squares' line through what comes after the warm-up."""
    after = samples[int(len(samples) * _WARM_UP) :]
    mean_s, mean_mib = (sum(column) / len(after) for column in zip(*after, strict=True))
    spread = sum((at - mean_s) ** 2 for at, _ in after)
    return sum((at - mean_s) * (mib - mean_mib) for at, mib in after) / (spread or 1.0) * 60 * 1024


def run(seconds: float, whole: bool = False) -> tuple[Samples, list[Any]]:
    """Soak a coordinator of its own; the reader asks for the last steps, or for whole histories."""
    with processes.coordinator() as coordinator:
        environment = coordinator.env | {"RUNLEASE_SILENT": "1"}
        with runlease.Client(coordinator.address) as client:
            client.acquire(_PROJECT, "limits", nonce="limits", resume="allow")
            client.set_limits(_PROJECT, run_points=0, run_bytes=0, project_points=0, project_bytes=0)
        return _sample(coordinator, environment, seconds, whole)


async def figures(seconds: float) -> AsyncIterator[Figure]:
    """Yield the short variant: memory at the end, of it all and what it grew by after the warm-up."""
    samples, counts = run(seconds)
    print(f"\n  {_said(counts)}", file=sys.stderr)
    for name in ("coordinator", "store", "writer 1"):
        after = [mib for _, mib in samples[name][int(len(samples[name]) * _WARM_UP) :]]
        what = f"memory of the {name}, {WRITERS} writers, after {seconds:.0f} s"
        yield Figure(what, "MiB", {"runlease": after[-1:]}, digits=1)


def _said(counts: list[Any]) -> str:
    points, lost = sum(each["logged"] for each in counts), sum(each["lost"] for each in counts)
    broken = sum(not each["is_whole"] for each in counts)
    return f"{points:,} points, {lost} not acknowledged, {broken} of {len(counts)} histories not whole"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--whole", action="store_true", help="read whole histories: work that grows with them")
    parser.add_argument("--plot", type=Path, default=_PLOT, metavar="FILE")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(options.write, options.seconds)
        return
    print(report.machine(), processes.conditions(), sep="\n")
    samples, counts = run(options.seconds, options.whole)
    print(processes.conditions(), _said(counts), sep="\n", end="\n\n")
    print("| process | MiB after the warm-up | at the end | highest | slope, KiB/min |\n|---|---|---|---|---|")
    for name, series in samples.items():
        mib = [value for _, value in series]
        first = mib[int(len(mib) * _WARM_UP)]
        print(f"| {name} | {first:.1f} | {mib[-1]:.1f} | {max(mib):.1f} | {slope(series):+.0f} |")
    options.plot.write_text(plot.lines(samples, "seconds", "MiB"))


if __name__ == "__main__":
    main()
