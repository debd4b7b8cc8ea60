"""A notebook, a book, an OpenDocument or a rich text in, its title and its text as Markdown out, by pandoc.

pandoc is a program of its own, run in its sandbox, which denies it every file and the network. It gives HTML, since its
Markdown has no form for a list or two paragraphs in a cell: it writes "[TABLE]" for such a table.
"""

from __future__ import annotations

import re

import pypandoc

from transformations.documents.archive import open_archive
from transformations.documents.extract import Extract, RefusedDocumentError
from transformations.documents.front_matter import front_matter, titled
from transformations.documents.html import html_to_markdown

# A table whose first row is no header for its own program: Markdown has none without.
_BLANK_HEADER = re.compile(r"^\|(?: +\|)+\n(\|[-:| ]+\|)\n(\|.*\|)$", re.MULTILINE)


def parse_notebook(content: bytes) -> Extract:
    """A Jupyter notebook: its texts, its code and what it printed. Pictures that it drew are not read."""
    return _parsed(content, "ipynb")


def parse_epub(content: bytes) -> Extract:
    """A book: its chapters in order, and title, author and language as it gives them."""
    return _of_archive(content, "epub", "META-INF/container.xml")


def parse_odt(content: bytes) -> Extract:
    """A text of OpenDocument (LibreOffice Writer)."""
    return _of_archive(content, "odt", "content.xml")


def parse_rtf(content: bytes) -> Extract:
    """A rich text."""
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
    """What the file says of itself comes as front matter, which is read as that of any Markdown."""
    fields, _ = front_matter(_converted(content, reader, "gfm-raw_html+yaml_metadata_block", "--standalone"))
    body = html_to_markdown(_converted(content, reader, "html", "--mathml"))  # which keeps the TeX of a formula
    return titled(fields, _BLANK_HEADER.sub(r"\2\n\1", body))


def _converted(content: bytes, reader: str, writer: str, option: str) -> str:
    options = ["--sandbox", "--wrap=none", option]
    return str(pypandoc.convert_text(content, writer, reader, extra_args=options, verify_format=False))
