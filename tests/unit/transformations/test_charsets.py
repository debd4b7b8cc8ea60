"""A declared encoding means what browsers take it for, wherever a page or a message declares it."""

from __future__ import annotations

import base64

import pytest

from transformations.documents import ParsedDocument, parse_document

# Label, what the WHATWG Encoding Standard decodes it as (in Python's name), a text that only that one can hold.
LABELS = [
    ("iso-8859-1", "cp1252", "“quoted” €5"),
    ("US-ASCII", "cp1252", "“quoted”"),
    ("latin1", "cp1252", "Œuvre"),
    ("ISO-8859-9", "cp1254", "“İstanbul”"),
    ("gb2312", "gb18030", "朱镕基"),
    ("GBK", "gb18030", "朱镕基"),
    ("Shift_JIS", "cp932", "①髙橋"),
    ("windows-31j", "cp932", "①髙橋"),
    ("ks_c_5601-1987", "cp949", "똠방각하"),
    ("euc-kr", "cp949", "똠방각하"),
    ("big5", "big5hkscs", "㗎㗎喺"),
    ("tis-620", "cp874", "“ไทย”"),
    ("x-cp1251", "cp1251", "Привет"),
    ("koi8-r", "koi8-r", "Привет"),
    ("macintosh", "mac-roman", "“Café”"),
    ("iso-2022-jp", "iso2022_jp", "日本語"),
    ("utf-16", "utf-8", "Grüße"),
]


def _parsed(content: bytes, suffix: str) -> ParsedDocument:
    return parse_document(content, path=f"a{suffix}")


@pytest.mark.parametrize(("label", "codec", "text"), LABELS)
def test_a_label_is_the_encoding_that_browsers_take_it_for(label: str, codec: str, text: str) -> None:
    declarations = [
        f"<html><head><meta charset='{label}'></head>",
        f"<html><head><script>{'x;' * 5000}</script><meta http-equiv=x content='text/html; charset={label}'>",
        f"<?xml version='1.0' encoding='{label}'?><html>",
        f"<!-- <meta charset='koi8-r'> --><html><head><meta charset={label}>",
    ]
    for declaration in declarations:
        page = f"{declaration}<body><p>{text}</p></body></html>".encode(codec)
        assert (_parsed(page, ".html").text, _parsed(page, ".html").error) == (text, None), declaration
    mail = f"Subject: s\nContent-Type: text/plain; charset={label}\n\n{text}\n".encode(codec)
    assert _parsed(mail, ".eml").text == f"# s\n\n{text}"


def test_utf8_is_utf8_whatever_is_declared_and_no_encoding_is_guessed() -> None:
    assert _parsed("<meta charset=iso-8859-1><p>Grüße</p>".encode(), ".html").text == "Grüße"
    for label in ("utf-7", "klingon", "hex", "iso-2022-kr", "hz-gb-2312", "unicode_escape", "utf-8"):
        error = _parsed(f"<meta charset={label}><p>Gr\xfc\xdfe</p>".encode("latin-1"), ".html").error or ""
        assert error.startswith("wrong_encoding"), label
    assert (_parsed(b"<p>Gr\xfc\xdfe</p>", ".html").error or "").startswith("wrong_encoding")


@pytest.mark.parametrize("label", ["utf-16", "utf-16le", "utf-16be", "utf-32", "utf-32le"])
@pytest.mark.parametrize("text", ["Hello", "Grüße"])
def test_a_part_of_a_message_may_be_in_utf16(label: str, text: str) -> None:
    head = f"Subject: s\nContent-Type: text/plain; charset={label}\nContent-Transfer-Encoding: base64\n\n".encode()
    assert _parsed(head + base64.b64encode(text.encode(label)), ".eml").text == f"# s\n\n{text}"


def test_a_part_of_a_message_with_nul_bytes_is_no_text() -> None:
    mail = b"Subject: s\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\n"
    assert _parsed(mail + base64.b64encode(b"a\0b"), ".eml").error == "not_text: NUL byte at offset 1"
