"""Text that is about to be shown or logged in; the same without secrets, and without what would steer a terminal, out.

Secrets are the values of the variables that settings name as ${NAME}, and the passwords in addresses. Control
characters come in names of files, in documents and in messages of servers; a terminal would obey them.
"""

from __future__ import annotations

import logging
import re

from transformations.printable import printable

HIDDEN = "***"
# What stands for nothing in particular ("1", "on") would be hidden everywhere.
_SHORTEST = 4
_secrets: set[str] = set()
_PASSWORD = re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/@:'\"]*):[^\s/@'\"]+@")


def note_secret(value: str) -> None:
    """From here on `value` is shown nowhere."""
    if len(value) >= _SHORTEST:
        _secrets.add(value)


def redacted(text: str) -> str:
    """`text` without the known secrets, and without passwords in addresses."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _PASSWORD.sub(rf"\g<before>:{HIDDEN}@", text) if "://" in text else text


def safe(text: str) -> str:
    """What may be printed."""
    return printable(redacted(text))


def without_password(address: str) -> str:
    """An address as a table may hold it: a password in it is not kept."""
    return _PASSWORD.sub(rf"\g<before>:{HIDDEN}@", address)


class SafeFormatter(logging.Formatter):
    """Log records without secrets; what follows a line break is indented, so that no name can forge a record."""

    def format(self, record: logging.LogRecord) -> str:
        first, *more = safe(super().format(record)).split("\n")
        return "\n".join([first, *(f"    {line}" for line in more)])
