"""A new session's spool, and what earlier sessions of its run have left."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from runlease.holder import Holder
from runlease.ids import canonical_id
from runlease.records import holder_message
from runlease.spool.files import FOLDER
from runlease.spool.reading import Session, find_sessions
from runlease.spool.writing import Spool
from runlease.v1 import leases_pb2, runs_pb2, spool_pb2


def new_header(
    project: str,
    run_id: str,
    holder: Holder,
    *,
    writer: str,
    fence: int = 0,
    attempt: int = 0,
    starting_step: int = 0,
    acquire: leases_pb2.AcquireRequest | None = None,
) -> spool_pb2.SpoolHeader:
    """Return the header of a session that begins now, with a random name; ``acquire`` is an offline one's."""
    return spool_pb2.SpoolHeader(
        run=runs_pb2.RunRef(project=project, id=run_id),
        writer=writer,
        fence=fence,
        attempt=attempt,
        session=acquire.nonce if acquire is not None else secrets.token_hex(16),
        starting_step=starting_step,
        created=time.time(),
        holder=holder_message(holder),
        acquire=acquire,
    )


def open_spool(directory: Path, header: spool_pb2.SpoolHeader, how: str, max_bytes: int) -> Spool | None:
    """Return the spool of a session: ``always``, ``overflow``, or ``never``, which is none."""
    if how == "never":
        return None
    spool = Spool(directory, header, always=how == "always", max_bytes=max_bytes)
    if spool.always:
        spool.make()
    return spool


def run_folder(directory: Path, project: str, run_id: str) -> Path:
    """Return where the spools of a run lie in RUNLEASE_DIR."""
    return directory / FOLDER / project / canonical_id(run_id)


def earlier_sessions(directory: Path, project: str, run_id: str) -> list[Session]:
    """Return the sessions of a run in RUNLEASE_DIR that no process writes any more, in the order of their starts."""
    found = find_sessions(run_folder(directory, project, run_id)).sessions
    return [session for session in found if session.header.run.project == project and not session.locked]


def hint(directory: Path, project: str, run_id: str) -> str:
    """Return a line about what earlier sessions of a run have left in RUNLEASE_DIR, or nothing."""
    left = len(earlier_sessions(directory, project, run_id))
    if not left:
        return ""
    whose = "an earlier session" if left == 1 else f"{left} earlier sessions"
    where = run_folder(directory, project, run_id)
    return (
        f"runlease: {whose} of {project}/{run_id} left metrics in {where}; once this run has ended: "
        f"runlease sync {where}"
    )
