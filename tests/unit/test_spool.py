"""The spool's files and their reader: what was written comes back, and what is torn or rotten is left out and named."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runlease.spool import Gap, find_sessions
from runlease.spool import files as spool_files
from runlease.spool.files import SpoolFiles
from runlease.spool.records import HEAD, Scan, frame, frame_entry
from runlease.spool.writing import Spool
from runlease.v1 import metrics_pb2 as pb
from runlease.v1 import runs_pb2, spool_pb2

from tests.support.spools import a_row, header, points_entry, rows_in, the_session, write_entries


def note(**fields: object) -> spool_pb2.SpoolRecord:
    return spool_pb2.SpoolRecord(**fields)


# Records.


def test_a_record_torn_at_any_byte_is_none_and_those_before_it_are_whole() -> None:
    first, last = frame(note(base=spool_pb2.SpoolBase(seq=5))), frame_entry(points_entry(a_row(3, "a", "b")), 1, 2)
    for cut in range(len(last)):
        scan = Scan(first + last[:cut])
        assert [record.base.seq for _, _, record in scan] == [5]
        assert scan.sound == len(first)
    scan = Scan(first + last)
    assert len(list(scan)) == 2
    assert scan.sound == len(first) + len(last)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_flipped_bit_never_gives_another_record(data: st.DataObject) -> None:
    frames = [frame_entry(points_entry(a_row(step)), step + 1, 1) for step in range(4)]
    content = bytearray(b"".join(frames))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    places = [record.entry.place for _, _, record in Scan(bytes(content))]
    hit = next(n for n in range(4) if at < sum(map(len, frames[: n + 1])))
    assert places == list(range(1, hit + 1))


@pytest.mark.parametrize("tail", [bytes(64), b"\x01", HEAD.pack(2**32 - 1, 0) + b"x"])
def test_zeros_and_nonsense_behind_the_records_are_none(tail: bytes) -> None:
    scan = Scan(frame(note(outcome=runs_pb2.RUN_STATE_FAILED)) + tail)
    assert len(list(scan)) == 1
    assert list(Scan(b"")) == []


def test_zeros_are_no_records() -> None:
    assert list(Scan(bytes(4096))) == []


values = st.floats(allow_nan=False)
rows = st.builds(
    lambda step, time_s, row: (step, time_s, tuple(row), tuple(row.values())),
    st.integers(0, 2**53 - 2),
    values,
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5), values, min_size=1),
)


@given(st.lists(st.lists(rows, min_size=1, max_size=4), min_size=1, max_size=6), st.integers(200, 2000))
@settings(max_examples=60, deadline=None)
def test_entries_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple]], file_bytes: int
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    files = SpoolFiles(directory, header())
    files._entries._max_bytes = file_bytes
    write_entries(files, *(points_entry(*batch) for batch in batches))
    files.close()
    session = the_session(directory)
    assert [place for place, _ in session.entries()] == list(range(1, len(batches) + 1))
    assert [entry for _, entry in session.entries()] == [points_entry(*batch) for batch in batches]
    assert session.points == sum(len(row[3]) for batch in batches for row in batch)
    assert (session.gaps, session.damages) == ([], [])


# A session.


def test_what_was_said_of_a_session_comes_back(tmp_path: Path) -> None:
    files = SpoolFiles(tmp_path, header(starting_step=11))
    assert not any(tmp_path.iterdir())  # nothing is made before the first record
    files.note(note(base=spool_pb2.SpoolBase(seq=4)))
    files.note(note(acknowledged=spool_pb2.SpoolAcknowledged(place=2)))
    files.note(note(update=runs_pb2.UpdateRunRequest(notes="first")))
    files.note(note(update=runs_pb2.UpdateRunRequest(notes="second")))
    files.note(note(outcome=runs_pb2.RUN_STATE_PREEMPTED))
    files.close()
    session = the_session(tmp_path)
    assert session.path == tmp_path / "spool" / "p" / "r-1" / f"1000000000000000-{'5' * 32}"
    assert (session.header.run.id, session.header.canonical_id, session.header.fence) == ("r/1", "r-1", 7)
    assert (session.header.starting_step, session.offline) == (11, False)
    assert (session.base, session.acknowledged, session.outcome) == (4, 2, "preempted")
    assert [update.notes for update in session.updates] == ["first", "second"]
    assert (session.last_place, session.points, list(session.entries())) == (0, 0, [])
    assert stat.S_IMODE(session.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in session.path.iterdir()} == {0o600}


def test_a_sync_keeps_the_base_that_it_was_told(tmp_path: Path) -> None:
    files = SpoolFiles(tmp_path, header())
    write_entries(files, points_entry(a_row(0)))
    files.close()
    with open(files.path / "session", "ab") as file:
        file.write(b"\x09\x00\x00\x00torn")
    session = the_session(tmp_path)
    assert session.base is None
    assert len(session.damages) == 1
    session.set_base(9)
    assert session.base == the_session(tmp_path).base == 9


def test_a_session_goes_behind_what_the_coordinator_has_where_its_base_is_not_known(tmp_path: Path) -> None:
    files = SpoolFiles(tmp_path, header())
    files.note(note(base=spool_pb2.SpoolBase(seq=4)))
    files.close()
    session = the_session(tmp_path)
    assert (session.delivered(6), session.base) == (2, 4)
    session.set_taken(6)
    assert (the_session(tmp_path).base, the_session(tmp_path).acknowledged) == (None, 2)
    # By now the session that took it over has written up to 30.
    assert (session.delivered(30), session.base) == (2, 28)
    assert the_session(tmp_path).delivered(31) == 3


def test_an_offline_session_begins_at_nothing(tmp_path: Path) -> None:
    files = SpoolFiles(tmp_path, header(fence=0, attempt=0))
    write_entries(files, points_entry(a_row(0)))
    files.close()
    session = the_session(tmp_path)
    assert (session.offline, session.base) == (True, 0)


def test_sessions_are_found_from_any_folder_in_the_order_of_creation(tmp_path: Path) -> None:
    for created, name in ((3.0, "a"), (1.0, "b"), (2.0, "c")):
        files = SpoolFiles(tmp_path, header(session=name, created=created, run=runs_pb2.RunRef(project="p", id=name)))
        write_entries(files, points_entry(a_row(0)))
        files.close()
    for top in (tmp_path, tmp_path / "spool"):
        assert [session.header.session for session in find_sessions(top).sessions] == ["b", "c", "a"]
    alone = find_sessions(tmp_path).sessions[0].path
    assert [session.path for session in find_sessions(alone).sessions] == [alone]
    assert find_sessions(tmp_path / "nothing").sessions == []


@pytest.mark.parametrize("content", [b"", b"nonsense", frame(note(outcome=runs_pb2.RUN_STATE_FAILED))])
def test_a_session_without_a_sound_header_is_named(tmp_path: Path, content: bytes) -> None:
    files = SpoolFiles(tmp_path, header())
    write_entries(files, points_entry(a_row(0)))
    files.close()
    (files.path / "session").write_bytes(content)
    found = find_sessions(tmp_path)
    assert found.sessions == []
    assert [(unreadable.path, "header" in unreadable.reason) for unreadable in found.unreadable] == [(files.path, True)]


def test_a_session_of_another_version_is_named(tmp_path: Path) -> None:
    files = SpoolFiles(tmp_path, header())
    files.header.version = 2
    files.note(note(base=spool_pb2.SpoolBase(seq=1)))
    files.close()
    (unreadable,) = find_sessions(tmp_path).unreadable
    assert "another version" in unreadable.reason


def test_a_live_session_is_locked_until_it_ends_or_is_taken(tmp_path: Path) -> None:
    files = SpoolFiles(tmp_path, header())
    write_entries(files, points_entry(a_row(0)))
    session = the_session(tmp_path)
    assert session.locked
    assert not session.lock()
    files.close()
    assert not session.locked
    assert session.lock()
    assert the_session(tmp_path).locked  # as any other process sees it
    session.close()
    gone = the_session(tmp_path)
    session.lock()
    session.discard()
    assert not gone.lock()
    assert find_sessions(tmp_path).sessions == []
    assert not (tmp_path / "spool" / "p").exists()


def test_a_new_session_of_the_lease_tells_what_the_last_one_has_delivered(tmp_path: Path) -> None:
    # Given what a process left that wrote entries 3 to 6 and had two of them acknowledged
    left = Spool(tmp_path, header(session="a", created=1.0))
    left.base(2)
    for place in range(1, 5):
        left.write(points_entry(a_row(place)), place, 1)
    left.close()
    # and others of another lease and another writer
    for name, fields in (("b", {"fence": 8}), ("c", {"writer": "rank1"})):
        files = SpoolFiles(tmp_path, header(session=name, created=2.0, **fields))
        files.note(note(base=spool_pb2.SpoolBase(seq=1)))
        files.close()
    # when its successor under the same lease opens the writer
    Spool(tmp_path, header(session="d", created=3.0)).base(4)
    # then what the first had not delivered goes behind whatever comes.
    first, *others = find_sessions(tmp_path).sessions
    assert (first.base, first.acknowledged) == (None, 2)
    assert [session.base for session in others] == [1, 1]


# Places.


def test_places_order_entries_and_the_first_of_two_counts(tmp_path: Path) -> None:
    files = SpoolFiles(tmp_path, header())
    for place in (4, 5, 2, 4, 3, 8):
        files.append(frame_entry(points_entry(a_row(place)), place, 1))
    files.append(frame_entry(pb.Entry(lost=pb.Lost(entries=2, points=70)), 7, 70))
    files.close()
    session = the_session(tmp_path)
    assert [place for place, _ in session.entries()] == [2, 3, 4, 5, 7, 8]
    assert [place for place, _ in session.entries(after=4)] == [5, 7, 8]
    assert session.gaps == [Gap(1, 1)]  # the lost entry stands for 6 and 7
    assert session.last_place == 8
    assert session.points == 6  # one of them twice, and none that is lost


def test_what_follows_damage_in_a_file_is_missing_and_later_files_count(tmp_path: Path) -> None:
    files = SpoolFiles(tmp_path, header())
    files._entries._max_bytes = 4 * len(frame_entry(points_entry(a_row(1)), 1, 1))
    write_entries(files, *(points_entry(a_row(step)) for step in range(1, 9)))
    files.close()
    first = files.path / "entries-000001"
    content = bytearray(first.read_bytes())
    content[len(content) // 4 + 12] ^= 0xFF  # within the second of four
    first.write_bytes(content)
    session = the_session(tmp_path)
    assert [row[0] for row in rows_in(session)] == [1, 5, 6, 7, 8]
    assert session.gaps == [Gap(2, 4)]
    (damage,) = session.damages
    assert (damage.path, damage.length) == (first, len(content) * 3 // 4)
    assert str(first) in str(damage)


def test_an_empty_file_is_no_damage(tmp_path: Path) -> None:
    files = SpoolFiles(tmp_path, header())
    write_entries(files, points_entry(a_row(0)))
    files.close()
    (files.path / "entries-000002").touch()
    (files.path / "journal-000001").touch()
    session = the_session(tmp_path)
    assert (len(rows_in(session)), session.damages) == (1, [])


# The journal.


def item(index: int, step: int) -> spool_pb2.SpooledItem:
    _, time_s, keys, row_values = a_row(step)
    return spool_pb2.SpooledItem(
        index=index, row=spool_pb2.SpooledRow(step=step, time=time_s, keys=keys, values=row_values)
    )


def test_items_that_no_entry_has_follow_as_entries_of_their_own(tmp_path: Path) -> None:
    files = SpoolFiles(tmp_path, header())
    for index in range(1, 7):
        files.journal(item(index, index))
    files.journal(spool_pb2.SpooledItem(index=7, commit=pb.Commit(step=6, uri="/c")))
    files.journal(spool_pb2.SpooledItem(index=8, rewind=pb.Rewind(step=4)))
    files.journal(item(9, 4))
    write_entries(files, points_entry(*map(a_row, (1, 2, 3))), first=5, items_through=3)
    files.close()
    session = the_session(tmp_path)
    kinds = [(place, entry.WhichOneof("payload"), list(entry.points.steps)) for place, entry in session.entries()]
    assert kinds == [
        (5, "points", [1, 2, 3]),
        (6, "points", [4, 5, 6]),
        (7, "commit", []),
        (8, "rewind", []),
        (9, "points", [4]),
    ]
    assert (session.last_place, session.points) == (9, 7)
    again = the_session(tmp_path)
    assert [place for place, _ in again.entries(after=8)] == [9]


def test_files_of_the_journal_go_once_they_are_covered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_files, "JOURNAL_BYTES", 200)
    files = SpoolFiles(tmp_path, header())
    for index in range(1, 21):
        files.journal(item(index, index))
    names = sorted(path.name for path in files.path.glob("journal-*"))
    assert len(names) > 3
    files.covered(10)
    left = sorted(path.name for path in files.path.glob("journal-*"))
    assert left
    assert left == names[-len(left) :] != names
    files.close()
    assert [row[0] for row in rows_in(the_session(tmp_path))][-10:] == list(range(11, 21))


# The files.


def test_an_entry_is_read_again_and_its_file_goes_with_the_last(tmp_path: Path) -> None:
    files = SpoolFiles(tmp_path, header())
    files._entries._max_bytes = 1
    entries = [points_entry(a_row(step)) for step in range(3)]
    wheres = [files.append(frame_entry(entry, place, 1)) for place, entry in enumerate(entries, 1)]
    assert [where.number for where in wheres] == [1, 2, 3]
    assert [files.read(where) for where in wheres] == entries
    total = files.bytes
    files.release(wheres[0])
    assert files.bytes == total - wheres[0].length
    assert not (files.path / "entries-000001").exists()
    files.release(wheres[2])  # the one that is written just now
    assert files.append(frame_entry(entries[0], 4, 1)).number == 4
    (files.path / "entries-000002").write_bytes(b"rotten")
    with pytest.raises(OSError, match="damaged"):
        files.read(wheres[1])
    files.remove()
    assert not (tmp_path / "spool" / "p").exists()
    assert files.bytes == 0


def test_a_write_that_fails_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = SpoolFiles(tmp_path, header())
    write_entries(files, points_entry(a_row(1)))
    write, calls = os.write, []

    def half(fd: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) == 1:
            return write(fd, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space"):
        write_entries(files, points_entry(a_row(2)), first=2)
    monkeypatch.undo()
    write_entries(files, points_entry(a_row(3)), first=2)
    files.close()
    session = the_session(tmp_path)
    assert [row[0] for row in rows_in(session)] == [1, 3]
    assert session.damages == []
