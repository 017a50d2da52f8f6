"""Secrets in every input of real processes, through faults and refusals: none is in what others can read afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runlease.ids import canonical_id
from runlease_coordinator.domain.tickets import Tickets
from runlease_coordinator.store.server_binary import find_server

from tests.support.cli import RUNLEASE
from tests.support.coordinator import CoordinatorProcess
from tests.support.puppet import Puppet
from tests.support.redis import RedisServer, free_port

#: Each stands for a secret of its own, so that a failure tells which one leaked; some need quoting in a URL.
STORE, SENTINEL, ARCHIVE = "Canary-store-Q7", "Canary-sentinel-Q7", "Canary-archive-Q7"
TOKEN, PROXY, TRACKER = "Canary-token-Q7", "Canary-proxy-Q7", "Canary-tracker-Q7"
CANARY = b"Canary-"


class GuardedCoordinator(CoordinatorProcess):
    """A coordinator and clients whose environment is full of secrets."""

    def __init__(self, store: str) -> None:
        super().__init__("--log-level", "debug", "--log-format", "json", "--archive-bytes", "1", "--archive-after", "0")
        self.store = store

    @property
    def env(self) -> dict[str, str]:
        return super().env | {
            "RUNLEASE_STORE": self.store,
            "RUNLEASE_HISTORY_URL": f"memory://key:{ARCHIVE}@bucket/runs",
            "RUNLEASE_TOKEN": TOKEN,
            "https_proxy": f"http://ada:{PROXY}@127.0.0.1:9",
            "http_proxy": f"http://ada:{PROXY}@127.0.0.1:9",
            "NO_PROXY": "",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "MLFLOW_TRACKING_URI": f"http://ada:{TRACKER}@127.0.0.1:{free_port()}",
        }


@pytest.fixture
def store() -> Iterator[RedisServer]:
    options = ("appendonly yes", "appendfsync always", f"requirepass {STORE}")
    server = RedisServer(*options, binary=str(find_server().path))
    yield server
    server.close()


@pytest.fixture
def guarded(store: RedisServer) -> Iterator[GuardedCoordinator]:
    coordinator = GuardedCoordinator(store.url.replace("unix://", f"unix://:{STORE}@"))
    yield coordinator
    coordinator.close()


class Heard:
    """Everything that processes said, and that lies in files."""

    def __init__(self, env: Callable[[], dict[str, str]]) -> None:
        self._env = env
        self.said: list[tuple[str, bytes]] = []

    def __call__(self, *args: str, status: int | None = 0, **env: str) -> bytes:
        """Run a command of the CLI."""
        done = subprocess.run([*RUNLEASE, *args], env=self._env() | env, capture_output=True, timeout=60, check=False)
        self.said.append((f"runlease {args[0]}", done.stdout + done.stderr))
        assert status is None or done.returncode == status, done.stderr
        return done.stdout + done.stderr

    def files(self, *folders: Path) -> None:
        """Take in all files below the folders."""
        for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
            self.said.append((str(path), path.read_bytes()))

    def command_lines(self, parent: int) -> None:
        """Take in what `ps` shows of a process and of all below it."""
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        self.said.append((f"ps {parent}", Path(f"/proc/{parent}/cmdline").read_bytes()))
        for child in children:
            self.command_lines(int(child))

    def leaks(self, *secrets: bytes) -> list[str]:
        """Return where a secret was found."""
        return [
            f"{where}: {text[max(0, text.find(secret) - 60) : text.find(secret) + 40]!r}"
            for where, text in self.said
            for secret in secrets
            if secret in text
        ]


def test_secrets_stay_where_they_were_put(
    guarded: GuardedCoordinator, store: RedisServer, start_puppet: Callable[..., Puppet], tmp_path: Path
) -> None:
    heard = Heard(lambda: guarded.env)
    heard("bootstrap", guarded.store)
    guarded.start()
    assert guarded.process is not None
    heard.command_lines(guarded.process.pid)
    # Given a training of two ranks: a holder, and a member with a rank ticket,
    holder, member = start_puppet(guarded, RUNLEASE_SPOOL="always"), start_puppet(guarded, RUNLEASE_SPOOL="always")
    facts = holder.call("init", project="p", id="r", resume="allow", group="g", holder=True, config={"lr": 1})
    member.call("init", project="p", id="r", resume="allow", group="g", holder=False, writer="rank1")
    for one in (holder, member):
        one.call("train", start=0, stop=50)
        assert one.call("flush")
    holder.call("commit", step=49)
    # when its store goes away and comes back, the coordinator too, and everybody is asked for everything,
    heard("doctor", "--coordinator", guarded.address, status=None)
    store.kill()
    heard("ls", status=5)
    heard("doctor", status=5)
    store.start()
    heard("doctor", status=None)
    guarded.kill()
    guarded.start()
    holder.call("train", start=50, stop=60)
    assert holder.call("flush")
    for command in ("ls", "show p/r", "events p/r", "history p/r", "limits show p", "doctor", "version"):
        heard(*command.split(), "-o", "json", status=None)
    heard("export", "p/r", "--to", str(tmp_path / "points.jsonl"), "--format", "jsonl", status=None)
    heard("sink", "mlflow", "p/r", "--once", "--state", str(tmp_path / "sinks"), status=None)
    heard("serve", "--listen", "nonsense", status=2)
    heard("sync", "--dry-run")
    for puppet in (holder, member):
        puppet.kill()
        heard.said.append(("stderr of a trainer", puppet.stderr.encode()))
    heard("sync", "--dry-run", "-o", "json")
    # then the secrets are in the store and the environments, and nowhere else.
    secret = store_secret(store)
    ticket = Tickets(secret).issue("p", canonical_id("r"), facts["fence"]).encode()
    heard.files(guarded.directory, tmp_path)
    assert len(heard.said) > 25
    assert heard.leaks(CANARY, secret, ticket) == []


def store_secret(store: RedisServer) -> bytes:
    import redis

    with redis.Redis(unix_socket_path=str(store.socket), password=STORE) as link:
        found = link.hget("rl:{00}:meta", "secret")
    assert isinstance(found, bytes)
    return found


#: The first ones are refused as they are; with the others the store is looked for, which takes seconds.
UNREADABLE = (
    f"redis://:{STORE}@127.0.0.1:1?socket_timeout=soon",
    f"redis://:{STORE}@127.0.0.1:99999999",
    f"redis://:{STORE}@127.0.0.1:1/{STORE}@x",
    f"redis+sentinel://ada:{STORE}@127.0.0.1:1?sentinel_password={SENTINEL}",
    f"redis+sentinel://ada:{STORE}@127.0.0.1:1/runs?sentinel_secret={SENTINEL}",
    f"redis+cluster://ada:{STORE}@127.0.0.1:1?sentinel_password={SENTINEL}",
    f"nonsense://:{STORE}@127.0.0.1:1",
    f"ada:{STORE}@127.0.0.1:1",
)
AWAY = (
    f"redis://ada:{STORE}@127.0.0.1:{{port}}",
    f"redis://:{STORE}/@:?x@127.0.0.1:{{port}}",
    f"redis://127.0.0.1:{{port}}/0?password={STORE}@x",
    f"rediss+sentinel://ada:{STORE}@127.0.0.1:{{port}}/runs?sentinel_password={SENTINEL}",
    f"redis+cluster://ada:{STORE}@127.0.0.1:{{port}},127.0.0.1:{{port}}",
)


def all_said(commands: str, env: dict[str, str]) -> bytes:
    """Return what commands of the CLI say in one process, where warnings and tracebacks come along."""
    code = (
        "import shlex, sys\n"
        "from runlease.cli import program\n"
        "for words in map(shlex.split, sys.argv[1].split(';')):\n"
        "    try:\n"
        "        program(words, prog_name='runlease')\n"
        "    except SystemExit as ended:\n"
        "        print('ended', ended.code)\n"
    )
    command = [sys.executable, "-X", "dev", "-W", "default", "-c", code, commands]
    done = subprocess.run(command, env=os.environ | env, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"ended") == commands.count(";") + 1
    assert b"Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("url", UNREADABLE)
def test_a_store_s_url_that_is_refused_is_not_shown_whole(url: str) -> None:
    said = all_said("serve --log-level debug;bootstrap;doctor;doctor -o json", {"RUNLEASE_STORE": url})
    assert CANARY not in said, said


@pytest.mark.parametrize("url", AWAY)
def test_a_store_s_url_that_leads_nowhere_is_not_shown_whole(url: str) -> None:
    said = all_said("serve --log-level debug;doctor", {"RUNLEASE_STORE": url.format(port=free_port())})
    assert CANARY not in said, said


@pytest.mark.parametrize("scheme", ["s3", "sftp", "http", "nonsense", "abfs"])
def test_an_archive_s_url_is_never_shown_whole(scheme: str, tmp_path: Path) -> None:
    env = os.environ | {
        "RUNLEASE_HISTORY_URL": f"{scheme}://key:{ARCHIVE}@127.0.0.1:{free_port()}/runs?secret={ARCHIVE}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "RUNLEASE_LOG_LEVEL": "debug",
    }
    flags = ("--data-dir", str(tmp_path / "data"), "--listen", f"unix:{tmp_path}/s")
    process = subprocess.Popen([*RUNLEASE, "serve", *flags], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # it serves while its archive is away, or ends because it is refused
    process.terminate()
    said = b"".join(process.communicate(timeout=30))
    assert CANARY not in said, said
    assert process.returncode in (0, 2)


def test_a_tracker_s_uri_is_never_shown_whole(coordinator: CoordinatorProcess, project: str, tmp_path: Path) -> None:
    heard = Heard(lambda: coordinator.env | {"RUNLEASE_TOKEN": TOKEN})
    code = f"import runlease\nwith runlease.init(project={project!r}, id='r') as run: run.log({{'loss': 1.0}})"
    subprocess.run([sys.executable, "-c", code], env=coordinator.env, check=True, capture_output=True, timeout=60)
    for uri in (
        f"http://ada:{TRACKER}/@x@127.0.0.1:{free_port()}",
        f"postgresql://ada:{TRACKER}@127.0.0.1:{free_port()}/mlflow",
        f"nonsense://ada:{TRACKER}@host",
    ):
        flags = ("--tracking-uri", uri, "--once", "--state", str(tmp_path))
        heard("sink", "mlflow", f"{project}/r", *flags, status=1, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    heard.files(tmp_path)
    assert heard.leaks(CANARY) == []
