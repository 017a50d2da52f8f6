"""What `runlease doctor --store` says, taken apart."""

from __future__ import annotations

import json
from typing import Any

from tests.support.cli import Cli

#: Lines of a configuration with which every check of a single server is ok.
DURABLE = ("appendonly yes", "appendfsync always")
PACKED = ("hash-max-listpack-entries 512", "hash-max-listpack-value 512", "stream-node-max-bytes 1024")


class Report:
    """What one call of the doctor said."""

    def __init__(self, cli: Cli, url: str, *flags: str, status: int = 0) -> None:
        done = cli("doctor", "--store", url, *flags, "-o", "json", status=status)
        found: dict[str, Any] = json.loads(done.stdout)
        self.checks = found["checks"]
        self.promises = {each["fault"]: each["holds"] for each in found["promises"]}
        # Whatever is not as it should be comes with what to do.
        assert [each for each in self.checks if each["verdict"] != "ok" and not each["remedy"]] == []

    def __getitem__(self, name: str) -> tuple[str, str]:
        """Return verdict and words of the only check of a name."""
        (found,) = (each for each in self.checks if each["name"] == name)
        return found["verdict"], found["seen"]

    def remedy(self, name: str) -> str:
        (found,) = (each["remedy"] for each in self.checks if each["name"] == name)
        return str(found)

    def not_ok(self) -> set[tuple[str, str]]:
        return {(each["name"], each["verdict"]) for each in self.checks if each["verdict"] != "ok"}
