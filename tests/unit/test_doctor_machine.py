"""The doctor's checks of a trainer's machine."""

from __future__ import annotations

import errno
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from runlease.doctor import machine
from runlease.doctor.finding import Finding
from runlease.doctor.machine import check_machine, file_system
from runlease.settings import read_environment
from runlease.spool.files import SpoolFiles

from tests.support.spools import a_row, header, points_entry, write_entries


def found(tmp_path: Path, **environ: str) -> dict[str, Finding]:
    environ = {"RUNLEASE_DIR": str(tmp_path / "runs"), "GRPC_ENABLE_FORK_SUPPORT": "0"} | environ
    return {each.name: each for each in check_machine(read_environment(environ), environ)}


def test_a_machine_as_it_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "file_system", lambda path: "ext4")
    checks = found(tmp_path)
    assert {name: each.verdict for name, each in checks.items()} == dict.fromkeys(
        ("versions", "fork", "proxy", "clock", "directory", "spools"), "ok"
    )
    assert {each.where for each in checks.values()} == {"this machine"}
    assert not any(tmp_path.iterdir())  # looking leaves nothing behind


def test_old_dependencies_are_named_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"grpcio": "1.48.2", "protobuf": "3.20.3rc1"}
    monkeypatch.setattr(machine.metadata, "version", versions.__getitem__)
    check = found(tmp_path)["versions"]
    assert check.verdict == "error"
    assert check.remedy == "pip install 'grpcio>=1.49.1'"


def test_fork_support_of_grpc(tmp_path: Path) -> None:
    assert found(tmp_path, GRPC_ENABLE_FORK_SUPPORT="1")["fork"].verdict == "warning"


def test_proxies_are_named_without_what_is_in_them(tmp_path: Path) -> None:
    given = {"https_proxy": "http://ada:hidden@proxy:3128"}
    idle, used = found(tmp_path, **given)["proxy"], found(tmp_path, RUNLEASE_PROXY="1", **given)["proxy"]
    assert (idle.verdict, used.verdict) == ("ok", "ok")
    assert "https_proxy" in idle.seen
    assert "https_proxy" in used.seen
    assert "hidden" not in idle.seen + used.seen
    assert found(tmp_path, RUNLEASE_PROXY="1")["proxy"].verdict == "warning"


def test_a_system_without_a_clock_that_counts_its_sleep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert found(tmp_path)["clock"].verdict == "warning"


def test_a_directory_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**more: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    check = found(tmp_path)["directory"]
    assert check.verdict == "error"
    assert "No space left" in check.seen
    assert "RUNLEASE_DIR" in check.remedy


@pytest.mark.parametrize(
    ("kind", "words"), [("tmpfs", "empties"), ("nfs4", "weaker"), ("fuse.sshfs", "weaker"), ("lustre", "weaker")]
)
def test_a_directory_on_a_disk_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: str
) -> None:
    monkeypatch.setattr(machine, "file_system", lambda path: kind)
    check = found(tmp_path)["directory"]
    assert check.verdict == "warning"
    assert kind in check.seen
    assert words in check.seen


def test_what_was_not_delivered(tmp_path: Path) -> None:
    files = SpoolFiles(tmp_path / "runs", header())
    write_entries(files, points_entry(a_row(0)))
    files.close()
    check = found(tmp_path)["spools"]
    assert (check.verdict, check.seen) == ("warning", "1 session not delivered")
    assert check.remedy == f"run `runlease sync {tmp_path / 'runs'}`"
    (tmp_path / "runs/spool/p/r2/s").mkdir(parents=True)
    (tmp_path / "runs/spool/p/r2/s/session").write_bytes(b"damaged")
    assert "1 cannot be read, 1 not delivered" in found(tmp_path)["spools"].seen


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:25 / /home rw - nfs4 server:/home rw
31 30 0:26 / /home/ada/my\\040disk rw,nosuid shared:9 master:2 - xfs /dev/sdb1 rw
32 22 0:27 / /homes rw - btrfs /dev/sdc1 rw
33 30 0:28 / /home/ada/my\\040disk rw - tmpfs tmpfs rw
not a line of mountinfo
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "ext4"), ("/home", "nfs4"), ("/homes/x", "btrfs"), ("/home/ada/my disk/x", "tmpfs"), ("/homeless", "ext4")],
)
def test_the_file_system_under_a_path(path: str, kind: str) -> None:
    assert file_system(Path(path), lambda: MOUNTS) == kind


def test_a_system_without_mountinfo() -> None:
    def absent() -> str:
        raise FileNotFoundError

    assert file_system(Path("/"), absent) == ""
