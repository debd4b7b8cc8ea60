"""A notebook, an EPUB book, an OpenDocument text or an RTF text in, its title and its text as Markdown out, by pandoc.

pandoc is a program of its own, run in its sandbox, which denies it every file and the network. It writes HTML, since
its Markdown has no form for a list or two paragraphs in a cell: for such a table it writes "[TABLE]".
"""

from __future__ import annotations

import re

import pypandoc

from transformations.documents.archive import open_archive
from transformations.documents.extract import Extract, RefusedDocumentError
from transformations.documents.front_matter import front_matter, titled
from transformations.documents.html import html_to_markdown

# A table with an empty header: in its own program it has none, and a table of Markdown must have one.
_BLANK_HEADER = re.compile(r"^\|(?: +\|)+\n(\|[-:| ]+\|)\n(\|.*\|)$", re.MULTILINE)


def parse_notebook(content: bytes) -> Extract:
    """A Jupyter notebook: its texts, its code and what the code printed. Pictures are not read."""
    return _parsed(content, "ipynb")


def parse_epub(content: bytes) -> Extract:
    """An EPUB book: its chapters in order, and the title, author and language that it names."""
    return _of_archive(content, "epub", "META-INF/container.xml")


def parse_odt(content: bytes) -> Extract:
    """An OpenDocument text (LibreOffice Writer)."""
    return _of_archive(content, "odt", "content.xml")


def parse_rtf(content: bytes) -> Extract:
    """A text in the Rich Text Format."""
    if not content.lstrip().startswith(b"{\\rtf"):
        raise RefusedDocumentError(f"unparseable: no rich text; it begins with {content[:8]!r}")
    return _parsed(content, "rtf")


def _of_archive(content: bytes, reader: str, main: str) -> Extract:
    with open_archive(content) as archive:
        names = archive.namelist()
        if main not in names:
            raise RefusedDocumentError(f"unparseable: an archive without {main} is no {reader}")
        manifest = archive.read("META-INF/manifest.xml") if "META-INF/manifest.xml" in names else b""
        if b"encryption-data" in manifest or "META-INF/rights.xml" in names:
            raise RefusedDocumentError("encrypted: a password is needed; save the file without one")
    return _parsed(content, reader)


def _parsed(content: bytes, reader: str) -> Extract:
    """The document, converted twice: to Markdown for its metadata, which come as front matter, and to HTML for its
    text."""
    fields, _ = front_matter(_converted(content, reader, "gfm-raw_html+yaml_metadata_block", "--standalone"))
    body = html_to_markdown(_converted(content, reader, "html", "--mathml"))  # which keeps the TeX of a formula
    return titled(fields, _BLANK_HEADER.sub(r"\2\n\1", body))


def _converted(content: bytes, reader: str, writer: str, option: str) -> str:
    options = ["--sandbox", "--wrap=none", option]
    return str(pypandoc.convert_text(content, writer, reader, extra_args=options, verify_format=False))
