"""Malformed streams of points over a real socket: refused by name, and nothing is stored."""

from __future__ import annotations

import math
from typing import Any

import pytest
from runlease.v1 import metrics_pb2

from tests.support.rawcalls import MIB, Stubs, entry, opening, points, ref, refused

OPENINGS: list[tuple[str, dict[str, Any]]] = [
    ("open.run.project", {"run": None}),
    ("open.run.id", {"run": ref("p", "x" * MIB)}),
    ("open.writer", {"writer": ""}),
    ("open.writer", {"writer": "a b"}),
    ("open.writer", {"writer": "x" * 65}),
    ("open.session", {"session": ""}),
    ("open.session", {"session": "x" * MIB}),
    ("open.session", {"session": "a b"}),
    ("open.rank_ticket", {"rank_ticket": "t"}),
    ("open.attempt", {"attempt": 1}),
    ("open.durability", {"durability": "DURABILITY_REPLICATED"}),
]


@pytest.mark.parametrize(("field", "given"), OPENINGS, ids=lambda value: str(value)[:40].replace("\n", " "))
def test_openings(stubs: Stubs, project: str, fence: int, field: str, given: dict[str, Any]) -> None:
    before = stubs.log(project)
    sent = iter([opening(project, fence, **given), entry(1, points=points())])
    assert refused(stubs.metrics.Append, sent) == field
    assert stubs.log(project) == before


def test_a_stream_is_opened_once_and_first(stubs: Stubs, project: str, fence: int) -> None:
    before = stubs.log(project)
    assert refused(stubs.metrics.Append, iter([entry(1, points=points())])) == "open"
    assert refused(stubs.metrics.Append, iter([metrics_pb2.AppendRequest()])) == "open"
    assert stubs.append() == []  # nothing sent is nothing refused
    twice = [opening(project, fence), opening(project, fence), entry(1, points=points())]
    assert refused(stubs.metrics.Append, iter(twice)) == "entry"
    assert refused(stubs.metrics.Append, iter([opening(project, fence), metrics_pb2.AppendRequest()])) == "entry"
    assert stubs.log(project) == before


#: Row, and what its time is among good ones.
BAD_TIMES = [(0, math.nan), (2, math.nan), (1, math.inf), (2, -math.inf), (0, -1e-9), (1, -1.0), (0, 253402300800.0)]
BAD_TIMES += [(2, 1e300), (1, 1.7e308)]


def wrong_at(row: int, time_s: float) -> list[float]:
    times = [0.0, 1.7e9, 253402300799.9]
    times[row] = time_s
    return times


BAD: list[tuple[str, dict[str, Any]]] = [
    ("entry.payload", {}),
    ("entry.points.steps", {"points": metrics_pb2.Points()}),
    ("entry.points.steps", {"points": points([0, -1])}),
    ("entry.points.steps", {"points": points([2**63 - 1])}),
    ("entry.points.times", {"points": points([0, 1], [0.0])}),
    *((f"entry.points.times[{row}]", {"points": points(range(3), wrong_at(row, time))}) for row, time in BAD_TIMES),
    ("entry.points.series", {"points": metrics_pb2.Points(steps=[0], times=[0.0])}),
    ("entry.points.series[0].values", {"points": points(values=[1.0])}),
    ("entry.points.series[0].values", {"points": points(values=[1.0] * 3)}),
    ("entry.points.series[0].rows", {"points": points(rows=[1, 0])}),
    ("entry.points.series[0].rows", {"points": points(rows=[0, 2])}),
    ("entry.points.series[0].values", {"points": points(rows=[0])}),
    ("entry.points.series[0].key", {"points": points(key="")}),
    ("entry.points.series[0].key", {"points": points(key="x" * 300)}),
    ("entry.points.series[0].key", {"points": points(key="x" * MIB)}),
    ("entry.commit.step", {"commit": metrics_pb2.Commit(step=-1, uri="u")}),
    ("entry.commit.step", {"commit": metrics_pb2.Commit(step=2**53 - 1, uri="u")}),
    ("entry.commit.uri", {"commit": metrics_pb2.Commit(step=1, uri="x" * MIB)}),
    ("entry.commit.metadata['a']", {"commit": metrics_pb2.Commit(step=1, uri="u", metadata={"a": "{"})}),
    ("entry.rewind.step", {"rewind": metrics_pb2.Rewind(step=-1)}),
    ("entry.rewind.step", {"rewind": metrics_pb2.Rewind(step=2**62)}),
    ("entry.lost.entries", {"lost": metrics_pb2.Lost()}),
    ("entry.lost.entries", {"lost": metrics_pb2.Lost(entries=2**64 - 1)}),
    ("entry.lost.points", {"lost": metrics_pb2.Lost(entries=1, points=2**53)}),
    ("entry.end", {"end": metrics_pb2.End(outcome=2)}),
]
MANY = [metrics_pb2.Series(key=f"k{number}", values=[1.0]) for number in range(100_000)]
BAD.append(("entry.points.series", {"points": metrics_pb2.Points(steps=[0], times=[0.0], series=MANY)}))
#: One row, or one point, more than a batch may have.
BAD.append(("entry.points.steps", {"points": points(range(100_001))}))
WIDE = [metrics_pb2.Series(key=f"k{number}", values=[1.0] * 50_001) for number in range(2)]
BAD.append(
    ("entry.points.series", {"points": metrics_pb2.Points(steps=range(50_001), times=[0.0] * 50_001, series=WIDE)})
)


@pytest.mark.parametrize(("field", "given"), BAD, ids=lambda value: str(value)[:40].replace("\n", " "))
def test_a_bad_entry_uses_up_its_seq_and_the_stream_goes_on(
    stubs: Stubs, project: str, fence: int, field: str, given: dict[str, Any]
) -> None:
    before = stubs.log(project)
    opened, rejected = stubs.append(opening(project, fence), entry(1, **given))
    assert opened.opened.seq == 0
    assert (rejected.rejected.seq, rejected.rejected.expected_seq) == (1, 2)
    assert rejected.rejected.field == field
    assert 0 < len(rejected.rejected.description) < 400
    assert stubs.log(project) == before
    answers = stubs.append(opening(project, fence), entry(2, points=points()))
    assert (answers[0].opened.seq, answers[0].opened.written, answers[1].ack.seq) == (1, False, 2)


@pytest.mark.parametrize("seq", [0, 2, 7, 2**53, 2**63, 2**64 - 1])
@pytest.mark.parametrize("payload", [{"points": points()}, {}], ids=["good", "bad"])
def test_a_seq_that_is_not_the_next_uses_up_nothing(
    stubs: Stubs, project: str, fence: int, seq: int, payload: dict[str, Any]
) -> None:
    before = stubs.log(project)
    _, rejected = stubs.append(opening(project, fence), entry(seq, **payload))
    assert (rejected.rejected.field, rejected.rejected.expected_seq) == ("entry.seq", 1)
    assert stubs.log(project) == before
    assert stubs.append(opening(project, fence), entry(1, points=points()))[1].ack.seq == 1


@pytest.mark.parametrize("segment", [1, 2**32 - 1])
def test_a_segment_that_is_not_the_writers_ends_the_stream(
    stubs: Stubs, project: str, fence: int, segment: int
) -> None:
    before = stubs.log(project)
    sent = iter([opening(project, fence), entry(1, segment=segment, points=points())])
    assert refused(stubs.metrics.Append, sent) == "entry.segment"
    assert stubs.log(project) == before


def test_every_float_is_fine(stubs: Stubs, project: str, fence: int) -> None:
    values = [math.nan, math.inf, -math.inf, -0.0, 5e-324]
    answers = stubs.append(opening(project, fence), entry(1, points=points(range(5), values=values)))
    assert answers[1].ack.seq == 1
    ((key, steps, stored),) = stubs.log(project)[-1]
    assert (key, steps, [value.hex() for value in stored]) == ("loss", [0, 1, 2, 3, 4], [v.hex() for v in values])
