"""Pages of a history: tokens that lead from one to the next, all of the moment of the first."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from runlease_coordinator.domain.errors import InvalidField
from runlease_coordinator.domain.metrics import MAX_STEP, LogPosition
from runlease_coordinator.domain.runs import Segment
from runlease_coordinator.history.lineage import Stretch

_FIELD = "page_token"
_ALIEN = "it is none of this coordinator's: give next_page_token of the page before, as it came"
_CHANGED = "the history is not that of the page before any more ({why}): start again with the first page"
#: Far more than the segments of any run; a token is never unpacked to more.
_LARGEST = 4 << 20


class Place(NamedTuple):
    """Where a page begins: so many points of this (key, writer) were in the pages before, the last one at ``step``."""

    key: str
    writer: str
    given: int
    step: int


@dataclass(frozen=True, slots=True)
class Moment:
    """A run's history as it stands at one moment: its stretches, oldest first; the last one is its own log."""

    project: str
    created_us: int
    stretches: Sequence[Stretch]

    @property
    def own(self) -> Stretch:
        """The run's own log."""
        return self.stretches[-1]

    @property
    def position(self) -> LogPosition:
        """Where the run's own log ends then."""
        return self.own.last_entry

    @property
    def origin(self) -> list[list[Any]]:
        """What tells a run from a later one of the same name, and what it continues."""
        parents = [[stretch.canonical_id, str(stretch.last_entry)] for stretch in self.stretches[:-1]]
        return [[self.own.canonical_id, str(self.created_us)], *parents]


def token_of(moment: Moment, query: str, place: Place) -> str:
    """Return the token of the page that begins at a place; ``query`` stands for what is asked for."""
    counting = [[*one.order, one.writer, one.start] for one in moment.own.segments if one.counts]
    content = [query, moment.origin, str(moment.position), sorted(counting), place]
    return base64.urlsafe_b64encode(zlib.compress(json.dumps(content).encode())).decode()


def continued(now: Moment, query: str, token: str) -> tuple[Moment, Place]:
    """Return the moment of a token's first page, and where its page begins.

    Args:
        now: the run's history as it stands now.
        query: what is asked for; it must be what the token was made for.
        token: as it came.

    Raises:
        InvalidField: the token is broken, or belongs to another query or another history.
    """
    try:
        asked, origin, position, segments, place = json.loads(_unpacked(token))
        counting = [
            Segment(_number(a), _number(s), str(writer), _number(start), True) for a, s, writer, start in segments
        ]
        upto = LogPosition.parse(position)
        key, writer, given, step = place
        start = Place(str(key), str(writer), _number(given), _number(step))
    except (ValueError, TypeError, binascii.Error, zlib.error, RecursionError):
        raise InvalidField(_FIELD, _ALIEN) from None
    if asked != query:
        raise InvalidField(_FIELD, "it belongs to another query: ask for the same as in the page before")
    if origin != now.origin or upto > now.position:
        raise InvalidField(_FIELD, _CHANGED.format(why="the run was deleted, or linked to a parent"))
    own = replace(now.own, segments=counting, last_entry=upto)
    return replace(now, stretches=(*now.stretches[:-1], own)), start


def expired() -> InvalidField:
    """Return the refusal of a token whose place is not there any more."""
    return InvalidField(_FIELD, _CHANGED.format(why="points have expired"))


def _number(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= MAX_STEP:
        raise ValueError("no number of a token")
    return value


def _unpacked(token: str) -> bytes:
    unpacking = zlib.decompressobj()
    content = unpacking.decompress(base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True), _LARGEST)
    if not unpacking.eof or unpacking.unused_data:  # cut off, or longer than any token: its checksum was not seen
        raise ValueError("incomplete")
    return content
