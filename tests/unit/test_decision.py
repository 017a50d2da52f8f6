"""The resume decision as pure Lua, without a server: every cell of the table, both sides of every boundary."""

from __future__ import annotations

from typing import Any

import pytest
from lupa import lua51
from runlease_coordinator.store.scripts import lua

NOW = 1_764_000_000_000_000
ENDS = ("finished", "failed", "crashed", "preempted", "killed")
MODES = ("never", "allow", "must", "auto")

Row = dict[str, Any] | None

#: Row -> the record, and what each of MODES answers.
TABLE: dict[str, tuple[Row, tuple[str, str, str, str]]] = {
    "absent": (None, ("CREATE", "CREATE", "NOT_FOUND", "CREATE")),
    "held": (
        {"end": "", "expiry": NOW + 5_000_000, "avail": NOW + 10_000_000},
        ("EXISTS", "HELD", "HELD", "HELD"),
    ),
    "held, one microsecond left": (
        {"end": "", "expiry": NOW + 1, "avail": NOW + 1},
        ("EXISTS", "HELD", "HELD", "HELD"),
    ),
    "expired this moment": (
        {"end": "", "expiry": NOW, "avail": NOW + 1},
        ("EXISTS", "LOCK_DELAY", "LOCK_DELAY", "LOCK_DELAY"),
    ),
    "expired and swept, in lock-delay": (
        {"end": "crashed", "expiry": NOW - 1, "avail": NOW + 4_000_000},
        ("EXISTS", "LOCK_DELAY", "LOCK_DELAY", "LOCK_DELAY"),
    ),
    "lock-delay over this moment": (
        {"end": "", "expiry": NOW - 5_000_000, "avail": NOW},
        ("EXISTS", "RESUME", "RESUME", "RESUME"),
    ),
    "expired without lock-delay": (
        {"end": "", "expiry": NOW, "avail": NOW},
        ("EXISTS", "RESUME", "RESUME", "RESUME"),
    ),
    "swept, lock-delay over": (
        {"end": "crashed", "expiry": NOW - 9_000_000, "avail": NOW - 4_000_000},
        ("EXISTS", "RESUME", "RESUME", "RESUME"),
    ),
}
for _end in ENDS:
    TABLE[f"released: {_end}"] = (
        {"end": _end, "expiry": 0, "avail": 0},
        ("EXISTS", "RESUME", "RESUME", "RESUME"),
    )
# Deleted stands above every other row.
for _name, (_row, _) in list(TABLE.items()):
    if _row is not None:
        TABLE[f"deleted, was {_name}"] = ({**_row, "deleted": str(NOW - 7)}, ("DELETED",) * 4)


class Decision:
    """The functions of `decision.lua`, on records that are Python mappings."""

    def __init__(self) -> None:
        self._lua = lua51.LuaRuntime()  # Redis and Valkey embed Lua 5.1
        loaded = self._lua.execute(
            lua("decision") + "\nreturn {decide=decide, starting_step=starting_step, proves_death=proves_death}"
        )
        self._decide, self.starting_step, self._proves = loaded.decide, loaded.starting_step, loaded.proves_death

    def decide(self, row: Row, mode: str, now: int, waiting: bool = False) -> str:
        verdict: str = self._decide(None if row is None else self._lua.table_from(row), mode, now, waiting)
        return verdict

    def proves_death(self, proof: dict[str, Any], fence: str, holder: list[Any], prover: list[Any]) -> bool:
        tables = map(self._lua.table_from, (proof, holder, prover))
        proof, holder, prover = tables
        good: bool = self._proves(proof, fence, holder, prover)
        return good


@pytest.fixture(scope="module")
def decision() -> Decision:
    return Decision()


CELLS = [
    pytest.param(row, mode, verdict, id=f"{name}-{mode}")
    for name, (row, verdicts) in TABLE.items()
    for mode, verdict in zip(MODES, verdicts, strict=True)
]


@pytest.mark.parametrize(("row", "mode", "verdict"), CELLS)
def test_every_cell_of_the_table(decision: Decision, row: Row, mode: str, verdict: str) -> None:
    assert decision.decide(row, mode, NOW) == verdict


@pytest.mark.parametrize(("row", "mode", "verdict"), CELLS)
def test_who_waits_comes_before_who_comes(decision: Decision, row: Row, mode: str, verdict: str) -> None:
    assert decision.decide(row, mode, NOW, waiting=True) == ("QUEUED" if verdict == "RESUME" else verdict)


HOLDER = ["host", 4711, "ada", "", "", "0.1", "boot", "pid:[1]", 99]
PROVER = ["other name", 1, "bob", "", "", "0.2", "boot", "pid:[1]", 7]
PROOF = {"fence": "12", "boot_id": "boot", "pid_namespace": "pid:[1]", "pid": 4711, "process_started": 99}


def test_a_proof_of_death_from_the_same_boot_and_namespace_is_believed(decision: Decision) -> None:
    assert decision.proves_death(PROOF, "12", HOLDER, PROVER)


@pytest.mark.parametrize(
    ("proof", "holder", "prover"),
    [
        ({"fence": "11"}, {}, {}),  # of the holder before
        ({"fence": 12}, {}, {}),
        ({"pid": 4712}, {}, {}),
        ({"process_started": 98}, {}, {}),  # the number was given to another process since
        ({"boot_id": "another"}, {}, {}),
        ({"pid_namespace": "pid:[2]"}, {}, {}),
        ({}, {6: "another"}, {}),
        ({}, {7: "pid:[2]"}, {}),
        ({}, {}, {6: "another"}),  # the prover sees only its own machine
        ({}, {}, {7: "pid:[2]"}),
        ({"boot_id": ""}, {6: ""}, {6: ""}),  # nobody knows where the holder was
        ({"pid_namespace": ""}, {7: ""}, {7: ""}),
    ],
)
def test_any_other_proof_is_not(
    decision: Decision, proof: dict[str, Any], holder: dict[int, Any], prover: dict[int, Any]
) -> None:
    changed_holder = [holder.get(index, value) for index, value in enumerate(HOLDER)]
    changed_prover = [prover.get(index, value) for index, value in enumerate(PROVER)]
    assert not decision.proves_death(PROOF | proof, "12", changed_holder, changed_prover)


@pytest.mark.parametrize("mode", MODES)
def test_false_for_a_missing_field_is_no_mark_of_deletion(decision: Decision, mode: str) -> None:
    # HMGET gives false for a field that is not there; the record of a run that lives has no `deleted`.
    row = {"deleted": False, "end": "finished", "expiry": 0, "avail": 0}
    assert decision.decide(row, mode, NOW) == ("EXISTS" if mode == "never" else "RESUME")


@pytest.mark.parametrize(
    ("resume_step", "checkpoint_step", "next_step", "start"),
    [
        (None, None, 0, 0),  # an empty run
        (None, None, 61, 61),  # rule 3: where the log ends
        (None, 50, 61, 51),  # rule 2: behind the checkpoint, not where the log ends
        (None, 0, 61, 1),  # a checkpoint at step 0 is one
        (None, 90, 61, 91),  # a checkpoint above everything logged
        (7, 50, 61, 7),  # rule 1: the caller's word, below
        (80, 50, 61, 80),  # ... and above both
        (0, 50, 61, 0),  # 0 is given, not missing
        (2**53 - 2, None, 0, 2**53 - 2),
        (None, 2**53 - 2, 0, 2**53 - 1),
    ],
)
def test_starting_step(
    decision: Decision, resume_step: int | None, checkpoint_step: int | None, next_step: int, start: int
) -> None:
    assert decision.starting_step(resume_step, checkpoint_step, next_step) == start
