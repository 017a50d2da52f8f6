"""A file that appears when it is whole."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


class TargetExists(Exception):
    """A file of this name is there, and must not be replaced."""


def refuse_existing(path: Path, replace: bool) -> None:
    """Raise `TargetExists` where a file is there that must not be replaced."""
    if not replace and os.path.lexists(path):
        raise TargetExists(f"{path} exists: name another file, or replace it with --force")


@contextlib.contextmanager
def new_file(path: Path, *, replace: bool) -> Iterator[BinaryIO]:
    """Open a file beside ``path`` that gets its name once the block is through; after an error nothing is left.

    Raises:
        TargetExists: there is such a file, at the start or at the end, and ``replace`` is false.
        OSError: it cannot be written.
    """
    refuse_existing(path, replace)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with open(number, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o666 & ~_umask())  # mkstemp's files are for their owner only
        refuse_existing(path, replace)
        os.replace(name, path)
    except BaseException:  # an interrupt, too, leaves nothing half-made
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
