"""Bytes of one file in, its title and its text as Markdown out, or the reason why there is none.

Every format becomes Markdown, so that what comes after (chunks, prompts, the page that shows a source) knows one
format only. The parsers are libraries that only compute: nothing here reads a file or calls out, whatever a document
asks for.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, TypeAlias

from transformations.documents.decode import UndecodableError, decode
from transformations.errors import MissingDependencyError
from transformations.text import normalise_text

Format: TypeAlias = Literal["rst", "markdown", "html", "text"]
Parser: TypeAlias = Callable[[str], tuple[str | None, str]]

_FORMATS: dict[str, Format] = {
    ".rst": "rst",
    ".md": "markdown",
    ".markdown": "markdown",
    ".mdx": "markdown",
    ".html": "html",
    ".htm": "html",
}
# format (and suffix, where it matters) -> module and function. Imported on first use: a job that reads Markdown only
# needs neither docutils nor trafilatura.
_PARSERS: dict[str, tuple[str, str]] = {
    "rst": ("transformations.documents.rst", "parse_rst"),
    "markdown": ("transformations.documents.markdown", "parse_markdown"),
    "mdx": ("transformations.documents.markdown", "parse_mdx"),
    "html": ("transformations.documents.html", "parse_html"),
    "text": ("transformations.documents.plain", "parse_plain"),
}
_MAX_REASON = 200


@dataclass(frozen=True)
class ParsedDocument:
    """One parsed file.

    Attributes:
        title: what the document calls itself; None where it does not.
        text: Markdown in the form of `normalise_text`; "" where `error` is set.
        format: decided by the suffix alone, never guessed from the content.
        encoding: as Python names it; None where the bytes could not be decoded.
        error: None, or a short reason that starts with `empty`, `not_text`, `wrong_encoding` or `unparseable`.
    """

    title: str | None
    text: str
    format: Format
    encoding: str | None
    error: str | None


def format_of(path: str) -> Format:
    """Return the format that the suffix of `path` stands for; every unknown suffix is plain text."""
    return _FORMATS.get(_suffix(path), "text")


def parse_document(content: bytes, *, path: str) -> ParsedDocument:
    """Parse one file. Never raises on any input: what cannot be parsed comes back with `error` set.

    Args:
        content: the bytes of the file.
        path: its path; only the suffix is looked at, the file is not opened.

    Raises:
        MissingDependencyError: the parser's library is not installed. That is no property of the document, and
            must not send all documents of a format to the quarantine.

    >>> parse_document(b"# Hello\\n\\nworld", path="a.md")
    ParsedDocument(title='Hello', text='# Hello\\n\\nworld', format='markdown', encoding='utf-8', error=None)
    >>> parse_document(b"caf\\xe9", path="a.txt").error
    'wrong_encoding: byte 0xe9 at offset 3 is not utf-8; save the file as UTF-8'
    """
    format_ = format_of(path)
    parser = _load_parser("mdx" if _suffix(path) == ".mdx" else format_)
    try:
        text, encoding = decode(content, is_html=format_ == "html")
    except UndecodableError as error:
        return ParsedDocument(None, "", format_, None, str(error))
    text = normalise_text(text)
    if not text.strip():
        return ParsedDocument(None, "", format_, encoding, "empty: the file has no text")
    try:
        title, markdown = parser(text)
    # Parsers fail in their own ways on hostile input (a RecursionError among them); each is a property of this
    # document, recorded beside it, and none may stop the batch.
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:_MAX_REASON]}"
        return ParsedDocument(None, "", format_, encoding, f"unparseable: {_encodable(reason)}")
    markdown = normalise_text(markdown)
    if not markdown.strip():
        return ParsedDocument(None, "", format_, encoding, f"empty: no text is left after parsing as {format_}")
    title = " ".join(title.split()) if title else None
    return ParsedDocument(title or None, markdown, format_, encoding, None)


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _encodable(text: str) -> str:
    """An exception's text may quote half a surrogate pair, which no table can store."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _load_parser(name: str) -> Parser:
    module, function = _PARSERS[name]
    try:
        parser: Parser = getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        raise MissingDependencyError.for_extra(error.name or module, "documents") from error
    return parser
