"""The spool: what is logged and not yet acknowledged, on disk, in a directory for each session of a writer.

Guarantees: what a record holds comes back as it was written, or not at all; an entry keeps its place, so that it is
delivered once however often it is read; a session that its process still writes is locked and left alone. Not
guaranteed: that it survives a power cut. Nothing is forced to the disk; it survives the death of the process.

    RUNLEASE_DIR/spool/<project>/<run>/<created, us>-<session>/session, entries-000001, journal-000001, ...

`files` writes, `reading` reads (`find_sessions`, `Session`), `records` frames. The format is in
``proto/runlease/v1/spool.proto``.

To deliver a session: `lock` it; open its writer under the header's attempt (or acquire with the header's request,
where it is offline) and learn the coordinator's seq; skip what is `delivered`, by that seq; for each of `gaps` above
that send a Lost entry; then `entries`, with seq = `base` + place; then `updates` and `outcome`; then `discard`.
"""

from __future__ import annotations

from runlease.spool.reading import Damage, Found, Gap, Session, Unreadable, find_sessions

__all__ = ["Damage", "Found", "Gap", "Session", "Unreadable", "find_sessions"]
