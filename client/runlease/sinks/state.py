"""A sink's memory of one run: up to where its log was sent, in a file that is whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: two sinks of one run and target are not kept apart
    fcntl = None  # type: ignore[assignment]  # None stands for: not on this system

_ABOUT = "runlease sink: up to where this run was sent. Delete it to send all of it again."


class BrokenState(Exception):
    """A state file cannot be read."""


class InUse(Exception):
    """Another process feeds this run to this target."""


@dataclass
class State:
    """Where a sink is with a run."""

    #: Position of the log up to which everything was sent; empty: nothing was.
    cursor: str = ""
    #: Within a read of many pages, the token of the next one.
    page: str = ""
    #: When the run was created, by the store's clock: a later run of the same name is another one.
    created_s: float = 0.0
    #: Starts of segments that the target knows of, see `feed.Start`.
    segments: list[str] = field(default_factory=list)
    #: The `attempt state` whose end the target was told.
    ended: str = ""
    #: What the target wants to find again.
    memo: dict[str, Any] = field(default_factory=dict)


class StateFile:
    """The state of one run and target; a lock keeps a second sink away."""

    def __init__(self, folder: Path, sink: str, identity: str, project: str, name: str) -> None:
        """Name the file ``FOLDER/SINK/<hash of the target>/PROJECT/NAME.json``; nothing is made yet."""
        target = hashlib.sha256(identity.encode()).hexdigest()[:12]
        self.path = folder / sink / target / project / f"{name}.json"
        self._about = {"about": _ABOUT, "target": identity}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the file.

        Raises:
            InUse: another process does.
            OSError: the folder cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("ab") as lock:
            if fcntl is not None:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise InUse(f"another sink feeds this run to the same place ({self.path})") from None
            yield

    def load(self) -> State:
        """Return the state, a new one where there is none.

        Raises:
            BrokenState: it is none of this version's.
            OSError: it cannot be read.
        """
        try:
            content = json.loads(self.path.read_bytes())
            return State(**{name: value for name, value in content.items() if name not in self._about})
        except FileNotFoundError:
            return State()
        except (ValueError, TypeError, AttributeError) as error:
            raise BrokenState(
                f"{self.path} is no state of a sink ({error}): delete it to send the run again from its start"
            ) from None

    def save(self, state: State) -> None:
        """Replace the file, for good.

        Raises:
            OSError: it cannot be written.
        """
        number, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with open(number, "w") as stream:
                json.dump(self._about | asdict(state), stream, indent=1)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(name, self.path)
        except BaseException:  # an interrupt, too, leaves nothing half-made
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
