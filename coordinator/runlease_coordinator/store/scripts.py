"""The Lua scripts: one file an operation, each behind the shared prelude."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib import resources
from itertools import chain

#: Functions that a script needs besides the prelude.
_NEEDS = {
    "abandon": ("queue", "auto", "leaseend"),
    "acquire": ("decision", "queue", "auto", "log", "segments", "leaseend", "grant", "gcra", "recordsize"),
    "append": ("log", "segments", "gcra", "writerlog", "auto", "names", "reinstate"),
    "break": ("queue", "leaseend"),
    "commit_part": ("manifest",),
    "cut": ("manifest",),
    "delete_run": ("queue", "auto", "leaseend"),
    "expire": ("leaseend",),
    "expire_points": ("manifest",),
    "get_run": ("log",),
    "limits": ("gcra",),
    "link": ("log", "segments"),
    "list_runs": ("order",),
    "live_runs": ("order",),
    "open_writer": ("writerlog", "reinstate"),
    "purge_run": ("manifest",),
    "rebuild": ("auto", "log", "segments", "leaseend", "grant", "reinstate"),
    "release": ("queue", "auto", "leaseend", "reinstate"),
    "renew": ("reinstate",),
    "resolve_auto": ("auto",),
    "update_run": ("recordsize", "reinstate"),
}
_PARTS = frozenset(("prelude", *chain.from_iterable(_NEEDS.values())))


@dataclass(frozen=True, slots=True)
class Script:
    """An operation's source and the SHA-1 under which the store knows it."""

    name: str
    source: str
    sha: str


def lua(name: str) -> str:
    """Return the text of a Lua file."""
    return (resources.files(__package__) / "lua" / f"{name}.lua").read_text(encoding="utf-8")


@cache
def scripts() -> dict[str, Script]:
    """Return all operations by name."""
    folder = resources.files(__package__) / "lua"
    names = sorted(entry.name.removesuffix(".lua") for entry in folder.iterdir() if entry.name.endswith(".lua"))
    return {name: _assemble(name) for name in names if name not in _PARTS}


def _assemble(name: str) -> Script:
    shebang, _, body = lua(name).partition("\n")  # the shebang carries the script's flags and must come first
    parts = [shebang, lua("prelude"), *map(lua, _NEEDS.get(name, ())), body]
    source = "\n".join(parts)
    return Script(name, source, sha1(source.encode(), usedforsecurity=False).hexdigest())
