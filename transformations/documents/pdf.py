"""A PDF in, its title and its text as Markdown paragraphs out. Text that is only a picture is not read."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pypdfium2
import pypdfium2.raw as raw

from transformations.documents.extract import Extract, RefusedDocumentError
from transformations.documents.page_lines import heading_key, paragraphs
from transformations.documents.plain import escape_block_start, escape_inline

_PASSWORD_NEEDED = 4  # FPDF_ERR_PASSWORD
# Control characters (C0, without tab and newlines), soft hyphens, and characters that mean nothing.
_UNSEEN = re.compile("[\x00-\x08\x0e-\x1f\x7f\u00ad\ufeff\uffff]")
_BULLET = re.compile(r"[•◦▪‣●○■·]\s+")
_DATE = re.compile(r"D:(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?")
# Titles that a word processor writes when its user wrote none.
_NO_TITLE = re.compile(r"untitled|.*\.(?:docx?|dvi|tex|indd|qxd|pdf|rtf|odt|pptx?|xlsx?|fm|e?ps)$", re.IGNORECASE)
_MAX_HEADING = 6
_MAX_FIRST_LINE = 80


def parse_pdf(content: bytes) -> Extract:
    """Return the title, the text and the metadata (author, subject, keywords, created_at, pages, attachments).

    Each paragraph is one line. A line that is an entry of the outline is a heading of that entry's level. Page numbers
    are dropped, and a line that most pages begin or end with is kept once. Values of form fields and the texts of
    annotations are paragraphs at the end of their page. The title is that of the metadata, otherwise the first entry of
    the outline, otherwise a short first line.

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
    # PDFium reads form fields with the part of it that fills in forms.
    form = _form(document)
    read = [_page(document, number, form) for number in range(len(document))]
    pages = [lines for lines, _ in read]
    asides = {number: beside for number, (_, beside) in enumerate(read) if beside}
    if not any(pages) and not asides:
        raise RefusedDocumentError(
            f"empty: none of {len(pages)} pages has text; text in pictures is not read, scanned pages need OCR first"
        )
    outline = list(_outline(document))
    levels = {(page, heading_key(title)): level for title, level, page in outline}
    found = list(paragraphs(pages, headings=levels, asides=asides))
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


def _form(document: pypdfium2.PdfDocument) -> Any:
    with suppress(pypdfium2.PdfiumError):
        if document.get_formtype() != raw.FORMTYPE_NONE:
            document.init_forms()
    return document.formenv


def _page(document: pypdfium2.PdfDocument, number: int, form: Any) -> tuple[list[str], list[str]]:
    """The lines of one page, and the texts beside them (`_beside`); both empty if PDFium cannot load the page."""
    try:
        page = document[number]
    except pypdfium2.PdfiumError:
        return [], []
    text_page = page.get_textpage()
    lines = list(_lines(text_page.get_text_bounded()))
    beside = list(_beside(page.raw, form.raw if form else None))
    text_page.close()
    page.close()
    return lines, beside


def _lines(text: str) -> Iterator[str]:
    for line in re.split(r"[\r\n]+|(?<=\ufffe)", _UNSEEN.sub("", text)):
        if line.strip():
            yield " ".join(line.split())


def _beside(page: Any, form: Any) -> Iterator[str]:
    """Values of form fields, as "name: value", and the texts of annotations: a page's own text does not have them."""
    seen = set()
    for index in range(max(raw.FPDFPage_GetAnnotCount(page), 0)):
        annotation = raw.FPDFPage_GetAnnot(page, index)
        if not annotation:
            continue
        kind = raw.FPDFAnnot_GetSubtype(annotation)
        if kind == raw.FPDF_ANNOT_WIDGET and form:
            name = _utf16(raw.FPDFAnnot_GetFormFieldAlternateName, form, annotation) or _utf16(
                raw.FPDFAnnot_GetFormFieldName, form, annotation
            )
            value = _utf16(raw.FPDFAnnot_GetFormFieldValue, form, annotation)
            text = f"{name}: {value}" if name and value and value != "Off" else value if value != "Off" else ""
        elif kind in (raw.FPDF_ANNOT_POPUP, raw.FPDF_ANNOT_WIDGET):  # a pop-up shows the text of another annotation
            text = ""
        else:
            text = _utf16(raw.FPDFAnnot_GetStringValue, annotation, b"Contents")
        raw.FPDFPage_CloseAnnot(annotation)
        if text and (kind, text) not in seen:  # one field may stand in several places
            seen.add((kind, text))
            yield text


def _utf16(function: Any, *arguments: Any) -> str:
    """The UTF-16 text that a function of PDFium writes into a buffer, on one line."""
    size = function(*arguments, None, 0)
    if size <= 2:
        return ""
    buffer = (ctypes.c_ushort * (size // 2 + 1))()
    function(*arguments, buffer, size)
    text = bytes(buffer)[: size // 2 * 2].decode("utf-16-le", "replace").rstrip("\0")
    return " ".join(_UNSEEN.sub("", text).split())


def _outline(document: pypdfium2.PdfDocument) -> Iterator[tuple[str, int, int]]:
    """Title, level (from 1) and page number (from 0) of each entry that leads to a page."""
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
    """The date of a PDF (D:20240822125427Z00'00') as ISO 8601 without its time zone, as exact as it is given; None if
    it is no date."""
    match = _DATE.match(text)
    if not match:
        return None
    year, month, day, hour, minute, second = match.groups()
    date = "-".join(part for part in (year, month, day) if part)
    return f"{date}T{hour}:{minute}:{second}" if second else date
