"""What messages show of URLs that hold passwords."""

from __future__ import annotations

import pytest
from runlease.grants import Grant
from runlease.redaction import redact_url, without_secrets
from runlease.settings import read_environment


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://ada:pw@host:6379", "redis://ada:***@host:6379"),
        ("redis://:pw@host", "redis://:***@host"),
        ("redis://pw@host", "redis://***@host"),
        ("redis://:p@s/s@host", "redis://:***@host"),
        ("ada:pw@host", "***@host"),
        ("unix:///run/r.sock?db=1&password=pw", "unix:///run/r.sock?db=1&password=***"),
        ("rediss://host?ssl_password=pw&db=1", "rediss://host?ssl_password=***&db=1"),
        ("redis+sentinel://ada:pw@a,b:1/runs", "redis+sentinel://ada:***@a,b:1/runs"),
        ("redis+sentinel://a/runs?sentinel_password=pw", "redis+sentinel://a/runs?sentinel_password=***"),
        ("rediss+cluster://:pw@a,b", "rediss+cluster://:***@a,b"),
        ("redis://host/0?password=p@w", "redis://***"),
        ("s3://key:pw@bucket/runs", "s3://key:***@bucket/runs"),
        ("https://host/runs?api_key=pw", "https://host/runs?api_key=***"),
        ("embedded", "embedded"),
    ],
)
def test_redact_url(url: str, shown: str) -> None:
    assert redact_url(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "redis://ada:hidden@host:6379",
        "redis+sentinel://ada:hidden@a:1,b:2/runs?sentinel_password=covered",
        "postgresql://ada:hid%64en@db/mlflow?password=covered",
        "s3://:hidden@bucket",
        "sftp://hidden@host/runs",
    ],
)
def test_what_others_say_of_a_url_is_cleaned(url: str) -> None:
    said = f"cannot open {url}: user ada, password 'hidden', sentinel 'covered'"
    cleaned = without_secrets(said, url)
    assert "hidden" not in cleaned
    assert "hid%64en" not in cleaned
    assert ("covered" in cleaned) == ("covered" not in url)  # what is no secret of this URL stays
    assert cleaned.startswith("cannot open ")


def test_a_url_without_secrets_changes_nothing() -> None:
    assert without_secrets("no such host: db", "redis://db:6379/0") == "no such host: db"


def test_reprs_hold_no_secret() -> None:
    assert "hidden" not in repr(read_environment({"RUNLEASE_TOKEN": "hidden"}))
    grant = Grant(1, 1, 30.0, 30.0, False, "", 0, 0, None, (), None, rank_ticket="hidden")
    assert "hidden" not in repr(grant)
