"""Text in, the same text in one canonical form, or its hash, out.

Two deliveries of a document are the same text if they differ only in line ends, in trailing blanks or in how an accent
is encoded: everything downstream (change detection, chunk hashes, the embedding cache) relies on that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Literal
from unicodedata import combining, normalize

# Everything that some library (`str.splitlines`, docutils, lxml) takes for the end of a line becomes "\n", so that all
# of them count the same lines.
_NEWLINE = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
# Addresses that hold their data. Base64 may go over several lines. Short ones are examples, and stay.
_DATA = re.compile(
    r"(data:[\w.+-]{1,80}/[\w.+-]{1,80})(?:;[\w=.+-]{1,80}){0,8}"
    r"(?:;base64,[A-Za-z0-9+/=_%-]{64,}(?:\n[ >]*[A-Za-z0-9+/=_%-]{40,})*(?:\n[ >]*[A-Za-z0-9+/]{0,100}={1,2})?"
    r"|,[^\s)\"'<>]{64,})",
    re.IGNORECASE,
)
# Unicode's normal forms sort the marks on a letter in quadratic time; no writing has more than this many on one letter.
_MAX_MARKS = 100
_FAR_FROM_ASCII = re.compile(f"[^\0-\u02ff]{{{_MAX_MARKS},}}")
# Characters of combining class 0 that decompose into marks.
_MADE_OF_MARKS = frozenset("\u0f73\u0f75\u0f81")
# An earlier hash ignored white space, so a cache may hold the vector of another text under such a hash. This prefix
# keeps the hashes of today from being equal to one of those.
_HASHED_AS_IT_IS = b"lakeloop text 2\0"


def normalise_text(text: str) -> str:
    """Return `text` in NFC, with "\\n" as the only newline, no blanks at line ends and no blank lines at either end.

    Idempotent. Blanks at the start of a line are kept: they are the layout of code.

    >>> normalise_text("cafe\\u0301 \\r\\n  x\\t\\n\\n")
    'café\\n  x'
    """
    lines = _NEWLINE.sub("\n", nfc(text)).split("\n")
    return "\n".join(line.rstrip(" \t") for line in lines).strip("\n")


def nfc(text: str, form: Literal["NFC", "NFKC"] = "NFC") -> str:
    """Return `text` in a normal form of Unicode, in linear time: runs of over 100 marks stay as they are."""
    parts, end = [], 0
    for match in _FAR_FROM_ASCII.finditer(text):
        for start, stop in _long_marks(text, match.start(), match.end()):
            parts += [normalize(form, text[end:start]), text[start:stop]]
            end = stop
    return "".join([*parts, normalize(form, text[end:])])


def _long_marks(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The (start, end) of each run of more than `_MAX_MARKS` marks between two places."""
    first = start
    for i in range(start, end + 1):
        if i < end and (combining(text[i]) or text[i] in _MADE_OF_MARKS):
            continue
        if i - first > _MAX_MARKS:
            yield first, i
        first = i + 1


def without_data(text: str) -> str:
    """Return `text` without the data of embedded pictures and files (`data:image/png;base64,…`); their type stays.

    >>> without_data(f"![A pump](data:image/png;base64,{'iVBO' * 30})")
    '![A pump](data:image/png)'
    """
    return _DATA.sub(r"\1", text)


def text_hash(text: str) -> str:
    """Return a sha256 (64 hex digits) of exactly `text`: what is embedded is what is hashed.

    A model may see every blank of a text (indentation changes code), so two texts that differ in any character have
    different hashes, and so different vectors.

    >>> text_hash("a  b") == text_hash("a b")
    False
    """
    return sha256(_HASHED_AS_IT_IS + text.encode("utf-8")).hexdigest()


def words_hash(text: str) -> str:
    """Return the sha256 (64 hex digits) of `text` in NFC with every run of white space as one blank.

    Texts that differ only in wrapping or indentation have one hash.

    >>> words_hash("a  b\\n") == words_hash("a b")
    True
    """
    return sha256(" ".join(nfc(text).split()).encode("utf-8")).hexdigest()
