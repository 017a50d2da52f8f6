"""What `run.log` costs a trainer, and how fast one process gets rows acknowledged. Run as a program, prints JSON.

Beside it: `json.dumps` of the same row and time into a buffered file, the least that a logger of one's own does.
"""

from __future__ import annotations

import json
import secrets
import tempfile
import time
from collections.abc import Callable

import runlease

from tests.bench.rounds import percentile

#: Rows whose calls are timed one by one; at the pace of a fast training, not flat out.
TIMED_ROWS, ROWS_A_SECOND = 2000, 1000
#: Rows logged flat out until flush returns.
BURST_ROWS = 50_000


def _row(number: int) -> dict[str, float]:
    x = number * 1e-3
    return {"train/loss": 3.0 - x, "train/acc": x, "lr": 3e-4, "grad_norm": 1.0 + x, "throughput": 1234.5}


def _timed(log: Callable[[dict[str, float]], None]) -> tuple[float, float]:
    """Return p50 and p99 of a call in microseconds."""
    took: list[float] = []
    began = time.perf_counter()
    for number in range(TIMED_ROWS):
        row = _row(number)
        time.sleep(max(0.0, began + number / ROWS_A_SECOND - time.perf_counter()))
        start = time.perf_counter_ns()
        log(row)
        took.append((time.perf_counter_ns() - start) / 1e3)
    return percentile(took, 0.5), percentile(took, 0.99)


def main() -> None:
    rows = [_row(number) for number in range(BURST_ROWS)]
    with runlease.Client() as client:
        client.set_limits("bench", run_points=0, run_bytes=0, project_points=0, project_bytes=0)
    with runlease.init(project="bench", id=f"log-{secrets.token_hex(5)}", resume="allow") as run:
        run.log(rows[0])
        assert run.flush(30)
        p50, p99 = _timed(run.log)
        assert run.flush(30)
        began = time.perf_counter()
        for row in rows:
            run.log(row)
        called = time.perf_counter()
        assert run.flush(60)
        flushed = time.perf_counter()
        stats = run.stats()
        assert not stats.dropped
        assert not stats.lost
    with tempfile.TemporaryFile("w") as file:
        plain50, plain99 = _timed(lambda row: _write(file.write, row))
    print(
        json.dumps(
            {
                "log_p50_us": p50,
                "log_p99_us": p99,
                "json_p50_us": plain50,
                "json_p99_us": plain99,
                "rows_a_second": BURST_ROWS / (flushed - began),
                "burst_call_us": (called - began) / BURST_ROWS * 1e6,
            }
        )
    )


def _write(write: Callable[[str], int], row: dict[str, float]) -> None:
    write(json.dumps({"time": time.time(), **row}) + "\n")


if __name__ == "__main__":
    main()
