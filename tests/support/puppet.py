"""A process that does with runlease what a test says, line by line: real SDK, real process, real signals.

Commands are JSON lines on stdin, answers JSON lines on stdout: {"ok": value} or {"error": class, ...attributes}.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.coordinator import PATHS

if TYPE_CHECKING:
    import runlease

ANSWER_TIMEOUT_S = 60.0


class Refused(Exception):
    """The call raised in the puppet; `kind` is the exception's class, `facts` its attributes."""

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__(f"{facts['error']}: {facts['message']}")
        self.kind: str = facts["error"]
        self.facts = facts


class Puppet:
    """One puppet process; `call` names a command of `Stage`."""

    def __init__(
        self,
        env: dict[str, str],
        cwd: Path | None = None,
        *,
        variant: str | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        module = ("tests.support.puppet",)
        if variant is not None:  # a known-bad one
            module = ("tests.faults.variants", variant, "python", "-m", *module)
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", *module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(PATHS)},
            cwd=cwd,
        )
        self._answers: queue.Queue[str] = queue.Queue()
        self._stderr: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_answers, daemon=True),
            threading.Thread(target=self._read_stderr, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        return "".join(self._stderr)

    def _read_answers(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _read_stderr(self) -> None:
        assert self.process.stderr
        self._stderr.extend(self.process.stderr)

    def send(self, command: str, **args: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"command": command, **args}) + "\n")
        self.process.stdin.flush()

    def answer(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        line = self._answers.get(timeout=timeout_s)
        assert line, f"the puppet died:\n{self.stderr}"
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(answer)
        return answer["ok"]

    def call(self, command: str, **args: Any) -> Any:
        self.send(command, **args)
        return self.answer()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def exit(self) -> int:
        """Let it come to its end; returns the exit status."""
        assert self.process.stdin
        self.process.stdin.close()
        status = self.process.wait(timeout=ANSWER_TIMEOUT_S)
        for reader in self._readers:
            reader.join(timeout=5)
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for reader in self._readers:
            reader.join(timeout=5)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream and not stream.closed:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def see_trained(client: runlease.Client, granted: dict[str, Any], stop: int) -> None:
    """See that run p/r has each step below `stop` that `train` logged, once and in order, under its only grant."""
    rows = client.history("p", "r", keys=["loss"]).rows()
    assert [(row.step, row.value) for row in rows] == [(step, float(step)) for step in range(stop)]
    run = client.get_run("p", "r")
    assert (run.fence, run.attempt) == (granted["fence"], 1)


class Stage:
    """The commands, in the puppet's process."""

    def __init__(self) -> None:
        self.run: Any = None

    def init(self, **args: Any) -> dict[str, Any]:
        import runlease

        self.run = runlease.init(**args)
        return self.facts()

    def facts(self) -> dict[str, Any]:
        run = self.run
        return {
            "id": run.id,
            "name": run.name,
            "step": run.step,
            "starting_step": run.starting_step,
            "attempt": run.attempt,
            "fence": run.fence,
            "resumed": run.resumed,
            "previous_state": run.previous_state,
            "checkpoint": run.checkpoint.step if run.checkpoint else None,
            "config": dict(run.config),
            "member": run.member,
        }

    def train(self, start: int, stop: int) -> int:
        """Log the steps start..stop-1, each with the value of its step."""
        for step in range(start, stop):
            self.run.log({"loss": float(step), "acc": -float(step)}, step=step)
        return self.run.step

    def train_forever(self, start: int, period_s: float) -> None:
        """Log until the process is killed or told to stop; tells nothing."""
        import time

        self.halt = threading.Event()

        def loop() -> None:
            step = start
            while not self.halt.is_set():
                self.run.log({"loss": float(step)}, step=step)
                step += 1
                time.sleep(period_s)

        self.loop = threading.Thread(target=loop, daemon=True)
        self.loop.start()

    def halt_training(self) -> int:
        self.halt.set()
        self.loop.join()
        return self.run.step

    def commit(self, step: int, wait: bool = True) -> None:
        self.run.commit_checkpoint(step, uri=f"/ckpt/{step}", metadata={"step": step}, wait=wait)

    def rewind(self, step: int) -> None:
        self.run.rewind(step)

    def log(self, metrics: dict[str, Any], step: int | None = None) -> int:
        self.run.log(metrics, step=step)
        return self.run.step

    def flush(self, timeout: float = 30.0) -> bool:
        return self.run.flush(timeout)

    def check(self) -> None:
        self.run.lease.check()

    def state(self) -> dict[str, Any]:
        return {"state": self.run.lease.state.value, "remaining_s": self.run.lease.remaining_s, "step": self.run.step}

    def wait_lost(self, timeout: float) -> bool:
        return self.run.lease.lost.wait(timeout)

    def stats(self) -> dict[str, Any]:
        import dataclasses

        return dataclasses.asdict(self.run.stats())

    def finish(self, outcome: str = "finished", timeout: float = 30.0) -> bool:
        return self.run.finish(outcome, timeout)


def _facts_of(error: Exception) -> dict[str, Any]:
    facts = {"error": type(error).__name__, "message": str(error)}
    for name, value in vars(error).items():
        facts[name] = {"host": value.host, "pid": value.pid} if name == "holder" and value is not None else value
    return facts


def main() -> None:
    stage = Stage()
    for line in sys.stdin:
        request = json.loads(line)
        command = getattr(stage, request.pop("command"))
        try:
            answer = {"ok": command(**request)}
        except Exception as error:  # whatever it is, the test wants to see it
            answer = _facts_of(error)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    main()
