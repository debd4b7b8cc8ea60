"""Bytes of one file in, its title, its text as Markdown and its metadata out, or the reason why there is no text.

Every format becomes Markdown, so that later steps (chunks, prompts, the page that shows a source) know one format only.
The parsers are libraries that only compute: nothing here reads a file or uses the network, whatever a document asks
for. The caller limits a parser's time and memory: a hostile document takes all it can get.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Literal, TypeAlias, cast, get_args

from transformations.documents.decode import decode
from transformations.documents.extract import Extract, RefusedDocumentError
from transformations.errors import MissingDependencyError
from transformations.text.canonical_text import normalise_text, without_data

Format: TypeAlias = Literal[
    "rst", "markdown", "html", "text", "pdf", "docx", "pptx", "xlsx", "asciidoc", "email", "csv",
    "notebook", "epub", "opendocument", "rtf", "json", "xml",
]  # fmt: skip
FORMATS: tuple[Format, ...] = get_args(Format)
_FORMATS: dict[str, Format] = {
    ".rst": "rst",
    ".md": "markdown",
    ".markdown": "markdown",
    ".mdx": "markdown",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".docx": "docx",
    ".docm": "docx",
    ".pptx": "pptx",
    ".pptm": "pptx",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".adoc": "asciidoc",
    ".asciidoc": "asciidoc",
    ".asc": "asciidoc",
    ".eml": "email",
    ".csv": "csv",
    ".tsv": "csv",
    ".ipynb": "notebook",
    ".epub": "epub",
    ".odt": "opendocument",
    ".rtf": "rtf",
    ".json": "json",
    ".xml": "xml",
}
SUFFIXES: tuple[str, ...] = tuple(_FORMATS)
# A parser of text gets the text, decoded and in the form of `normalise_text`; a parser of bytes gets the file as it is.
TextParser: TypeAlias = Callable[[str], Extract]
BytesParser: TypeAlias = Callable[[bytes], Extract]
_OF_BYTES = frozenset({"pdf", "docx", "pptx", "xlsx", "email", "notebook", "epub", "opendocument", "rtf", "xml"})
# format (and suffix, where it matters) -> module and function. Imported on first use: a job that reads Markdown only
# needs neither docutils nor trafilatura.
_PARSERS: dict[str, tuple[str, str]] = {
    "rst": ("transformations.documents.rst", "parse_rst"),
    "markdown": ("transformations.documents.markdown", "parse_markdown"),
    "mdx": ("transformations.documents.markdown", "parse_mdx"),
    "html": ("transformations.documents.html", "parse_html"),
    "text": ("transformations.documents.plain", "parse_plain"),
    "pdf": ("transformations.documents.pdf", "parse_pdf"),
    "docx": ("transformations.documents.docx", "parse_docx"),
    "pptx": ("transformations.documents.pptx", "parse_pptx"),
    "xlsx": ("transformations.documents.xlsx", "parse_xlsx"),
    "asciidoc": ("transformations.documents.asciidoc", "parse_asciidoc"),
    "email": ("transformations.documents.email", "parse_email"),
    "csv": ("transformations.documents.delimited", "parse_csv"),
    "notebook": ("transformations.documents.pandoc", "parse_notebook"),
    "epub": ("transformations.documents.pandoc", "parse_epub"),
    "opendocument": ("transformations.documents.pandoc", "parse_odt"),
    "rtf": ("transformations.documents.pandoc", "parse_rtf"),
    "json": ("transformations.documents.data_text", "parse_json"),
    "xml": ("transformations.documents.data_text", "parse_xml"),
}
_MAX_REASON, _MAX_TITLE = 200, 1000
_MAX_METADATA, _MAX_METADATA_KEY, _MAX_METADATA_VALUE = 32, 64, 1000


@dataclass(frozen=True)
class ParsedDocument:
    """One parsed file.

    Attributes:
        title: the document's own title; None if it has none.
        text: Markdown in the form of `normalise_text`; "" if `error` is set.
        format: decided by the suffix alone, never guessed from the content.
        encoding: as Python names it; None for a format of bytes, and if the bytes could not be decoded.
        error: None, or a short reason that starts with `empty`, `not_text`, `wrong_encoding`, `encrypted`,
            `too_large`, `out_of_memory` or `unparseable`.
        metadata: what the document says about itself: author, created_at, pages, sheets, front matter. At most 32
            entries of at most 1,000 characters; none is blank.
    """

    title: str | None
    text: str
    format: Format
    encoding: str | None
    error: str | None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def refused(cls, path: str, reason: str, *, encoding: str | None = None) -> ParsedDocument:
        return cls(None, "", format_of(path), encoding, _storable(reason))


def format_of(path: str) -> Format:
    """Return the format that the suffix of `path` stands for; every unknown suffix is plain text."""
    return _FORMATS.get(_suffix(path), "text")


def load_parser(path: str) -> TextParser | BytesParser:
    """Import and return the parser of `path`; the first time this may take a second.

    Raises:
        MissingDependencyError: its library is not installed.
    """
    module, function = _PARSERS["mdx" if _suffix(path) == ".mdx" else format_of(path)]
    try:
        parser: TextParser | BytesParser = getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        raise MissingDependencyError.for_extra(error.name or module, "documents") from error
    return parser


def parse_document(content: bytes, *, path: str) -> ParsedDocument:
    """Parse one file. No content makes it raise: a file that cannot be parsed comes back with `error` set.

    Args:
        content: the bytes of the file.
        path: its path; only the suffix is looked at, the file is not opened.

    Raises:
        MissingDependencyError: the parser's library is not installed. This is not the document's fault, and must not
            send all documents of a format to the quarantine.

    >>> parse_document(b"# Hello\\n\\nworld", path="a.md").text
    '# Hello\\n\\nworld'
    >>> parse_document(b"caf\\xe9", path="a.txt").error
    'wrong_encoding: byte 0xe9 at offset 3 is not utf-8; save the file as UTF-8'
    """
    format_ = format_of(path)
    parser = load_parser(path)
    encoding = None
    try:
        if format_ in _OF_BYTES:
            if not content.strip():
                raise RefusedDocumentError("empty: the file has no content")
            extract = cast(BytesParser, parser)(content)
        else:
            text, encoding = decode(content, is_html=format_ == "html")
            text = normalise_text(text)
            if not text.strip():
                raise RefusedDocumentError("empty: the file has no text")
            extract = cast(TextParser, parser)(text)
    except RefusedDocumentError as error:
        return ParsedDocument.refused(path, str(error), encoding=encoding)
    # Parsers fail in their own ways on hostile input (one is RecursionError). Such an error belongs to this document
    # and is recorded with it; it must not stop the batch.
    except Exception as error:
        if _is_for_want_of_memory(error):
            return ParsedDocument.refused(path, "out_of_memory: the parser asked for more than it may have")
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:_MAX_REASON]}"
        return ParsedDocument.refused(path, f"unparseable: {reason}", encoding=encoding)
    markdown = normalise_text(without_data(_storable(extract.markdown)))
    if not markdown.strip():
        return ParsedDocument.refused(path, f"empty: no text is left after parsing as {format_}", encoding=encoding)
    title = " ".join(_storable(extract.title or "").split())[:_MAX_TITLE]
    return ParsedDocument(title or None, markdown, format_, encoding, None, _bounded(extract.metadata))


def _is_for_want_of_memory(error: BaseException | None) -> bool:
    """Whether a MemoryError is the error or its first cause: a library that cleans up after one may fail otherwise."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _storable(text: str) -> str:
    """`text` without half surrogate pairs, which no table can store."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _bounded(metadata: Mapping[str, object]) -> dict[str, str]:
    kept: dict[str, str] = {}
    for key, value in metadata.items():
        text = _storable(" ".join(str("" if value is None else value).split()))[:_MAX_METADATA_VALUE]
        if text and len(kept) < _MAX_METADATA:
            kept[_storable(key)[:_MAX_METADATA_KEY]] = text
    return kept
