"""URLs of stores with several servers: behind Sentinels, or a cluster.

``redis+sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]/SERVICE[/DB][?OPTION=VALUE...]``
``redis+cluster://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...][?OPTION=VALUE...]``

``rediss+...`` is the same with TLS, to Sentinels too. User and password are those of the data nodes; the Sentinels' own
are the options ``sentinel_username`` and ``sentinel_password``. All other options are those of redis-py's plain URLs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode

_FORM = re.compile(
    r"(?P<scheme>rediss?)\+(?P<kind>sentinel|cluster)://(?P<where>[^/?#]*)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?"
)
_DEFAULT_PORTS = {"sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A URL that names several servers, taken apart. Not in the repr: it may hold passwords."""

    kind: Literal["sentinel", "cluster"]
    service: str
    """Under which the Sentinels know the primary; '' of a cluster."""
    servers: tuple[tuple[str, int], ...]
    """Where Sentinels, or nodes of the cluster, listen."""
    _scheme: str
    _user: str
    _database: str
    _options: tuple[tuple[str, str], ...]
    _sentinel_user: str

    def __repr__(self) -> str:
        """Name what holds no secret."""
        return f"<{self.kind} {self.service} {self.servers}>"

    @classmethod
    def parse(cls, url: str) -> StoreUrl | None:
        """Take a URL apart; None where it is of another form, as plain ones are.

        Raises:
            ValueError: it cannot be read; the message holds the remedy and nothing of the URL.
        """
        found = _FORM.fullmatch(url)
        if found is None:
            return None
        scheme, where = found["scheme"], found["where"]
        kind: Literal["sentinel", "cluster"] = "sentinel" if found["kind"] == "sentinel" else "cluster"
        user, at, hosts = where.rpartition("@")
        options = parse_qsl((found["query"] or "")[1:], keep_blank_values=True)
        own = {name: value for name, value in options if name.startswith("sentinel_")}
        # What follows a `?` in a password that was not quoted looks like options: none is shown.
        if kind == "cluster" and own:
            raise ValueError("a cluster has no Sentinels: leave the options sentinel_... out")
        if own.keys() - {"sentinel_username", "sentinel_password"}:
            raise ValueError("of Sentinels there are the options sentinel_username and sentinel_password only")
        service, _, database = unquote((found["path"] or "").strip("/")).partition("/")
        if kind == "cluster":
            service, database = "", service
            if (dict(options).get("db") or database or "0") != "0":
                raise ValueError("a cluster has the database 0 only: leave it out")
        elif not service or "@" in service:
            raise ValueError(
                f"the service is missing: give {scheme}+sentinel://HOST:PORT[,HOST:PORT...]/SERVICE, the name that "
                "the Sentinels monitor it under"
            )
        return cls(
            kind=kind,
            service=service,
            servers=tuple(dict.fromkeys(_server(text, _DEFAULT_PORTS[kind]) for text in hosts.split(","))),
            _scheme=scheme,
            _user=user + at,
            _database=database,
            _options=tuple((name, value) for name, value in options if name not in own),
            _sentinel_user=_credentials(own),
        )

    def node(self, host: str, port: int) -> str:
        """Return the plain URL of a data node."""
        query = "?" + urlencode(self._options) if self._options else ""
        return f"{self._scheme}://{self._user}{_bracketed(host)}:{port}/{self._database}{query}"

    def sentinel(self, host: str, port: int) -> str:
        """Return the plain URL of a Sentinel."""
        options = [(name, value) for name, value in self._options if name != "db"]
        query = "?" + urlencode(options) if options else ""
        return f"{self._scheme}://{self._sentinel_user}{_bracketed(host)}:{port}{query}"


def _server(text: str, default_port: int) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]]+)(?::(\d{1,5}))?", text)
    port = int(found[2] or default_port) if found else 0
    if found is None or not 0 < port < 65536:
        raise ValueError(
            "a host or port cannot be read: give HOST:PORT[,HOST:PORT...] (quote special characters of a password, "
            "as in %2F for a slash)"
        )
    return found[1].strip("[]"), port


def _credentials(own: dict[str, str]) -> str:
    if not own:
        return ""
    user, password = (quote(own.get(f"sentinel_{name}", ""), safe="") for name in ("username", "password"))
    return f"{user}:{password}@"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
