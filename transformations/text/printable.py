"""Any text in, the same text out, with the characters made visible that a terminal or a page would obey.

File names, records and answers are written by others. If they are printed raw, an escape sequence in them moves the
cursor, colours or clears the screen, or sets the window's title; a character that turns the direction of text hides
what stands there.
"""

from __future__ import annotations

import re

# Control characters except line break and tab, half surrogate pairs, characters that turn the direction of text, and
# code points that are no character.
_COMMAND = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufff9-\uffff]"
)


def printable(text: str) -> str:
    r"""`text` with each such character written as its escape, as in `\x1b`; line breaks and tabs stay.

    >>> print(printable("a\x1b[31mb\u202ec"))
    a\x1b[31mb\u202ec
    """
    return _COMMAND.sub(_escaped, text)


def printable_line(text: str, *, width: int | None = None) -> str:
    r"""The same as `printable`, on one line and at most `width` characters long.

    >>> printable_line("a\n  b\tc", width=4)
    'a b…'
    """
    line = printable(" ".join(text.split()))
    return line if width is None or len(line) <= width else line[: width - 1] + "…"


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
