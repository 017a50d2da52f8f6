"""All targets by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import NamedTuple

from tests.fuzz import parsers
from tests.fuzz.handlers import Handlers


class Target(NamedTuple):
    """What takes bytes, and some that lead deep into it."""

    check: Callable[[bytes], None]
    seeds: Sequence[bytes]


_PURE = {
    "run-ids": Target(parsers.run_ids, parsers.RUN_IDS),
    "tickets": Target(parsers.tickets, parsers.TICKETS),
    "cursors": Target(parsers.cursors, parsers.CURSORS),
    "page-tokens": Target(parsers.page_tokens, parsers.PAGE_TOKENS),
    "store-urls": Target(parsers.store_urls, parsers.STORE_URLS),
    "jobs": Target(parsers.jobs, parsers.JOBS),
}


@contextmanager
def opened(name: str, store_url: str = "") -> Iterator[Target]:
    """Return a target by its name (see `names`), with what it needs; a store is made where none is given."""
    if name in _PURE:
        yield _PURE[name]
    elif name == "handlers":
        with closing(Handlers(store_url)) as handlers:
            yield Target(handlers, handlers.seeds)
    else:
        with closing(parsers.Files()) as files:
            targets = {
                "spool": Target(files.spool, parsers.SPOOL),
                "resume-file": Target(files.resume_file, parsers.RESUME_FILE),
            }
            yield targets[name]
