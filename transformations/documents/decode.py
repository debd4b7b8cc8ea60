"""Bytes in, text and the name of its encoding out; never a guess.

UTF-8 is expected. Another encoding is used only if the file itself declares it: by a byte order mark, in a `<meta>`
or the XML declaration of an HTML page, or in the header of an e-mail. A declared name means what the WHATWG Encoding
Standard says, as in every browser: "iso-8859-1" is windows-1252, "gb2312" is GBK. Everything else that is not UTF-8 is
refused, because a wrong guess would be indexed as broken characters, and nobody would notice.
"""

from __future__ import annotations

import codecs
import re

from transformations.documents.extract import RefusedDocumentError

# utf-32's mark starts with utf-16's, so it must be looked for first.
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
_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_XML_CHARSET = re.compile(rb"\s*<\?xml[^<>]*?encoding\s*=\s*[\"']\s*([A-Za-z0-9_.:-]+)", re.IGNORECASE)
_HTML_CHARSET = re.compile(rb"<meta\b[^<>]*?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]+)", re.IGNORECASE)
# Labels of the WHATWG Encoding Standard that Python does not know, or takes for an encoding of fewer characters.
_LABELS: dict[str, str] = {
    label: codec
    for codec, labels in {
        "utf-8": "utf8 unicode-1-1-utf-8 unicode11utf8 unicode20utf8 x-unicode20utf8 utf-16 utf-16le utf-16be unicode "
        "ucs-2 csunicode iso-10646-ucs-2 unicodefeff unicodefffe",  # a page whose label can be read is in none of them
        "cp1252": "ansi_x3.4-1968 ascii us-ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100 iso8859-1 "
        "iso88591 iso_8859-1 iso_8859-1:1987 l1 latin1 latin-1 windows-1252 x-cp1252 x-user-defined",
        "cp1254": "cp1254 csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9 iso_8859-9:1989 l5 latin5 "
        "windows-1254 x-cp1254",
        "cp874": "dos-874 iso-8859-11 iso8859-11 iso885911 tis-620 windows-874",
        "gb18030": "chinese csgb2312 csiso58gb231280 gb2312 gb_2312 gb_2312-80 gbk iso-ir-58 x-gbk gb18030 cp936",
        "big5hkscs": "big5 big5-hkscs cn-big5 csbig5 x-x-big5",
        "cp932": "csshiftjis ms932 ms_kanji shift-jis shift_jis sjis windows-31j x-sjis",
        "cp949": "cseuckr csksc56011987 euc-kr iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601 "
        "windows-949",
        "euc_jp": "cseucpkdfmtjapanese euc-jp x-euc-jp",
        "iso2022_jp": "csiso2022jp iso-2022-jp",
        "iso8859-8": "iso-8859-8-i csiso88598i logical csiso88598e iso-8859-8-e visual",
        "iso8859-6": "iso-8859-6-e iso-8859-6-i csiso88596e csiso88596i arabic asmo-708 ecma-114",
        "koi8-r": "koi koi8 koi8_r cskoi8r",
        "koi8-u": "koi8-ru",
        "mac-roman": "csmacintosh mac macintosh x-mac-roman",
        "mac-cyrillic": "x-mac-cyrillic x-mac-ukrainian",
        "cp866": "866 csibm866 ibm866",
        **{
            f"cp{number}": f"cp{number} windows-{number} x-cp{number}"
            for number in (1250, 1251, 1253, 1255, 1256, 1258)
        },
        "cp1257": "cp1257 windows-1257 x-cp1257",
    }.items()
    for label in labels.split()
}
# Encodings whose text holds NUL bytes. A page that declares one of them is read as UTF-8; a part of a message may
# really be in one.
_WIDE: dict[str, str] = {
    label: codec
    for codec, labels in {
        "utf-16-le": "utf-16 utf-16le utf-16-le utf16 ucs-2 unicode csunicode iso-10646-ucs-2 unicodefeff",
        "utf-16-be": "utf-16be utf-16-be unicodefffe",
        "utf-32-le": "utf-32le utf-32-le",
        "utf-32-be": "utf-32 utf-32be utf-32-be",
    }.items()
    for label in labels.split()
}
# Encodings that give no text, or in which the same bytes can be read as another text than the one that was checked.
_REFUSED = re.compile(
    r"utf-?7|hz-.*|iso-?2022-(?:kr|cn).*|replacement|unicode_?escape|raw_unicode_escape|idna|punycode"
)


class UndecodableError(RefusedDocumentError):
    """The bytes cannot be decoded without guessing; the message starts with `not_text` or `wrong_encoding`."""


def decode(content: bytes, *, is_html: bool = False) -> tuple[str, str]:
    """Return the text of `content`, without byte order mark, and its encoding.

    Args:
        content: the bytes of one file.
        is_html: also honour a charset declared in the XML declaration or a `<meta>`, if UTF-8 does not fit.

    Raises:
        UndecodableError: `not_text: …` (NUL bytes, or over 2 % control characters) or `wrong_encoding: …` with the
            offset of the first wrong byte.
    """
    marked = _mark_of(content)
    if marked and marked != "utf-8-sig":  # NUL bytes are natural in these: look for controls once decoded
        text = _decode_strictly(content, marked)
        _refuse_binary(text.encode("utf-8"))
        return text, marked
    _refuse_binary(content)
    if not is_html or marked:
        return _decode_strictly(content, marked or "utf-8"), "utf-8"
    declared = _XML_CHARSET.match(content) or _HTML_CHARSET.search(_COMMENT.sub(b"", content))
    return decode_declared(content, declared.group(1).decode("ascii") if declared else None)


def decode_declared(content: bytes, label: str | None) -> tuple[str, str]:
    """Return the text of `content` and its encoding: UTF-8 if the bytes are valid UTF-8, else what `label` stands for.

    Pages and messages that were converted to UTF-8 often still declare their old encoding. A byte order mark goes
    before a label. Bytes with NUL among them are UTF-16 or UTF-32, or no text.

    Raises:
        UndecodableError: `not_text: …`, `wrong_encoding: …`.
    """
    if _mark_of(content):
        return decode(content)
    if b"\0" in content:
        wide = _WIDE.get((label or "").strip().lower())
        if wide is None:
            return decode(content)  # which refuses it
        text = _decode_strictly(content, wide)
        _refuse_binary(text.encode("utf-8"))
        return text, wide
    codec = codec_of(label) if label else None
    if codec == "iso2022_jp" and b"\x1b" in content:  # looks like ASCII
        return _decode_strictly(content, codec), codec
    try:
        return _decode_strictly(content, "utf-8"), "utf-8"
    except UndecodableError:
        if not codec or codec == "utf-8":
            raise
    return _decode_strictly(content, codec), codec


def codec_of(label: str) -> str:
    """The Python codec of a declared encoding; the label itself, in lower case, if it is not in the tables."""
    label = label.strip().lower()
    return _LABELS.get(label, label)


def _mark_of(content: bytes) -> str | None:
    return next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), None)


def _refuse_binary(content: bytes) -> None:
    nul = content.find(b"\0")
    if nul >= 0:
        raise UndecodableError(f"not_text: NUL byte at offset {nul}")
    controls = len(content) - len(content.translate(None, _CONTROLS))
    if controls > _MAX_CONTROL_RATIO * len(content):
        raise UndecodableError(f"not_text: {controls} of {len(content)} bytes are control characters")


def _decode_strictly(content: bytes, encoding: str) -> str:
    try:
        if _REFUSED.fullmatch(encoding):
            raise LookupError("not used for text")
        # For bytes that windows-1252 does not define, the standard gives the control characters of the same number.
        return content.decode(encoding, "lakeloop_c1" if encoding.startswith("cp125") else "strict")
    except UnicodeDecodeError as error:
        # With a mark, Python counts from the end of the mark.
        offset = error.start + (len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0)
        name = encoding.removesuffix("-sig")
        wrong = f"byte 0x{content[offset]:02x} at offset {offset}" if offset < len(content) else "the end"
        raise UndecodableError(f"wrong_encoding: {wrong} is not {name}; save the file as UTF-8") from None
    # An HTML page may declare an encoding that does not exist, or one of Python's that gives no text ("hex").
    except (LookupError, ValueError) as error:
        raise UndecodableError(f"wrong_encoding: cannot decode as {encoding!r} ({error}); save as UTF-8") from None


def _as_c1(error: UnicodeError) -> tuple[str, int]:
    if isinstance(error, UnicodeDecodeError) and 0x80 <= error.object[error.start] < 0xA0:
        return chr(error.object[error.start]), error.start + 1
    raise error


codecs.register_error("lakeloop_c1", _as_c1)
