"""The demo's story, act by act; `runlease.demo.main` sets the stage and clears it."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import runlease
from runlease.demo import attempts, histories, screen
from runlease.demo.histories import Check, points
from runlease.demo.processes import Child, Children, DemoFailed, poll
from runlease.demo.training import HELD_OUT_EVERY

if TYPE_CHECKING:
    from runlease.client import Client

PROJECT = "demo"
#: The run whose trainer is killed, and the one that nothing happens to.
KILLED, WHOLE = "alice", "alice-uninterrupted"
#: Seconds that a dead trainer's lease lives on: the shortest lifetime that a lease may have.
TTL_S = 5
#: Checkpoints in a training.
CHECKPOINTS = 10
#: Of those, how many the trainer commits before it is killed.
CHECKPOINTS_SEEN = 3
#: Seconds between two checkpoints of the trainer that is killed: time enough for its metrics, which go out twice a
#: second, to get beyond the first of them, however fast the machine is.
INTERVAL_S = 1.5
#: Seconds that any one thing may take, on a slow machine too, before the demo gives up.
PATIENCE_S = 60.0
#: Seconds that a whole training may take, beside another one.
TRAINING_S = 600.0
#: Exit status of a trainer that was refused, as `runlease.demo.trainer.REFUSED`.
REFUSED = 75


class Story:
    """The acts; each prints what it does and raises DemoFailed where a promise does not hold."""

    def __init__(
        self, children: Children, directory: Path, *, steps: int, seed: int, echo: Callable[[str], None]
    ) -> None:
        """Prepare to play in `directory` with processes of `children`."""
        self._children = children
        self._directory = directory
        self._steps = steps
        self._seed = seed
        self._echo = echo
        self._screen = threading.Lock()
        self._acts = 0
        self._address = ""
        self._died_s = 0.0

    def play(self) -> bool:
        """Play all acts; return whether everything that was verified holds."""
        coordinator = self._start_coordinator()
        with runlease.Client(self._address) as client:
            first = self._start_trainer(client)
            self._refuse_rival(first)
            resume_at = self._kill(client, first)
            successor = self._resume(client)
            checks = self._verify(client, killed_pid=first.pid, successor_pid=successor.pid, resume_at=resume_at)
        coordinator.end()
        if status := coordinator.wait(PATIENCE_S):
            raise DemoFailed(f"the coordinator ended with status {status}{coordinator.tail()}")
        return all(check.holds for check in checks)

    def _start_coordinator(self) -> Child:
        self._act("A coordinator starts, with a store of its own.")
        store = self._directory / "store"
        coordinator = self._children.start(
            "coordinator", "-m", "runlease", "serve", "--listen", "127.0.0.1:0", "--data-dir", str(store)
        )
        line = coordinator.wait_for_line("serving on ", PATIENCE_S)
        address = re.search(r"serving on (\S+:\d+)", line)
        if address is None:
            raise DemoFailed(f"the coordinator said {line!r}, which names no address")
        self._address = address[1]
        self._say(f"It serves on {self._address}, as process {coordinator.pid}.")
        return coordinator

    def _start_trainer(self, client: Client) -> Child:
        self._act(f"A trainer takes the lease of the run {PROJECT}/{KILLED}.")
        self._say("It trains a small character model on the first chapters of Alice in Wonderland,")
        self._say(f"{self._steps} steps, with a checkpoint every {self._every} steps.")
        first = self._trainer("trainer", KILLED, pace_s=INTERVAL_S / self._every)
        self._until(first, lambda: _holder_pid(client) == first.pid, "hold the lease")
        return first

    def _refuse_rival(self, first: Child) -> None:
        self._act("The same command again, in a second process, while the first one trains.")
        rival = self._trainer("rival", KILLED, wait_s=0)
        status = rival.wait(PATIENCE_S)
        refusal = next((line for line in rival.lines if line.startswith("refused: ")), "")
        if status != REFUSED or str(first.pid) not in refusal:
            raise DemoFailed(
                f"the rival should have been refused with status {REFUSED} and told that process {first.pid} "
                f"holds the run, but it ended with status {status}{rival.tail()}"
            )
        self._say(f"Refused, and told who holds the run: process {first.pid} is the trainer of act 2.")

    def _kill(self, client: Client, first: Child) -> int:
        """Kill the trainer when it has logged beyond a checkpoint; return the step to resume at."""
        self._act("The trainer is killed with SIGKILL, between two checkpoints.")
        beyond, checkpoint = self._freeze_between_checkpoints(client, first)
        first.send(signal.SIGKILL)
        status = first.wait(PATIENCE_S)
        self._died_s = time.time()
        if status != -signal.SIGKILL:
            raise DemoFailed(f"the trainer should have died of SIGKILL, but its status is {status}{first.tail()}")
        self._say(f"Its last checkpoint is of step {checkpoint}, its last acknowledged step is {beyond}:")
        self._say(f"what it learned in the steps {checkpoint + 1}..{beyond} is lost, though they are logged.")
        return checkpoint + 1

    def _freeze_between_checkpoints(self, client: Client, first: Child) -> tuple[int, int]:
        """Stop the trainer beyond a checkpoint; return its last acknowledged step and the checkpoint."""
        margin = max(2, self._every // 10)
        for _ in poll(PATIENCE_S):
            if not first.running:
                raise DemoFailed(f"the trainer ended before it could be killed; try more steps{first.tail()}")
            last, checkpoint = _progress(client)
            if checkpoint < CHECKPOINTS_SEEN * self._every - 1 or last - checkpoint < margin:
                continue
            # SIGSTOP first, so that no checkpoint slips in between the look and the kill.
            first.send(signal.SIGSTOP)
            before = (-1, -1)
            for _ in poll(PATIENCE_S, every_s=0.1):
                last, checkpoint = _progress(client)
                if (last, checkpoint) == before:
                    break
                before = (last, checkpoint)
            if last - checkpoint >= margin:
                return last, checkpoint
            first.send(signal.SIGCONT)
        raise DemoFailed(f"within {PATIENCE_S:.0f} s the trainer was never between two checkpoints{first.tail()}")

    def _resume(self, client: Client) -> Child:
        self._act("The same command once more: a successor waits for the lease, and resumes.")
        self._say("Unless somebody can tell that its holder is dead, a lease lives on until it expires, and a while")
        self._say("longer, lest the holder is only slow. Meanwhile the same training runs uninterrupted, under")
        self._say("another ID.")
        successor = self._trainer("successor", KILLED, wait_s=PATIENCE_S)
        uninterrupted = self._trainer("uninterrupted", WHOLE)
        for trainer in (uninterrupted, successor):
            status = trainer.wait(TRAINING_S)
            if status != 0:
                raise DemoFailed(f"the {trainer.name} ended with status {status}{trainer.tail()}")
        waited_s = client.get_run(PROJECT, KILLED).attempts[-1].granted_s - self._died_s
        self._say(f"The successor had the lease {max(0.0, waited_s):.1f} s after the trainer's death.")
        return successor

    def _verify(self, client: Client, *, killed_pid: int, successor_pid: int, resume_at: int) -> list[Check]:
        self._act("Both histories, side by side.")
        killed, whole = client.get_run(PROJECT, KILLED), client.get_run(PROJECT, WHOLE)
        shown, everything = (
            {run: points(client.history(PROJECT, run, superseded=hidden).rows()) for run in (KILLED, WHOLE)}
            for hidden in (False, True)
        )
        self._block(
            screen.plot(
                "loss",
                uninterrupted=shown[WHOLE],
                resumed=shown[KILLED],
                superseded=histories.superseded_points(everything[KILLED], shown[KILLED]),
                steps=self._steps,
            ).splitlines()
        )
        self._block(attempts.table([killed, whole], everything))

        expected = self._expected_steps()
        checks = [
            attempts.resumed_once(killed, pids=(killed_pid, successor_pid), starts=(0, resume_at)),
            attempts.complete([killed, whole], steps=self._steps),
            histories.every_step_once(KILLED, shown[KILLED], expected),
            histories.every_step_once(WHOLE, shown[WHOLE], expected),
            histories.same_points(shown[KILLED], shown[WHOLE]),
            histories.superseded_kept(everything[KILLED], shown[KILLED], attempt=1, start=resume_at),
            histories.nothing_superseded(WHOLE, everything[WHOLE], shown[WHOLE]),
        ]
        self._block([line for check in checks for line in check.lines()])
        return checks

    def _expected_steps(self) -> dict[str, range]:
        dense = dict.fromkeys(("loss", "learning_rate", "gradient_norm", "chapters"), range(self._steps))
        return dense | {"held_out/loss": range(HELD_OUT_EVERY - 1, self._steps, HELD_OUT_EVERY)}

    @property
    def _every(self) -> int:
        return self._steps // CHECKPOINTS

    def _trainer(self, name: str, run: str, *, wait_s: float = 0, pace_s: float = 0) -> Child:
        options = {
            "--project": PROJECT,
            "--id": run,
            "--steps": self._steps,
            "--seed": self._seed,
            "--checkpoint-every": self._every,
            "--checkpoints": self._directory / "checkpoints",
            "--ttl": TTL_S,
            "--wait": wait_s,
            "--pace": pace_s,
        }
        arguments = [str(part) for option in options.items() for part in option]
        return self._children.start(
            name,
            "-m",
            "runlease.demo.trainer",
            *arguments,
            on_line=lambda line: self._say(f"{name:>13} | {line}"),
            RUNLEASE_COORDINATOR=self._address,
        )

    def _until(self, child: Child, holds: Callable[[], bool], what: str) -> None:
        for _ in poll(PATIENCE_S):
            if holds():
                return
            if not child.running:
                break
        raise DemoFailed(f"the {child.name} should {what}, but does not{child.tail()}")

    def _act(self, title: str) -> None:
        self._acts += 1
        self._block([f"{self._acts}. {title}"], indent="")

    def _say(self, line: str) -> None:
        with self._screen:
            self._echo(f"   {line}")

    def _block(self, lines: Sequence[str], indent: str = "   ") -> None:
        """Print lines that belong together, after an empty one."""
        with self._screen:
            self._echo("")
            for line in lines:
                self._echo(indent + line)


def _holder_pid(client: Client) -> int | None:
    """Return the PID of the killed run's holder, None while the run is not there."""
    try:
        return int(client.get_run(PROJECT, KILLED).attempts[-1].holder.pid)
    except runlease.RunNotFound:
        return None


def _progress(client: Client) -> tuple[int, int]:
    """Return the last acknowledged step and the last committed checkpoint's step, -1 for none."""
    record = client.get_run(PROJECT, KILLED)
    return record.next_step - 1, record.checkpoint.step if record.checkpoint else -1
