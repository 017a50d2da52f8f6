"""Where the archive's objects lie: a local directory, or whatever fsspec reaches.

Objects appear whole or not at all. Locally a temporary file is synced, then renamed, then its directory is synced;
object stores put atomically. All calls block and belong into a worker thread.
"""

from __future__ import annotations

import contextlib
import os
import re
from glob import escape
from io import BytesIO
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from runlease.redaction import redact_url, without_secrets

from runlease_coordinator.settings import StartupError

if TYPE_CHECKING:
    import pyarrow as pa

#: What `pip install` needs for the URLs that people use most.
_DRIVERS = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
    "sftp": "paramiko",
    "ssh": "paramiko",
}


class ArchiveError(Exception):
    """The archive does not answer, or refuses; the message names the URL, without credentials.

    ``refused``: it will not do by waiting: no permission, no such bucket, no space.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        """Hold whether it is worth another try."""
        super().__init__(message)
        self.refused = refused


class MissingObject(ArchiveError):
    """There is no such object."""


class Objects(Protocol):
    """A folder of objects; paths are relative, with slashes."""

    @property
    def url(self) -> str:
        """Where it is, fit for messages."""

    def put(self, path: str, content: memoryview) -> None:
        """Write an object, atomically and durably; one of this name is replaced."""

    def open(self, path: str) -> Any:
        """Return what pyarrow reads an object from: a file, to be closed."""

    def remove(self, path: str) -> None:
        """Remove an object; one that is not there is no error."""


def probe(objects: Objects) -> None:
    """Write an object and remove it.

    Raises:
        ArchiveError: that cannot be done.
    """
    path = f".probe-{token_hex(8)}"
    objects.put(path, memoryview(b"runlease"))
    objects.remove(path)


def open_objects(url: str) -> Objects:
    """Return the folder that a URL or a path names.

    Raises:
        StartupError: its driver is not installed, or the URL cannot be read; the message holds the remedy.
    """
    scheme = url.partition("://")[0] if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", url) else ""
    if scheme.lower() in ("", "file"):
        return LocalObjects(Path(unquote(urlsplit(url).path) if scheme else url).expanduser().absolute())
    return RemoteObjects(url)


class LocalObjects:
    """Objects as files below a directory."""

    def __init__(self, root: Path) -> None:
        """Take the directory; `put` makes what is missing."""
        self._root = root

    @property
    def url(self) -> str:
        """The directory."""
        return str(self._root)

    def put(self, path: str, content: memoryview) -> None:
        """Write an object, atomically and durably."""
        target = self._root / path
        temporary = target.with_name(f".{target.name}.{token_hex(4)}.tmp")
        with self._errors(path):
            _make_durable_directory(target.parent)
            try:
                with temporary.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(target)
            except BaseException:  # an interrupt, too, leaves nothing half-made
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
            _sync_directory(target.parent)

    def open(self, path: str) -> pa.OSFile:
        """Return an open file of pyarrow's, which reads without the interpreter's lock."""
        import pyarrow as pa

        with self._errors(path):
            return pa.OSFile(str(self._root / path), "rb")

    def remove(self, path: str) -> None:
        """Remove an object, and directories that are empty then."""
        with self._errors(path):
            target = self._root / path
            target.unlink(missing_ok=True)
            for torn in target.parent.glob(f".{escape(target.name)}.*.tmp"):  # its writer was killed
                torn.unlink(missing_ok=True)
            for parent in target.relative_to(self._root).parents:
                if parent == Path():
                    return
                try:
                    (self._root / parent).rmdir()
                except OSError:  # not empty
                    return

    @contextlib.contextmanager
    def _errors(self, path: str) -> Any:
        try:
            yield
        except FileNotFoundError as error:
            raise MissingObject(f"{self._root / path} is missing", refused=True) from error
        except OSError as error:
            raise ArchiveError(f"{self._root / path}: {error.strerror or error}", refused=True) from error


class RemoteObjects:
    """Objects below a URL of fsspec; the driver takes its settings from its own environment (AWS_*, ...)."""

    def __init__(self, url: str) -> None:
        """Load the driver; nothing is sent yet.

        Raises:
            StartupError: it is missing, or the URL cannot be read.
        """
        import fsspec

        self.url = redact_url(url)
        self._given = url
        scheme = url.partition("://")[0].lower()
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            driver = _DRIVERS.get(scheme, f"the fsspec driver of {scheme}://")
            raise StartupError(
                f"--history-url {self.url} needs a driver that is not installed: pip install {driver}"
            ) from error
        except Exception as error:
            # Its text may quote the URL's credentials, so it is neither shown whole nor chained.
            raise StartupError(
                f"--history-url {self.url} cannot be used: {self._clean(error)}; give a path, file://, s3:// or gs://"
            ) from None

    def put(self, path: str, content: memoryview) -> None:
        """Write an object; object stores do that atomically."""
        with self._errors(path):
            # Listings and existence are never asked for, so the driver's caches do not matter.
            self._files.pipe_file(f"{self._root}/{path}", bytes(content))

    def open(self, path: str) -> BinaryIO:
        """Fetch an object whole: a part is about 10 MB, and one request is faster than one a column chunk."""
        with self._errors(path):
            return BytesIO(self._files.cat_file(f"{self._root}/{path}"))

    def remove(self, path: str) -> None:
        """Remove an object."""
        with contextlib.suppress(MissingObject), self._errors(path):
            self._files.rm_file(f"{self._root}/{path}")

    @contextlib.contextmanager
    def _errors(self, path: str) -> Any:
        try:
            yield
        except FileNotFoundError:
            raise MissingObject(f"{self.url}/{path} is missing", refused=True) from None
        except Exception as error:
            # Drivers raise what their libraries raise (botocore, aiohttp, ...), with URLs and credentials in it.
            refused = isinstance(error, PermissionError)
            raise ArchiveError(f"{self.url}/{path}: {self._clean(error)}", refused=refused) from None

    def _clean(self, error: Exception) -> str:
        return without_secrets(f"{type(error).__name__}: {error}", self._given)


def _make_durable_directory(directory: Path) -> None:
    if directory.is_dir():
        return
    _make_durable_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
