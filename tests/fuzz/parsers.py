"""Targets without a store: parsers of texts, files and environments."""

from __future__ import annotations

import base64
import json
import logging
import shutil
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from runlease import ids, job
from runlease.channel import target as target_of
from runlease.exceptions import InvalidArgument
from runlease.request import HistoryPoint
from runlease.resumefile import ResumeFile, generate_key
from runlease.spool import Session
from runlease.spool.files import ENTRIES, JOURNAL, SESSION
from runlease.spool.records import VERSION, Scan, frame, frame_entry
from runlease.v1 import metrics_pb2, runs_pb2, spool_pb2
from runlease_coordinator.domain.errors import InvalidField
from runlease_coordinator.domain.events import Cursor
from runlease_coordinator.domain.metrics import LogPosition
from runlease_coordinator.domain.tickets import Tickets
from runlease_coordinator.history.lineage import Stretch
from runlease_coordinator.history.pages import Moment, Place, continued, token_of
from runlease_coordinator.rpc.entries import open_writer
from runlease_coordinator.rpc.runs import _page_token, _position
from runlease_coordinator.settings import StartupError, redact_url, settings_from_env
from runlease_coordinator.store.runs import ListPosition

Check = Callable[[bytes], None]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def run_ids(data: bytes) -> None:
    """IDs, projects, paths and places in a history: taken, or refused as an argument."""
    text = _text(data)
    with suppress(InvalidArgument):
        project, run_id = ids.parse_run(text)
        assert ids.canonical_id(ids.canonical_id(run_id)) == ids.canonical_id(run_id)
        assert "/" not in project
    with suppress(InvalidArgument):
        point = HistoryPoint.parse("fork_from", text)
        run_id, _, digits = text.partition("?_step=")
        assert (point.id, point.step) == (run_id, int(digits))
    with suppress(InvalidArgument):
        ids.check_writer(text)
    if "," not in text:  # several are looked up
        with suppress(InvalidArgument):
            target_of(text)


RUN_IDS = [b"demo/run-1", b"r?_step=7", b"a/b?_step=9007199254740990", b"127.0.0.1:7373", b"unix:/run/s", b"main"]


def tickets(data: bytes) -> None:
    """A ticket is good for its own run and fence, and no other text is."""
    known = Tickets(b"secret")
    text = _text(data)
    good = known.issue("p", "r", 7)
    assert known.is_good(text, "p", "r", 7) == (text == good)
    run = runs_pb2.RunRef(project="p", id="r")
    with suppress(InvalidField):
        message = metrics_pb2.OpenWriter(run=run, fence=7, writer="w", session="s", rank_ticket=text)
        open_writer(message, known)
        assert text in ("", good)


TICKETS = [Tickets(b"secret").issue("p", "r", 7).encode(), Tickets(b"secret").issue("p", "r", 8).encode()]


def cursors(data: bytes) -> None:
    """Positions in the audit log and in a run's log come back as they were, or are refused."""
    text = _text(data)
    with suppress(InvalidField):
        cursor = Cursor.parse(text)
        assert str(Cursor.parse(str(cursor))) == str(cursor)
    with suppress(ValueError):
        position = LogPosition.parse(text)
        assert LogPosition.parse(str(position)) == position


CURSORS = [b"12=1795352901497-3,*=1795352900000-0", b"*=0-0", b"1795352901497-3"]

_MOMENT = Moment("p", 1, [Stretch("r", {7: 1}, (), LogPosition(7, 9), None, ())])


def page_tokens(data: bytes) -> None:
    """Tokens of lists and of histories, also such as only their content was changed of."""
    text = _text(data)
    packed = base64.urlsafe_b64encode(zlib.compress(data)).decode()
    for token in (text, packed):
        with suppress(InvalidField):
            moment, place = continued(_MOMENT, "query", token)
            assert 0 <= place.given < 2**63
            assert all(0 <= one.start < 2**63 for one in moment.own.segments)
    for token in (text, base64.urlsafe_b64encode(data).decode()):
        with suppress(InvalidField):
            position = _position(token)
            assert not token or _position(_page_token(position)) == position


_LIST = ["p", "1795352901497000", "r"]
_HISTORY = ["query", _MOMENT.origin, "7-9", [[1, 0, "", 0]], ["loss", "main", 5, 4]]
PAGE_TOKENS = [
    _page_token(ListPosition(*_LIST)).encode(),
    token_of(_MOMENT, "query", Place("loss", "main", 5, 4)).encode(),
    json.dumps(_LIST).encode(),
    json.dumps(_HISTORY).encode(),
]

_SECRET = "Xq7secret"


def store_urls(data: bytes) -> None:
    """Settings are taken, or refused with a remedy; a password is in no message."""
    text = _text(data).replace("\0", "")
    for given in ({"store": text}, {"listen": text}, {"history_url": text}):
        _settings({}, **given)
    shown = redact_url(f"redis://user:{_SECRET}@{text}")
    assert _SECRET not in shown
    _settings({}, store=f"redis://user:{_SECRET}@{text}")
    variables = ("MAX_TTL", "LOCK_DELAY", "DATA_NODES", "ARCHIVE_BYTES", "RETENTION", "READ_BYTES", "LOG_LEVEL")
    for variable in variables:
        _settings({f"RUNLEASE_{variable}": text})


def _settings(environ: dict[str, str], **given: Any) -> None:
    try:
        shown = repr(settings_from_env({"HOME": "/home/x"} | environ, **given))
    except StartupError as error:
        shown = f"{error} {error.__cause__}"
    assert _SECRET not in shown


STORE_URLS = [
    b"redis://user:pw@host:6379/0?ssl_cert_reqs=none",
    b"rediss+sentinel://a:26379,b:26380/main/0?sentinel_password=x",
    b"redis+cluster://u:p@[::1]:7000,b",
    b"unix:///run/redis.sock?db=1",
    b"127.0.0.1:7373",
    b"30",
]


def jobs(data: bytes) -> None:
    """Whatever the environment holds, a job is made of it that can be sent."""
    values = _text(data).replace("\0", "").split("\n")
    environ = dict(zip(_VARIABLES, values, strict=False))
    found = job.job_of(environ)
    assert max(len(found.job_id), len(found.group)) <= job.MAX_GROUP
    for key in job.automatic_keys(environ, [environ.get("ARGV0", "train.py")], auto_key=None):
        assert 0 < len(key) <= job.MAX_KEY
        key.encode()
    job.array_index(environ)


_VARIABLES = (
    *("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_PROCID"),
    *("SLURM_RESTART_COUNT", "SLURM_JOB_NAME", "SLURM_CLUSTER_NAME", "SLURM_STEP_NUM_TASKS", "SGE_TASK_ID"),
    *("LSB_JOBINDEX", "RANK", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "TORCHELASTIC_ERROR_FILE", "ARGV0"),
)
JOBS = [
    b"123\n120\n4\n0\n8\n3\n1\ntrain.sh\nc1\n8\n4",
    b"\n\n\n4294967290\n\n\n\nbash",
    b"1\n\n\n\n\n\n\n\n\n\n\n0\n3\nr\nhost",
]


class Files:
    """Targets that read files; they lie in a directory of their own."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="rlz-"))
        self._logger = logging.getLogger("runlease")
        self._level = self._logger.level
        self._logger.setLevel(logging.CRITICAL)  # what is damaged is warned of

    def close(self) -> None:
        self._logger.setLevel(self._level)
        shutil.rmtree(self._folder, ignore_errors=True)

    def resume_file(self, data: bytes) -> None:
        """Whatever is in a resume file, it is read without an error, and mended by the next run."""
        file = ResumeFile(self._folder)
        file.path.parent.mkdir(exist_ok=True)
        file.path.write_bytes(data)
        found = file.key("p", "train.py", "")
        assert found is None or found.startswith("file:")
        assert file.remember("p", "train.py", "", key := generate_key(), "r")
        assert file.key("p", "train.py", "") == key

    def spool(self, data: bytes) -> None:
        """A spool in which bytes were changed, cut and put in gives entries that were written, up to the damage."""
        where, rest = int.from_bytes(data[:2], "big"), data[2:]
        for kind, sound in (("", b""), (SESSION, _SESSION), (ENTRIES, _ENTRIES), (JOURNAL, _JOURNAL)):
            at = where % (len(sound) + 1)
            damaged = rest if not kind else sound[:at] + rest + sound[at + len(rest) :]
            whole = [record for _, _, record in Scan(sound[:at])] if kind == ENTRIES else []
            self._read(kind, damaged, whole)

    def _read(self, kind: str, damaged: bytes, whole: list[spool_pb2.SpoolRecord]) -> None:
        files = {SESSION: _SESSION, f"{ENTRIES}-000001": _ENTRIES, f"{JOURNAL}-000001": _JOURNAL}
        files[{"": f"{ENTRIES}-x", SESSION: SESSION}.get(kind, f"{kind}-000001")] = damaged
        for name, content in files.items():
            (self._folder / name).write_bytes(content)
        with suppress(ValueError):  # of the header alone
            session = Session(self._folder)
            entries = list(session.entries())
            points = [entry.points for _, entry in entries]
            rows = [
                (step, value) for one in points for step, value in zip(one.steps, one.series[0].values, strict=True)
            ]
            assert len(rows) == len(dict(rows)), "an entry came twice"
            assert all(value == step / 2 for step, value in rows), "an entry was not logged so"
            assert dict(rows).keys() >= {record.entry.place for record in whole}, "one before the damage is missing"
            assert [place for place, *_ in session.outline()] == [place for place, _ in entries]
            assert session.points == len(rows)
            assert {one.path.name for one in session.damages} <= files.keys()
            assert not session.gaps or session.gaps[-1].last <= session.last_place
        for name in files:
            (self._folder / name).unlink()


def _entry(place: int) -> metrics_pb2.Entry:
    entry = metrics_pb2.Entry()
    entry.points.steps.append(place)
    entry.points.times.append(1.0)
    entry.points.series.add(key="loss", values=[place / 2])
    return entry


_ENTRIES = b"".join(frame_entry(_entry(place), place, 1, place) for place in range(1, 6))
_HEADER = spool_pb2.SpoolHeader(version=VERSION, fence=7, attempt=1, session="s", writer="main", created=1.0)
_SESSION = frame(spool_pb2.SpoolRecord(header=_HEADER)) + frame(spool_pb2.SpoolRecord(base=spool_pb2.SpoolBase(seq=3)))
_JOURNAL = b"".join(
    frame(
        spool_pb2.SpoolRecord(
            item=spool_pb2.SpooledItem(
                index=index, row=spool_pb2.SpooledRow(step=index, time=1.0, keys=["loss"], values=[index / 2])
            )
        )
    )
    for index in range(1, 9)
)
RESUME_FILE = [
    b'{"about": "x", "runs": [{"project": "p", "script": "train.py", "array_index": "", "key": "file:%s"}]}'
    % (b"0" * 32)
]
SPOOL = [b"\x00\x20\xff", b"\x00\x00" + _ENTRIES[:40], b"\x01\x00" + b"\0" * 20]
