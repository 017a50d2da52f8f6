"""Prints what the model finds: `python -m tests.model --help`."""

from __future__ import annotations

import argparse

from tests.model.bounds import Bounds
from tests.model.rules import NAMES, Rules
from tests.model.scenarios import BOUNDARIES, CASES, LARGER, SMALL
from tests.model.search import INVARIANTS, Result, search


def main() -> int:
    """Print the table, or one trace; return 1 where something is not as expected."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description="Search the lease protocol's states.")
    parser.add_argument(
        "--trace", metavar="RULE", choices=[*NAMES, *BOUNDARIES], help="print what happens without a rule"
    )
    parser.add_argument("--invariant", default="", help="with --trace: of this invariant, as I3")
    parser.add_argument("--bounds", choices=["small", "larger"], default="small", help="larger: many minutes")
    parser.add_argument("--scenario", help="only what happens in this one")
    arguments = parser.parse_args()
    if arguments.trace:
        return _print_trace(arguments.trace, arguments.invariant)
    return _print_table(LARGER if arguments.bounds == "larger" else SMALL, arguments.scenario)


def _print_trace(name: str, invariant: str) -> int:
    if name in BOUNDARIES:
        title, bounds, breaks = BOUNDARIES[name]
        print(f"{title}:")
        result = search(Rules(), bounds, only=invariant or breaks)
    else:
        case = next(case for case in CASES if case.rule == name)
        print(f"without {' and '.join(case.off)}, {SMALL[case.scenario].title}:")
        result = search(Rules().without(*case.off), SMALL[case.scenario], only=invariant or case.breaks)
    print(format_trace(result))
    return 0 if result.violated else 1


def format_trace(result: Result) -> str:
    """Return a trace step by step, each with its real time in ticks; the first is 10."""
    lines = [f"  {at}  {label or 'time passes'}" for at, label in result.trace]
    end = f"=> {result.violated}: {INVARIANTS[result.violated]}" if result.violated else "safe"
    return "\n".join([*lines, f"      {end}"])


def _print_table(scenarios: dict[str, Bounds], scenario: str | None) -> int:
    print(f"{'rule that is off':28s} {'scenario':20s} {'verdict':8s} {'states':>8s} {'seconds':>7s} {'steps':>5s}")
    wrong = 0
    for name, bounds in scenarios.items():
        if scenario in (None, name):
            wrong += _print_row("none", name, search(Rules(), bounds), "")
    for case in CASES:
        if scenario in (None, case.scenario):
            result = search(Rules().without(*case.off), SMALL[case.scenario], only=case.breaks)
            wrong += _print_row("\n  + ".join(case.off), case.scenario, result, case.breaks)
    for name, (_, bounds, breaks) in BOUNDARIES.items():
        if scenario in (None, name):
            wrong += _print_row("none; no promise", name, search(Rules(), bounds, only=breaks), breaks)
    return 1 if wrong else 0


def _print_row(rules: str, scenario: str, result: Result, expected: str) -> bool:
    verdict = result.violated or "safe"
    steps = len(result.trace) or ""
    first, *others = rules.split("\n")
    print(f"{first:28s} {scenario:20s} {verdict:8s} {result.states:8d} {result.seconds:7.1f} {steps!s:>5s}", flush=True)
    for other in others:
        print(other)
    return result.violated != expected


if __name__ == "__main__":
    raise SystemExit(main())
