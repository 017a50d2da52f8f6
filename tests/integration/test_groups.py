"""The processes of one job start share a run: one holds, the others are along."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import runlease

from tests.support.coordinator import CoordinatorProcess
from tests.support.lacking import lacking
from tests.support.puppet import Puppet, Refused
from tests.support.wait import until

StartPuppet = Callable[..., Puppet]

TORCHRUN = {"TORCHELASTIC_RUN_ID": "job-7", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400", "WORLD_SIZE": "4"}


def rank(number: int, restart: int = 0) -> dict[str, str]:
    return TORCHRUN | {"RANK": str(number), "LOCAL_RANK": str(number), "TORCHELASTIC_RESTART_COUNT": str(restart)}


def srun(number: int, restart: int = 0) -> dict[str, str]:
    return {
        "SLURM_CLUSTER_NAME": "c",
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "4",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_PROCID": str(number),
        "SLURM_RESTART_COUNT": str(restart),
    }


@pytest.mark.parametrize("launcher", [rank, srun])
@pytest.mark.parametrize(
    "where", [{"id": "r", "resume": "allow"}, {}, {"resume": "auto"}], ids=["by-id", "no-id", "auto"]
)
def test_the_same_line_on_every_rank(
    coordinator: CoordinatorProcess,
    project: str,
    start_puppet: StartPuppet,
    launcher: Callable[..., dict[str, str]],
    where: dict[str, str],
    tmp_path: Path,
) -> None:
    """Rank 0 holds though it comes last; the others wait for it, and see the same run, step and attempt."""
    ranks = [start_puppet(coordinator, cwd=tmp_path, **launcher(number)) for number in range(4)]
    for member in ranks[1:]:
        member.send("init", project=project, **where)
    holder = ranks[0].call("init", project=project, **where)
    members = [member.answer() for member in ranks[1:]]
    for facts in members:
        for name in ("id", "name", "step", "attempt", "fence", "resumed"):
            assert facts[name] == holder[name]
    assert (holder["member"], [facts["member"] for facts in members]) == (False, [True] * 3)
    with runlease.Client(coordinator.address) as client:
        run = client.get_run(project, holder["id"])
        assert (run.holder.pid, run.attempt, len(run.attempts)) == (ranks[0].pid, 1, 1)
    for member in ranks[1:]:
        member.call("log", metrics={"loss": 1.0})  # goes nowhere, and says so
    ranks[0].call("train", start=0, stop=10)
    assert ranks[0].call("finish")
    for member in ranks[1:]:
        until(lambda m=member: m.call("state")["state"] == "released")
        assert member.call("finish")
        assert member.stderr.count("give writer=") == 1
        assert "starting new run" not in member.stderr
    with runlease.Client(coordinator.address) as client:
        assert len(client.history(project, holder["id"], superseded=True)) == 20
        assert client.get_run(project, holder["id"]).state == "finished"


def test_members_keep_logs_of_their_own(
    coordinator: CoordinatorProcess, project: str, start_puppet: StartPuppet
) -> None:
    holder, member = start_puppet(coordinator, **rank(0)), start_puppet(coordinator, **rank(3))
    holder.call("init", project=project, id="r")
    member.call("init", project=project, id="r", writer="rank3")
    holder.call("train", start=0, stop=5)
    member.call("log", metrics={"loss": 300.0}, step=2)
    assert member.call("flush")
    assert holder.call("flush")
    with runlease.Client(coordinator.address) as client:
        assert [row.writer for row in client.history(project, "r", keys=["loss"]).rows()] == ["main"] * 5
        own = client.history(project, "r", writers=["rank3"])
        assert [(row.step, row.value) for row in own.rows()] == [(2, 300.0)]
        assert client.get_run(project, "r").next_step == 5


def test_members_see_the_loss_of_their_holder(
    coordinator: CoordinatorProcess, project: str, start_puppet: StartPuppet
) -> None:
    holder, member = start_puppet(coordinator, **rank(0)), start_puppet(coordinator, **rank(1))
    first = holder.call("init", project=project, id="r", ttl=5)
    member.call("init", project=project, id="r", writer="rank1")
    holder.stop()
    until(lambda: member.call("state")["state"] == "suspended")
    holder.resume()
    until(lambda: member.call("state")["state"] == "held")  # reinstated
    holder.stop()
    successor = start_puppet(coordinator)
    second = successor.call("init", project=project, id="r", resume="must", wait=30)
    assert second["fence"] > first["fence"]
    assert member.call("wait_lost", timeout=20)
    with pytest.raises(Refused) as caught:
        member.call("check")
    assert (caught.value.kind, caught.value.facts["cause"]) == ("LeaseLost", "superseded")
    with pytest.raises(Refused):
        member.call("log", metrics={"loss": 1.0}, step=99)


def test_a_restart_is_another_group(coordinator: CoordinatorProcess, project: str, start_puppet: StartPuppet) -> None:
    old = start_puppet(coordinator, **rank(0))
    old.call("init", project=project, id="r", resume="allow")
    old.call("train", start=0, stop=10)
    old.call("commit", step=4)
    member = start_puppet(coordinator, **rank(1, restart=1))
    member.send("init", project=project, id="r", resume="allow")
    new = start_puppet(coordinator, **rank(0, restart=1))
    new.send("init", project=project, id="r", resume="allow")
    old.kill()
    holder, along = new.answer(), member.answer()
    assert (holder["attempt"], holder["step"], holder["previous_state"]) == (2, 5, "crashed")
    assert (along["attempt"], along["step"], along["fence"]) == (2, 5, holder["fence"])


def test_holder_says_who_holds(coordinator: CoordinatorProcess, project: str, start_puppet: StartPuppet) -> None:
    first, second = start_puppet(coordinator), start_puppet(coordinator)
    first.send("init", project=project, id="r", resume="allow", group="g", holder=False)
    assert second.call("init", project=project, id="r", resume="allow", group="g", holder=True)["member"] is False
    assert first.answer()["member"] is True


def test_a_member_without_a_holder_is_told(
    coordinator: CoordinatorProcess, project: str, start_puppet: StartPuppet
) -> None:
    member = start_puppet(coordinator, **rank(2))
    with pytest.raises(Refused) as caught:
        member.call("init", project=project, id="r", wait=1)
    assert caught.value.kind == "LeaseHeld"
    assert "RANK 0" in caught.value.facts["message"]
    with runlease.Client(coordinator.address) as client:
        assert list(client.list_runs(project)) == []


TRAINER = """
import os, sys
import torch.distributed as dist
import runlease
dist.init_process_group("gloo")
rank = dist.get_rank()
with runlease.init(project=sys.argv[1], id="r", resume="allow", writer=f"rank{rank}", ttl=5) as run:
    steps = [None] * dist.get_world_size()
    dist.all_gather_object(steps, (run.step, run.fence, run.attempt))
    assert len(set(steps)) == 1, steps
    for step in range(run.step, run.step + 10):
        run.log({"loss": rank * 1000.0 + step}, step=step)
    assert run.flush(30)
    dist.barrier()
    if rank == 0:
        run.commit_checkpoint(run.step - 1, uri="x", wait=True)
    dist.barrier()
dist.destroy_process_group()
"""


def test_torchrun(coordinator: CoordinatorProcess, project: str, tmp_path: Path) -> None:
    if find_spec("torch") is None:
        lacking("torch")
    script = tmp_path / "train.py"
    script.write_text(TRAINER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    for attempt in (1, 2):
        done = subprocess.run(
            [*command, str(script), project],
            env=coordinator.env | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        with runlease.Client(coordinator.address) as client:
            run = client.get_run(project, "r")
            assert (run.attempt, run.state, run.next_step) == (attempt, "finished", attempt * 10)
            for number in range(4):
                name = f"rank{number}" if number else "main"
                rows = list(client.history(project, "r", writers=[name]).rows())
                assert [row.step for row in rows] == list(range(attempt * 10))
                assert rows[0].value == number * 1000.0
        assert done.stderr.count("runlease: ") == 1  # the entry line, once a group


def test_a_start_that_looks_like_the_one_before_does_not_join_it(
    coordinator: CoordinatorProcess, project: str, start_puppet: StartPuppet
) -> None:
    """Rank 0 shall hold, so a holder of its group is of an earlier start: it is proved dead, or waited out."""
    old = start_puppet(coordinator, **rank(0))
    first = old.call("init", project=project, id="r", resume="allow", ttl=60)
    old.kill()
    new = start_puppet(coordinator, **rank(0))
    second = new.call("init", project=project, id="r", resume="allow")
    assert (second["member"], second["attempt"]) == (False, 2)
    assert second["fence"] > first["fence"]


def test_a_group_without_ranks_shares_the_run_of_the_first(
    coordinator: CoordinatorProcess, project: str, start_puppet: StartPuppet
) -> None:
    for _ in range(2):  # the same name again is another start, and another run
        processes = [start_puppet(coordinator) for _ in range(3)]
        facts = [process.call("init", project=project, group="g") for process in processes]
        assert [fact["member"] for fact in facts] == [False, True, True]
        assert len({fact["id"] for fact in facts}) == 1
        assert processes[0].call("finish", outcome="failed")
    with runlease.Client(coordinator.address) as client:
        assert len(list(client.list_runs(project))) == 2
