"""Text in, the same text in one canonical form, or its hash, out.

Two deliveries of a document that differ only in line ends, in trailing blanks or in how an accent is encoded are the
same text: everything downstream (change detection, chunk hashes, the embedding cache) relies on that.
"""

from __future__ import annotations

import re
from hashlib import sha256
from unicodedata import normalize

# Everything that some library takes for the end of a line (`str.splitlines`, docutils, lxml) becomes "\n", so that
# all of them count the same lines.
_NEWLINE = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
_TRAILING_BLANKS = re.compile(r"[ \t]+$", re.MULTILINE)


def normalise_text(text: str) -> str:
    """Return `text` in NFC, with "\\n" as the only newline, no blanks at line ends and no blank lines at either end.

    Idempotent. Blanks at the start of a line are kept: they are the layout of code.

    >>> normalise_text("cafe\\u0301 \\r\\n  x\\t\\n\\n")
    'café\\n  x'
    """
    text = _NEWLINE.sub("\n", normalize("NFC", text))
    return _TRAILING_BLANKS.sub("", text).strip("\n")


def text_hash(text: str) -> str:
    """Return the sha256 (64 hex digits) of `text` in NFC with every run of white space as one blank.

    Texts that differ only in wrapping or indentation have one hash, and so share one embedding.

    >>> text_hash("a  b\\n") == text_hash("a b")
    True
    """
    return sha256(" ".join(normalize("NFC", text).split()).encode("utf-8")).hexdigest()
