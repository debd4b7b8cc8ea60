"""Bytes in, text and the name of its encoding out; never a guess.

UTF-8 is expected. Another encoding is used only where the file itself declares it: by a byte order mark, or in the
head of an HTML page. Everything else that is not UTF-8 is refused, because a wrong guess is indexed as mojibake and
nobody is told.
"""

from __future__ import annotations

import codecs
import re

from transformations.documents.extract import RefusedDocumentError

# utf-32's mark starts with utf-16's: it has to be looked for first.
_BYTE_ORDER_MARKS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# C0 controls and DEL, without tab, newline, vertical tab, form feed, carriage return and escape (terminal logs).
_CONTROLS = bytes(b for b in range(32) if b not in b"\t\n\v\f\r\x1b") + b"\x7f"
_MAX_CONTROL_RATIO = 0.02
_HTML_CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]+)", re.IGNORECASE)
_HTML_HEAD_BYTES = 2048


class UndecodableError(RefusedDocumentError):
    """The bytes are no text that can be decoded without guessing; the message starts with the error's name."""


def decode(content: bytes, *, is_html: bool = False) -> tuple[str, str]:
    """Return the text of `content`, without byte order mark, and its encoding.

    Args:
        content: the bytes of one file.
        is_html: also honour a charset declared in a `<meta>` within the first 2 KiB, if UTF-8 does not fit.

    Raises:
        UndecodableError: `not_text: …` (NUL bytes, or over 2 % control characters) or `wrong_encoding: …` with the
            offset of the first wrong byte.
    """
    marked = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), None)
    if marked and marked != "utf-8-sig":  # NUL bytes are natural in these: look for controls once decoded
        text = _decode_strictly(content, marked)
        _refuse_binary(text.encode("utf-8"))
        return text, marked
    _refuse_binary(content)
    declared = _HTML_CHARSET.search(content[:_HTML_HEAD_BYTES]) if is_html and not marked else None
    try:
        return _decode_strictly(content, marked or "utf-8"), "utf-8"
    except UndecodableError:
        if not declared:
            raise
    encoding = declared.group(1).decode("ascii").lower()
    return _decode_strictly(content, encoding), encoding


def _refuse_binary(content: bytes) -> None:
    nul = content.find(b"\0")
    if nul >= 0:
        raise UndecodableError(f"not_text: NUL byte at offset {nul}")
    controls = len(content) - len(content.translate(None, _CONTROLS))
    if controls > _MAX_CONTROL_RATIO * len(content):
        raise UndecodableError(f"not_text: {controls} of {len(content)} bytes are control characters")


def _decode_strictly(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        # With a mark, Python counts from behind it.
        offset = error.start + (len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0)
        name = encoding.removesuffix("-sig")
        wrong = f"byte 0x{content[offset]:02x} at offset {offset}" if offset < len(content) else "the end"
        raise UndecodableError(f"wrong_encoding: {wrong} is not {name}; save the file as UTF-8") from None
    # An HTML page may declare an encoding that does not exist, or one of Python's that gives no text ("hex").
    except (LookupError, ValueError) as error:
        raise UndecodableError(f"wrong_encoding: cannot decode as {encoding!r} ({error}); save as UTF-8") from None
