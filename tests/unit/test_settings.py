"""Settings: precedence, every refusal with its remedy, and no password in any message."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from runlease.redaction import redact_url
from runlease_coordinator.settings import (
    MAX_SOCKET_PATH_BYTES,
    Settings,
    StartupError,
    default_data_dir,
    settings_from_env,
)

HERE = Path("/srv/runlease")


def test_defaults() -> None:
    got = settings_from_env({"HOME": "/home/ada"})
    assert got == Settings(data_dir=Path("/home/ada/.local/share/runlease"))
    assert (got.listen, got.store, got.max_ttl_s, got.lock_delay_s) == (
        "127.0.0.1:7373",
        "embedded",
        60.0,
        5.0,
    )


def test_where_histories_are_archived() -> None:
    embedded = Settings(data_dir=HERE)
    assert embedded.archive_url == "/srv/runlease/history"
    external = Settings(data_dir=HERE, store="redis://db:6379")
    assert external.archive_url is None
    environ = {
        "RUNLEASE_HISTORY_URL": "s3://key:hidden@bucket/runs",
        "RUNLEASE_ARCHIVE_BYTES": "1000",
        "RUNLEASE_ARCHIVE_AFTER": "2.5",
        "RUNLEASE_RETENTION": "90",
    }
    for store in ("embedded", "redis://db:6379"):
        got = settings_from_env(environ, store=store)
        assert got.archive_url == "s3://key:hidden@bucket/runs"
        assert (got.archive_bytes, got.archive_after_s, got.retention_days) == (1000, 2.5, 90.0)
        assert "hidden" not in repr(got)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"archive_bytes": 0}, "--archive-bytes is 0"),
        ({"archive_after_s": -1.0}, "--archive-after is -1 s"),
        ({"archive_after_s": float("nan")}, "--archive-after is nan s"),
        ({"retention_days": 0.0}, "--retention is 0 days"),
        ({"retention_days": float("inf")}, "--retention is inf days"),
        ({"retention_days": float("nan")}, "--retention is nan days"),
    ],
)
def test_an_archive_that_cannot_be_is_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(StartupError, match=named):
        Settings(data_dir=HERE, **wrong)


def test_flags_win_over_variables_and_variables_over_defaults() -> None:
    environ = {
        "RUNLEASE_LISTEN": "[::1]:9000",
        "RUNLEASE_STORE": "redis://db:6379/3",
        "RUNLEASE_DATA_DIR": "/data/rl",
        "RUNLEASE_MAX_TTL": "120",
        "RUNLEASE_LOCK_DELAY": "2.5",
        "RUNLEASE_SERVER_BINARY": "redis-server",
        "RUNLEASE_DATA_NODES": "3",
        "RUNLEASE_LOG_LEVEL": "DEBUG",
        "RUNLEASE_LOG_FORMAT": "json",
    }
    assert settings_from_env(environ) == Settings(
        listen="[::1]:9000",
        store="redis://db:6379/3",
        data_dir=Path("/data/rl"),
        max_ttl_s=120.0,
        lock_delay_s=2.5,
        server_binary="redis-server",
        data_nodes=3,
        log_level="debug",
        log_format="json",
    )
    got = settings_from_env(environ, listen="unix:/run/rl.sock", max_ttl_s=30, data_dir="/other", store=None)
    assert (got.listen, got.max_ttl_s, got.data_dir) == ("unix:/run/rl.sock", 30, Path("/other"))
    assert got.store == "redis://db:6379/3"  # None means that the flag was not given


def test_empty_variables_count_as_unset() -> None:
    names = ("LISTEN", "STORE", "DATA_DIR", "MAX_TTL", "DATA_NODES", "LOG_FORMAT")
    environ = {f"RUNLEASE_{name}": "" for name in names}
    assert settings_from_env({**environ, "HOME": "/h"}) == settings_from_env({"HOME": "/h"})


def test_unknown_override_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match="no such setting: max_ttl"):
        settings_from_env({}, max_ttl=3)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"RUNLEASE_DATA_DIR": "/d", "XDG_DATA_HOME": "/x", "HOME": "/h"}, "/d"),
        ({"XDG_DATA_HOME": "/x", "HOME": "/h"}, "/x/runlease"),
        ({"XDG_DATA_HOME": "relative", "HOME": "/h"}, "/h/.local/share/runlease"),
        ({"HOME": "/h"}, "/h/.local/share/runlease"),
        ({}, str(Path.home() / ".local/share/runlease")),
    ],
)
def test_default_data_dir(environ: dict[str, str], expected: str) -> None:
    assert default_data_dir(environ) == Path(expected)


@pytest.mark.parametrize(
    "values",
    [
        {"listen": "localhost:0"},
        {"listen": "0.0.0.0:65535"},
        {"listen": "[::]:7373"},
        {"listen": "unix:/run/rl.sock"},
        {"listen": "unix:///run/rl.sock"},
        {"store": "redis://localhost"},
        {"store": "redis://user:secret@host:6380/5"},
        {"store": "rediss://host?ssl_cert_reqs=none&db=2"},
        {"store": "unix:///run/redis.sock?db=1"},
        {"store": "redis://host", "data_nodes": 3},
        {"store": "redis+sentinel://user:secret@a:26379,b,[::1]:26380/runs/2?sentinel_password=other"},
        {"store": "rediss+sentinel://a/runs?ssl_ca_certs=ca.pem&db=1"},
        {"store": "redis+cluster://a:7000,b:7001"},
        {"store": "rediss+cluster://user:secret@a/0"},
        {"max_ttl_s": 5, "lock_delay_s": 5},
        {"max_ttl_s": 3600, "lock_delay_s": 0},
        {"drain_s": 0},
    ],
)
def test_accepted(values: dict[str, Any]) -> None:
    got = Settings(data_dir=HERE, **values)
    assert {name: getattr(got, name) for name in values} == values


LONG = "/" + "x" * MAX_SOCKET_PATH_BYTES


@pytest.mark.parametrize(
    ("values", "problem", "remedy"),
    [
        ({"listen": ""}, "no HOST:PORT", "--listen 127.0.0.1:7373"),
        ({"listen": "localhost"}, "no HOST:PORT", "--listen 127.0.0.1:7373"),
        ({"listen": ":7373"}, "no HOST:PORT", "--listen 127.0.0.1:7373"),
        ({"listen": "::1:7373"}, "IPv6 address in brackets", "[::1]:7373"),
        ({"listen": "localhost:"}, "the port '' is no number", "0 to 65535"),
        ({"listen": "localhost:http"}, "the port 'http' is no number", "0 to 65535"),
        ({"listen": "localhost:65536"}, "the port '65536'", "0 to 65535"),
        ({"listen": "localhost:-1"}, "the port '-1'", "0 to 65535"),
        ({"listen": "localhost:²"}, "the port '²'", "0 to 65535"),
        ({"listen": "unix:rl.sock"}, "absolute path", "unix:/run/runlease.sock"),
        ({"listen": f"unix:{LONG}"}, f"has {len(LONG)} bytes", "give a shorter one"),
        ({"store": ""}, "no store that is known", "--store embedded"),
        ({"store": "localhost:6379"}, "no store that is known", "redis://HOST:PORT"),
        ({"store": "postgres://host"}, "no store that is known", "redis://HOST:PORT"),
        ({"store": "redis://"}, "the host is missing", "give redis://HOST:PORT"),
        ({"store": "rediss:///0"}, "the host is missing", "give rediss://HOST:PORT"),
        ({"store": "redis://host:port"}, "cannot be read", "redis://HOST:PORT"),
        ({"store": "redis://host:99999"}, "cannot be read", "redis://HOST:PORT"),
        ({"store": "redis://[::1"}, "cannot be read", "redis://HOST:PORT"),
        ({"store": "redis://:a@b#c@host"}, "no part after '#'", "write it as %23"),
        ({"store": "redis://host:0"}, "port 0", "give redis://HOST:PORT"),
        ({"store": "redis://host/main"}, "the database 'main' is no number", "/0"),
        ({"store": "redis://host?db=x"}, "the database 'x' is no number", "/0"),
        ({"store": "unix://redis.sock"}, "absolute path", "unix:/run/runlease.sock"),
        ({"store": f"unix://{LONG}"}, f"has {len(LONG)} bytes", "give a shorter one"),
        ({"store": "redis+sentinel://a,b"}, "the service is missing", "give redis+sentinel://HOST:PORT"),
        ({"store": "rediss+sentinel://a,b/"}, "the service is missing", "give rediss+sentinel://HOST:PORT"),
        ({"store": "redis+sentinel:///runs"}, "a host or port cannot be read", "HOST:PORT"),
        ({"store": "redis+sentinel://a,,b/runs"}, "a host or port cannot be read", "HOST:PORT"),
        ({"store": "redis+sentinel://a:0,b/runs"}, "a host or port cannot be read", "HOST:PORT"),
        ({"store": "redis+cluster://a:99999"}, "a host or port cannot be read", "HOST:PORT"),
        ({"store": "redis+sentinel://a/runs/main"}, "the database 'main' is no number", "/0"),
        (
            {"store": "redis+sentinel://a/runs?sentinel_pass=x"},
            "the options",
            "sentinel_username and sentinel_password only",
        ),
        ({"store": "redis+cluster://a?sentinel_password=x"}, "no Sentinels", "leave the options sentinel_... out"),
        ({"store": "redis+cluster://a/1"}, "a cluster has the database 0 only", "leave it out"),
        ({"store": "redis+cluster://a?db=1"}, "a cluster has the database 0 only", "leave it out"),
        ({"store": "redis+cluster://a#b"}, "no part after '#'", "write it as %23"),
        ({"store": "redis+replicas://a"}, "no store that is known", "redis+cluster://HOST:PORT"),
        ({"max_ttl_s": 4.9}, "--max-ttl is 4.9 s", "5 to 3600 seconds"),
        ({"max_ttl_s": 3601}, "--max-ttl is 3601 s", "5 to 3600 seconds"),
        ({"max_ttl_s": float("nan")}, "--max-ttl is nan s", "5 to 3600 seconds"),
        ({"lock_delay_s": -1}, "--lock-delay is -1 s", "0 or more"),
        ({"lock_delay_s": float("nan")}, "--lock-delay is nan s", "0 or more"),
        ({"lock_delay_s": 61}, "more than --max-ttl 60 s", "lower the one or raise the other"),
        ({"drain_s": -0.1}, "drain time is -0.1 s", "0 or more"),
        ({"drain_s": float("inf")}, "drain time is inf s", "0 or more"),
        ({"read_bytes": 1000}, "--read-bytes is 1000", "1048576 (1 MiB) or more"),
        ({"data_nodes": 0, "store": "redis://h"}, "--data-nodes is 0", "at least 1"),
        ({"data_nodes": 3}, "the embedded store is one node", "leave --data-nodes out"),
        ({"log_level": "loud"}, "--log-level is 'loud'", "debug, info, warning, error"),
        ({"log_format": "xml"}, "--log-format is 'xml'", "text, json"),
    ],
)
def test_refused_with_a_remedy(values: dict[str, Any], problem: str, remedy: str) -> None:
    with pytest.raises(StartupError) as caught:
        Settings(data_dir=HERE, **values)
    assert problem in str(caught.value)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "text", "problem"),
    [
        ("RUNLEASE_MAX_TTL", "a minute", "RUNLEASE_MAX_TTL='a minute' is no number"),
        ("RUNLEASE_LOCK_DELAY", "5s", "RUNLEASE_LOCK_DELAY='5s' is no number"),
        ("RUNLEASE_DATA_NODES", "1.5", "RUNLEASE_DATA_NODES='1.5' is no whole number"),
    ],
)
def test_unreadable_numbers_name_their_variable(variable: str, text: str, problem: str) -> None:
    with pytest.raises(StartupError) as caught:
        settings_from_env({variable: text})
    assert problem in str(caught.value)
    assert f"as in {variable}=3" in str(caught.value)


def refusal(store: str) -> str:
    """Return all that a log would show, causes included; "" for a valid URL, as with `@x?` in a password."""
    try:
        Settings(data_dir=HERE, store=store)
    except StartupError as error:
        return "".join(traceback.format_exception(error))
    return ""


@given(st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), max_size=12))
@example("a/b@c")
@example("@0/")
@example("://@")
@example("%zz[")
def test_a_password_never_shows(noise: str) -> None:
    # Given a password that needs quoting and was not quoted, when anything is printed, then not the password.
    password = f"hunter2{noise}hunter2"
    for url in (
        f"redis://ada:{password}@host:bad",
        f"nonsense://:{password}@host",
        f"ada:{password}@host",
        f"redis+sentinel://ada:{password}@host:bad,other/runs",
        f"rediss+sentinel://ada:{password}@host/",
        f"redis+cluster://:{password}@host,other:bad",
    ):
        assert "hunter2" not in redact_url(url)
        assert "hunter2" not in refusal(url)
    assert "StartupError" in refusal("redis://:hunter2@host:bad")
    assert "hunter2" not in repr(Settings(data_dir=HERE, store="redis://:hunter2@host"))
