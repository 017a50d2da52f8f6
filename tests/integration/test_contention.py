"""Many processes want one run at once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter

import pytest
import runlease

from tests.bench import crowd
from tests.support.coordinator import CoordinatorProcess

PROCESSES = 50
SCRIPT = """
import json, sys
import runlease
print("ready", flush=True)
sys.stdin.readline()  # all go at once
try:
    run = runlease.init(project=sys.argv[1], id="r", resume="allow")
except runlease.LeaseHeld as error:
    holder = error.holder
    print(json.dumps({"held": [holder.host, holder.pid, error.remaining_s, str(error)]}), flush=True)
else:
    print(json.dumps({"granted": run.fence}), flush=True)
    sys.stdin.readline()  # hold it until all have asked
    run.finish()
"""


def test_one_of_fifty_gets_the_lease(coordinator: CoordinatorProcess, project: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, project],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=coordinator.env | {"RUNLEASE_SILENT": "1"},
        )
        for _ in range(PROCESSES)
    ]
    try:
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = {p.pid: json.loads(p.stdout.readline()) for p in processes if p.stdout}
    finally:
        for process in processes:
            if process.stdin:
                process.stdin.close()  # the holder's readline ends
            process.wait(timeout=60)
            if process.stdout:
                process.stdout.close()

    kinds = Counter(next(iter(answer)) for answer in answers.values())
    assert kinds == {"granted": 1, "held": PROCESSES - 1}
    winner = next(pid for pid, answer in answers.items() if "granted" in answer)
    for answer in answers.values():
        if "held" in answer:
            host, pid, remaining_s, message = answer["held"]
            assert pid == winner
            assert host
            assert 0 < remaining_s <= 30
            assert f"{host}:{pid}" in message
            assert "s left" in message
    with runlease.Client(coordinator.address) as client:
        run = client.get_run(project, "r")
    assert (run.state, run.attempt, len(run.attempts)) == ("finished", 1, 1)


@pytest.mark.usefixtures("redis_binary")
def test_five_hundred_have_their_turns_in_order_though_a_coordinator_dies() -> None:
    """One holder at a time, each client once, first come, first served, under rising fences: `measure` fails else."""
    assert len(asyncio.run(crowd.measure(500)).order) == 500
