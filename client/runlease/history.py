"""Histories as the SDK reads them: columns by series, rows, a pandas frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from runlease.v1 import metrics_pb2 as pb

if TYPE_CHECKING:
    import pandas as pd


class Point(NamedTuple):
    """One value of one key; ``time`` is UNIX seconds by the writer's clock."""

    key: str
    step: int
    value: float
    time: float
    attempt: int
    writer: str


@dataclass(slots=True)
class Series:
    """Points of one (key, writer): equally long columns, ascending by step.

    ``superseded`` tells of each point whether default views hide it; empty unless such points were asked for.
    """

    key: str
    writer: str
    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    superseded: list[bool] = field(default_factory=list)


class History:
    """The points of one run, by key, then step."""

    def __init__(self, series: Iterable[Series]) -> None:
        """Take the series in any order."""
        self.series: list[Series] = sorted(series, key=lambda one: (one.key, one.writer))

    @property
    def keys(self) -> list[str]:
        """All keys, ascending."""
        return list(dict.fromkeys(one.key for one in self.series))

    def __len__(self) -> int:
        """Return the number of points."""
        return sum(len(one.steps) for one in self.series)

    def rows(self) -> Iterator[Point]:
        """Yield ``(key, step, value, time, attempt, writer)`` by key, then step."""
        for one in self.series:
            columns = zip(one.steps, one.values, one.times, one.attempts, strict=True)
            for step, value, time, attempt in columns:
                yield Point(one.key, step, value, time, attempt, one.writer)

    def to_pandas(self) -> pd.DataFrame:
        """Return a wide frame: one row a step, one column a key (``key@writer`` where several writers are there).

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas as pd

        several = len({one.writer for one in self.series}) > 1
        columns = {
            f"{one.key}@{one.writer}" if several else one.key: pd.Series(one.values, index=one.steps, dtype="float64")
            for one in self.series
        }
        return pd.DataFrame(columns).rename_axis("step").sort_index()


def history_of(responses: Iterable[pb.HistoryResponse]) -> History:
    """Read a stream of History."""
    found: dict[tuple[str, str], Series] = {}
    for part in responses:
        one = found.setdefault((part.key, part.writer), Series(part.key, part.writer))
        one.steps.extend(part.steps)
        one.values.extend(part.values)
        one.times.extend(part.times)
        one.attempts.extend(part.attempts)
        one.superseded.extend(part.superseded)
    return History(found.values())
