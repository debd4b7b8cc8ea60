"""Removes secrets and control characters from text that is about to be shown or logged.

Secrets are the values of the variables that settings name as ${NAME} (also as JSON, Python or a URL writes them), and
the passwords and tokens in URLs. Control characters can come from names of files, documents and messages of servers,
and a terminal would obey them.
"""

from __future__ import annotations

import json
import logging
import os
import re
from urllib.parse import quote, quote_plus

from transformations.text.printable import printable

HIDDEN = "***"
# Shorter values ("1", "on") are not hidden: they would be replaced everywhere.
_SHORTEST = 4
_secrets: set[str] = set()
# In the name of an option of object storage, or of a variable from which its clients take one.
_SECRET_NAME = re.compile(r"key|secret|token|password|credential|signature", re.IGNORECASE)
# Of those, the names of what is no secret: a switch, or the place of one.
_NOT_SECRET_NAME = re.compile(r"skip_signature|_enabled$|_(?:file|uri|url|credentials)$", re.IGNORECASE)
_STORAGE_VARIABLES = ("AWS_", "AZURE_", "GOOGLE_")
_PASSWORD = re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/@:'\"]*):[^\s/@'\"]+@")
# A secret parameter in the query of a URL; a \ or a quote ends its value, because the text may be JSON.
_PARAMETER = re.compile(
    r"(?P<name>[?&;][\w.-]{0,40}(?:password|passwd|pwd|token|secret|api[_-]?key|access[_-]?key|credential|signature|sig))"
    r"=[^\s&;#'\"\\<>]+",
    re.IGNORECASE,
)


def note_secret(value: str) -> None:
    """Let `redacted` hide `value` from now on. A value of less than 4 characters is ignored, and so are true, false
    and null, which JSON needs."""
    if len(value) >= _SHORTEST and value not in ("true", "false", "null"):
        in_json = (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])
        _secrets.update((value, *in_json, repr(value)[1:-1], quote(value, safe=""), quote_plus(value)))


def names_secret(option: str) -> bool:
    """Whether the value of the option of object storage is secret, by its name.

    >>> names_secret("aws_secret_access_key"), names_secret("aws_region"), names_secret("AWS_WEB_IDENTITY_TOKEN_FILE")
    (True, False, False)
    """
    return _SECRET_NAME.search(option) is not None and _NOT_SECRET_NAME.search(option) is None


def note_environment() -> None:
    """`note_secret` of what clients of object storage take from the environment."""
    for name, value in os.environ.items():
        if name.startswith(_STORAGE_VARIABLES) and names_secret(name):
            note_secret(value)


def redacted(text: str) -> str:
    """`text` with the known secrets, and passwords and tokens in URLs, replaced by ***."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return without_password(text) if "://" in text else text


def safe(text: str) -> str:
    """`text` without secrets and control characters, so that it may be printed."""
    return printable(redacted(text))


def without_password(address: str) -> str:
    """A URL as a table may keep it, with a password or token in it replaced by ***."""
    return _PARAMETER.sub(rf"\g<name>={HIDDEN}", _PASSWORD.sub(rf"\g<before>:{HIDDEN}@", address))


class SafeFormatter(logging.Formatter):
    """Formats log records without secrets; lines after the first are indented, so that no text can forge a record."""

    def format(self, record: logging.LogRecord) -> str:
        first, *more = safe(super().format(record)).split("\n")
        return "\n".join([first, *(f"    {line}" for line in more)])
