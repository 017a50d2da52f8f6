"""Known-bad variants: the product with one rule taken out, to see that something here notices.

    python -m tests.faults.variants no_wait serve --store redis://127.0.0.1:6379
    python -m tests.faults.variants deadline_from_receipt python -m tests.support.puppet

The product itself has no switch. A variant replaces a piece of its source, while that is loaded and in that process
alone; a piece that is not there exactly once is an error, so no variant rots into the product as built.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_LUA = "coordinator/runlease_coordinator/store/lua/"


_INCARNATION = (
    "return string.match(info, 'master_replid:(%x+)') .. ':' .. string.match(info, 'sync_full:(%d+)'), online"
)


@dataclass(frozen=True)
class Patch:
    """In a file of the product, by its path from the root, ``bad`` stands where ``good`` stood."""

    file: str
    good: str
    bad: str

    def apply(self, source: str) -> str:
        found = source.count(self.good)
        if found != 1:
            raise ValueError(f"{self.file} has {found} times, not once: {self.good!r}")
        return source.replace(self.good, self.bad)


@dataclass(frozen=True)
class Variant:
    """A rule that is broken, in words, and how."""

    broken: str
    patches: tuple[Patch, ...]


VARIANTS = {
    "counter_fences": Variant(
        "a fence is the last one plus 1, whatever the store's clock says",
        (Patch(_LUA + "acquire.lua", "math.max(last_fence + 1, now)", "last_fence + 1"),),
    ),
    "retry_full_ttl": Variant(
        "a repeated nonce is told a full ttl, not what is left of it",
        (Patch(_LUA + "acquire.lua", "math.min(tonumber(old[4]) - now, tonumber(old[13]))", "tonumber(old[13])"),),
    ),
    "release_by_name": Variant(
        "a release frees the run, whoever holds it",
        (
            Patch(
                _LUA + "release.lua",
                "if not is_same_lease(attempts_key, fence, run[1], own_fence(run[1], run[8]), run[4]) then",
                "if false then",
            ),
        ),
    ),
    "first_step_logged": Variant(
        "an attempt replaces what was logged from its first logged step on, not from its starting step",
        (
            Patch(
                _LUA + "append.lua",
                "local start = tonumber(redis.call('HGET', attempts_key, attempt .. '.start'))",
                "local start = step; redis.call('HSET', attempts_key, attempt .. '.start', text(step))",
            ),
        ),
    ),
    "no_wait": Variant(
        "control writes are acknowledged before a replica has them",
        (
            Patch(
                "coordinator/runlease_coordinator/store/wire.py",
                "self._queue.append((packed, future, replicas))",
                "self._queue.append((packed, future, 0))",
            ),
        ),
    ),
    "no_quarantine": Variant(
        "a store that has lost data grants at once",
        (Patch(_LUA + "prelude.lua", "local quarantine_us = tonumber(meta[3])", "local quarantine_us = 0"),),
    ),
    "run_id": Variant(
        "the incarnation is the server's run ID, which comes back with the server",
        (
            Patch(
                _LUA + "prelude.lua",
                _INCARNATION,
                "return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)'), online",
            ),
        ),
    ),
    "replid_alone": Variant(
        "the incarnation is the replication ID, without the number of full syncs",
        (
            Patch(
                _LUA + "prelude.lua",
                _INCARNATION,
                "return string.match(info, 'master_replid:(%x+)'), online",
            ),
        ),
    ),
    "reinstate_unconfirmed": Variant(
        "behind a quarantine a lease comes back under the fence that it had, though newer grants may be lost",
        (
            Patch(
                _LUA + "renew.lua",
                "fence = is_open and text(math.max(tonumber(run[1]) + 1, now)) or run[1]",
                "fence = run[1]",
            ),
        ),
    ),
    "append_unchecked": Variant(
        "an append needs the record's fence, not a record of this epoch",
        (
            Patch(
                _LUA + "append.lua",
                "if not is_confirmed(run[11], epoch) then return unconfirmed(now, epoch, quarantine) end",
                "",
            ),
            Patch(
                _LUA + "open_writer.lua",
                "if not is_confirmed(run[4], epoch) then return unconfirmed(now, epoch, quarantine) end",
                "",
            ),
        ),
    ),
    "no_clock_guard": Variant(
        "the store's clock is believed, however far it has stepped",
        (Patch(_LUA + "acquire.lua", "if quarantine == 0 and now > request.guard then", "if false then"),),
    ),
    "ack_before_append": Variant(
        "points are acknowledged before they are in the store",
        (
            Patch(
                "coordinator/runlease_coordinator/rpc/metrics.py",
                "outcome = await self._metrics.append(writer, entry)",
                "outcome: Any = asyncio.create_task(self._metrics.append(writer, entry)); "
                "outcome.add_done_callback(_drop)",
            ),
        ),
    ),
    "deadline_from_receipt": Variant(
        "a deadline counts from when the reply came",
        (
            Patch(
                "client/runlease/leasestate.py",
                "    return sent_at + remaining_s *",
                "    from runlease.clock import suspend_aware\n\n    return suspend_aware() + remaining_s *",
            ),
        ),
    ),
    "spool_without_checksum": Variant(
        "a spool's record is taken as it lies there",
        (Patch("client/runlease/spool/records.py", "or zlib.crc32(payload) != checksum", ""),),
    ),
}


def install(name: str) -> None:
    """Let what this process imports from now on be the variant."""
    by_file: dict[str, list[Patch]] = {}
    for patch in VARIANTS[name].patches:
        by_file.setdefault(patch.file, []).append(patch)
    sys.meta_path.insert(0, _Finder({ROOT / file: patches for file, patches in by_file.items()}))
    if any(file.startswith(_LUA) for file in by_file):
        _patch_lua({Path(file).stem: patches for file, patches in by_file.items() if file.startswith(_LUA)})


def patched(source: str, patches: Sequence[Patch]) -> str:
    for patch in patches:
        source = patch.apply(source)
    return source


def _patch_lua(patches: dict[str, list[Patch]]) -> None:
    from runlease_coordinator.store import scripts

    as_built = scripts.lua

    def lua(name: str) -> str:
        return patched(as_built(name), patches.get(name, ()))

    scripts.lua = lua


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles the patched source; neither reads nor writes a compiled file, which belongs to the product."""

    def __init__(self, fullname: str, path: str, patches: Sequence[Patch]) -> None:
        super().__init__(fullname, path)
        self._patches = patches

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = compile(patched(Path(path).read_text(), self._patches), path, "exec")
        return code


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, patches: dict[Path, list[Patch]]) -> None:
        self._patches = patches

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> Any:
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        patches = self._patches.get(Path(spec.origin)) if spec and spec.origin else None
        if spec is None or spec.origin is None or patches is None:
            return None
        return importlib.util.spec_from_file_location(
            fullname, spec.origin, loader=_Loader(fullname, spec.origin, patches)
        )


def main() -> None:
    """Run `runlease` (NAME serve ...), or a module or file (NAME python -m MODULE, NAME python FILE), as a variant."""
    name, command, *rest = sys.argv[1:]
    install(name)
    if command != "python":
        sys.argv = ["runlease", command, *rest]
        runpy.run_module("runlease", run_name="__main__", alter_sys=True)
    elif rest[0] == "-m":
        sys.argv = rest[1:]
        runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = rest
        runpy.run_path(rest[0], run_name="__main__")


if __name__ == "__main__":
    main()
