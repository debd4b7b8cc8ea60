"""Takes secrets, and what would steer a terminal, from text that is about to be shown or logged.

Secrets are the values of the variables that settings name as ${NAME}, as they are and as JSON, Python or an address
writes them, and the passwords and tokens in addresses. Control characters come in names of files, in documents and in
messages of servers; a terminal would obey them.
"""

from __future__ import annotations

import json
import logging
import re
from urllib.parse import quote, quote_plus

from transformations.text.printable import printable

HIDDEN = "***"
# What stands for nothing in particular ("1", "on") would be hidden everywhere.
_SHORTEST = 4
_secrets: set[str] = set()
_PASSWORD = re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/@:'\"]*):[^\s/@'\"]+@")
# What stands behind the ? of an address; a \ or a quote ends it, for the text may be JSON.
_PARAMETER = re.compile(
    r"(?P<name>[?&;][\w.-]{0,40}(?:password|passwd|pwd|token|secret|api[_-]?key|access[_-]?key|credential|signature|sig))"
    r"=[^\s&;#'\"\\<>]+",
    re.IGNORECASE,
)


def note_secret(value: str) -> None:
    """From here on `value` is shown nowhere."""
    if len(value) >= _SHORTEST:
        in_json = (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])
        _secrets.update((value, *in_json, repr(value)[1:-1], quote(value, safe=""), quote_plus(value)))


def redacted(text: str) -> str:
    """`text` without the known secrets, and without passwords in addresses."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return without_password(text) if "://" in text else text


def safe(text: str) -> str:
    """What may be printed."""
    return printable(redacted(text))


def without_password(address: str) -> str:
    """An address as a table may hold it: a password or a token in it is not kept."""
    return _PARAMETER.sub(rf"\g<name>={HIDDEN}", _PASSWORD.sub(rf"\g<before>:{HIDDEN}@", address))


class SafeFormatter(logging.Formatter):
    """Log records without secrets; what follows a line break is indented, so that no name can forge a record."""

    def format(self, record: logging.LogRecord) -> str:
        first, *more = safe(super().format(record)).split("\n")
        return "\n".join([first, *(f"    {line}" for line in more)])
