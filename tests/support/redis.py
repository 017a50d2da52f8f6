"""An external Redis or Valkey of a test's own, on a Unix socket and, if asked, on a loopback port or with TLS."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import redis

from tests.support.clock import WallClock
from tests.support.lacking import lacking
from tests.support.wait import until


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate of localhost; returns the paths of certificate and key."""
    shutil.which("openssl") or lacking("openssl")
    certificate, key = directory / "cert.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


class RedisServer:
    """One server process; `options` are lines of its configuration, `flags` follow it on the command line."""

    def __init__(
        self,
        *options: str,
        binary: str,
        port: int = 0,
        flags: tuple[str, ...] = (),
        clock: WallClock | None = None,
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="rlr-", dir="/tmp"))
        self.socket = self.directory / "s"
        self.port = port
        # A file: Sentinels and those that they promote write down there what a restart must not forget.
        configuration = self.directory / "server.conf"
        # With a certificate among the options, the port takes TLS only.
        takes_tls = any(one.startswith("tls-cert-file") for one in options)
        ports = f"port 0\ntls-port {port}" if takes_tls else f"port {port}"
        own = ("bind 127.0.0.1 -::1", ports, f"unixsocket {self.socket}", f"dir {self.directory}", 'save ""')
        configuration.write_text("\n".join((*own, *options)) + "\n")
        self._command = [binary, str(configuration), *flags]
        self._environment = os.environ | (clock.environment if clock else {})
        self.start()

    def start(self) -> None:
        """Start it; again after `kill`, with the data that its configuration kept."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, env=self._environment)
        self.frozen = False
        until(self._answers, timeout_s=20)

    def kill(self) -> None:
        """SIGKILL it, frozen or not."""
        self.process.kill()
        self.process.wait()
        self.frozen = False

    def freeze(self) -> None:
        """SIGSTOP: what is sent to it waits in its sockets, and is taken in once it is thawed."""
        self.process.send_signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)
        self.frozen = False

    @property
    def answers(self) -> bool:
        """Whether it is neither dead nor frozen."""
        return self.process.poll() is None and not self.frozen

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(self, *words: str | int) -> Any:
        """Send one command; returns its answer, decoded."""
        with redis.Redis(unix_socket_path=str(self.socket), decode_responses=True, socket_timeout=10) as link:
            return link.execute_command(*words)

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def command(self, *words: str) -> bytes:
        """Send one command and return the raw reply."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(5)
            link.connect(str(self.socket))
            link.sendall((" ".join(words) + "\r\n").encode())
            return link.recv(65536)

    def _answers(self) -> bool:
        assert self.process.poll() is None, "the server ended at once"
        try:
            return self.command("PING").startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class Snapshot:
    """A server's append-only file as it is now; `restore` kills the server and starts it on that again."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._copy = server.directory / "copy"
        shutil.copytree(server.directory / "appendonlydir", self._copy)

    def restore(self) -> None:
        self._server.kill()
        shutil.rmtree(self._server.directory / "appendonlydir")
        shutil.move(self._copy, self._server.directory / "appendonlydir")
        self._server.start()
