"""A PDF in, its title and its text as Markdown paragraphs out. Text that is only a picture is not read."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pypdfium2

from transformations.documents.extract import Extract, RefusedDocumentError
from transformations.documents.page_lines import heading_key, paragraphs
from transformations.documents.plain import escape_block_start, escape_inline

_PASSWORD_NEEDED = 4  # FPDF_ERR_PASSWORD
# C0 without tab and newlines, soft hyphens, and characters that stand for nothing.
_UNSEEN = re.compile("[\x00-\x08\x0e-\x1f\x7f\u00ad\ufeff\uffff]")
_BULLET = re.compile(r"[•◦▪‣●○■·]\s+")
_DATE = re.compile(r"D:(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?")
# What a word processor writes into the title when nobody did.
_NO_TITLE = re.compile(r"untitled|.*\.(?:docx?|dvi|tex|indd|qxd|pdf|rtf|odt|pptx?|xlsx?|fm|e?ps)$", re.IGNORECASE)
_MAX_HEADING = 6
_MAX_FIRST_LINE = 80


def parse_pdf(content: bytes) -> Extract:
    """Return the title, the text and the metadata (author, subject, keywords, created_at, pages, attachments).

    Each paragraph is one line. A line that is an entry of the outline is a heading of its level. Lines that most
    pages begin or end with (running heads, page numbers) are dropped. The title is the metadata's, otherwise the
    outline's first entry, otherwise a short first line.

    Raises:
        RefusedDocumentError: `encrypted` (a password is needed), `empty` (no page has text), `unparseable`.
    """
    try:
        document = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        if error.err_code == _PASSWORD_NEEDED:
            raise RefusedDocumentError("encrypted: a password is needed; save the file without one") from None
        raise RefusedDocumentError(f"unparseable: {error}; it begins with {content[:8]!r}") from None
    try:
        return _extract(document)
    finally:
        document.close()


def _extract(document: pypdfium2.PdfDocument) -> Extract:
    pages = [list(_lines(document, number)) for number in range(len(document))]
    if not any(pages):
        raise RefusedDocumentError(
            f"empty: none of {len(pages)} pages has text; text in pictures is not read, scanned pages need OCR first"
        )
    outline = list(_outline(document))
    found = list(paragraphs(pages, headings={(page, heading_key(title)): level for title, level, page in outline}))
    fields = document.get_metadata_dict()
    first = found[0][0] if found and len(found[0][0]) <= _MAX_FIRST_LINE else None
    written = fields["Title"].strip()
    return Extract(
        (written if written and not _NO_TITLE.match(written) else None) or next((o[0] for o in outline), first),
        "\n\n".join(_block(text, level) for text, level in found),
        {
            "author": fields["Author"],
            "subject": fields["Subject"],
            "keywords": fields["Keywords"],
            "created_at": _instant(fields["CreationDate"]),
            "pages": len(pages),
            "attachments": document.count_attachments() or None,
        },
    )


def _lines(document: pypdfium2.PdfDocument, number: int) -> Iterator[str]:
    """The lines of one page; a page that PDFium cannot load has none."""
    try:
        page = document[number]
    except pypdfium2.PdfiumError:
        return
    text_page = page.get_textpage()
    text = _UNSEEN.sub("", text_page.get_text_bounded())
    text_page.close()
    page.close()
    for line in re.split(r"[\r\n]+|(?<=\ufffe)", text):
        if line.strip():
            yield " ".join(line.split())


def _outline(document: pypdfium2.PdfDocument) -> Iterator[tuple[str, int, int]]:
    """Title, level from 1 and number of the page of each entry that leads to a page."""
    for entry in document.get_toc():
        destination = entry.get_dest()
        page = destination.get_index() if destination else None
        title = " ".join(entry.get_title().split())
        if title and page is not None:
            yield title, entry.level + 1, page


def _block(text: str, level: int) -> str:
    if level:
        return f"{'#' * min(level, _MAX_HEADING)} {escape_inline(text)}"
    bullet = _BULLET.match(text)
    return f"- {escape_inline(text[bullet.end() :])}" if bullet else escape_block_start(escape_inline(text))


def _instant(text: str) -> str | None:
    """The date of a PDF (D:20240822125427Z00'00') as ISO 8601, without its zone, as far as it is given."""
    match = _DATE.match(text)
    if not match:
        return None
    year, month, day, hour, minute, second = match.groups()
    date = "-".join(part for part in (year, month, day) if part)
    return f"{date}T{hour}:{minute}:{second}" if second else date
