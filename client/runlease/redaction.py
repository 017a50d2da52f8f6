"""Passwords stay out of messages: URLs as they may be shown, and other people's error texts without our secrets."""

from __future__ import annotations

import re
from urllib.parse import unquote

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(://)")
_SECRET_OPTION = re.compile(
    r"(?i)([?&][^=&]*(?:password|passwd|secret|token|(?:access|account|api)_?key)[^=&]*=)([^&#]*)"
)


def redact_url(url: str) -> str:
    """Return `url` without its password, fit for messages and logs.

    Everything up to the LAST `@` counts as credentials, since passwords with `/` or `@` in them are
    often given unquoted and would leak from a stricter reading.
    """
    match = _SCHEME.match(url)
    scheme, separator = match.groups() if match else ("", "")
    rest = url[len(scheme + separator) :]
    if "@" in rest:
        credentials, _, rest = rest.rpartition("@")
        user, colon, _ = credentials.partition(":")
        # Where a `?` comes before the `@`, the password may be an option's, and the rest of it stand behind the `@`.
        if _SECRET_OPTION.search(credentials):
            return f"{scheme}{separator}***"
        rest = f"{user}:***@{rest}" if colon and separator else f"***@{rest}"
    rest = _SECRET_OPTION.sub(r"\1***", rest)
    return f"{scheme}{separator}{rest}"


def without_secrets(text: str, url: str) -> str:
    """Return a text of another library without what `redact_url` hides of the URL that the library was given."""
    for secret in _secrets_of(url):
        text = text.replace(secret, "***")
    return text


def _secrets_of(url: str) -> list[str]:
    match = _SCHEME.match(url)
    rest = url[match.end() :] if match else url
    texts = {value for _, value in _SECRET_OPTION.findall(rest)}
    if "@" in rest:
        credentials = rest.rpartition("@")[0]
        user, _, password = credentials.partition(":")
        texts |= {credentials, password or user}
    # The longest first: what is a part of it must not be torn out of it.
    return sorted((text for text in texts | {unquote(text) for text in texts} if text), key=len, reverse=True)
