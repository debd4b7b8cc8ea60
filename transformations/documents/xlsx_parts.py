"""Parts of a workbook in, what openpyxl does not read out: formulas without a value, merged cells, charts, comments."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from io import BytesIO
from typing import Any, NamedTuple

from lxml import etree
from openpyxl.formula.translate import Translator, TranslatorError
from openpyxl.utils import range_boundaries
from openpyxl.utils.exceptions import CellCoordinatesException

from transformations.documents.ooxml import (
    chart_rows,
    chart_titles,
    comment_line,
    diagram_texts,
    paragraph_texts,
    parse_part,
    related,
    relations,
)
from transformations.documents.plain import as_paragraph
from transformations.documents.table import markdown_table

_S = "{*}"
_STYLES = "application/vnd.openxmlformats-officedocument.spreadsheetml.styles+xml"
_HAS_EXTRAS = re.compile(rb"<(?:\w+:)?(?:f|mergeCell)[\s/>]")
_BLOCK = 1 << 20
_NS = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


class Sheet(NamedTuple):
    """A sheet of a workbook: its name, and the part of the file that holds it."""

    name: str
    part: str


def sheets_of(archive: zipfile.ZipFile, main: str) -> list[Sheet]:
    found = relations(archive, main)
    sheets = []
    for sheet in parse_part(archive.read(main)).iter(f"{_S}sheet"):
        id_ = next((value for name, value in sheet.attrib.items() if name.endswith("}id")), "")
        relation = found.get(id_)
        if relation is not None:
            sheets.append(Sheet(sheet.get("name", ""), relation.part))
    return sheets


def with_plain_styles(archive: zipfile.ZipFile, content: bytes, main: str) -> BytesIO:
    """The workbook with a style sheet that holds number formats only.

    A text needs nothing else of it, and openpyxl refuses a whole workbook for a faulty style (an empty fill, a colour
    that is none).
    """
    part = next((r.part for r in relations(archive, main).values() if r.kind == "styles"), None)
    if part is None or part not in archive.namelist():
        return BytesIO(content)
    plain = _plain_styles(archive.read(part))
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        for name in dict.fromkeys(archive.namelist()):
            if not name.startswith(("xl/media/", "xl/embeddings/")):
                target.writestr(name, plain if name == part else archive.read(name))
    stream.seek(0)
    return stream


def _plain_styles(content: bytes) -> bytes:
    try:
        root = parse_part(content)
    except etree.XMLSyntaxError:
        root = etree.Element("styleSheet")
    plain = etree.Element(f"{{{_NS}}}styleSheet", nsmap={None: _NS})
    formats = etree.SubElement(plain, f"{{{_NS}}}numFmts")
    for format_ in root.iter(f"{_S}numFmt"):
        if (format_.get("numFmtId") or "").isdigit() and format_.get("formatCode") is not None:
            attributes = {"numFmtId": format_.get("numFmtId"), "formatCode": format_.get("formatCode")}
            etree.SubElement(formats, f"{{{_NS}}}numFmt", attributes)
    for group, one in (("fonts", "font"), ("fills", "fill"), ("borders", "border")):
        made = etree.SubElement(etree.SubElement(plain, f"{{{_NS}}}{group}"), f"{{{_NS}}}{one}")
        if one == "fill":
            etree.SubElement(made, f"{{{_NS}}}patternFill")
    for group in ("cellStyleXfs", "cellXfs"):
        made = etree.SubElement(plain, f"{{{_NS}}}{group}")
        for style in root.findall(f"{_S}cellXfs/{_S}xf") if group == "cellXfs" else [root]:
            number = style.get("numFmtId", "0")
            etree.SubElement(made, f"{{{_NS}}}xf", {"numFmtId": number if number.isdigit() else "0"})
    return bytes(etree.tostring(plain))


class Extras(NamedTuple):
    """What the cells of a sheet hold besides their values.

    Attributes:
        formulas: (row, column) -> the formula of a cell whose value was never computed; both count from 1.
        merged: row -> the merged cells that begin in it, each as (column, number of rows, number of columns).
    """

    formulas: dict[tuple[int, int], str]
    merged: dict[int, list[tuple[int, int, int]]]


def extras_of(archive: zipfile.ZipFile, part: str) -> Extras:
    extras = Extras({}, {})
    if part not in archive.namelist() or not _has_extras(archive, part):
        return extras
    masters: dict[str, tuple[str, str]] = {}
    with archive.open(part) as stream:
        for _, element in etree.iterparse(stream, resolve_entities=False, huge_tree=True, recover=True):
            name = etree.QName(element).localname if isinstance(element.tag, str) else ""
            if name == "c":
                _formula(element, masters, extras)
            elif name == "mergeCell":
                _merged(element.get("ref", ""), extras)
            if name in ("row", "mergeCell"):
                element.clear()
    return extras


def _has_extras(archive: zipfile.ZipFile, part: str) -> bool:
    end = b""
    with archive.open(part) as stream:
        while block := stream.read(_BLOCK):
            if _HAS_EXTRAS.search(end + block):
                return True
            end = block[-64:]
    return False


def _formula(cell: Any, masters: dict[str, tuple[str, str]], extras: Extras) -> None:
    formula = cell.find(f"{_S}f")
    if formula is None:
        return
    place, text = cell.get("r", ""), formula.text or ""
    if formula.get("t") == "shared":
        if text:
            masters[formula.get("si", "")] = (place, text)
        elif formula.get("si", "") in masters:
            text = _translated(*masters[formula.get("si", "")], place)
    value = cell.find(f"{_S}v")
    is_empty_text = cell.get("t") == "str" and value is not None  # the computed value is an empty text
    if text and not is_empty_text and (value is None or not value.text):
        try:
            column, row, _, _ = range_boundaries(place)
        except (ValueError, CellCoordinatesException):
            return
        extras.formulas[(row, column)] = f"={text}"


def _translated(origin: str, text: str, place: str) -> str:
    try:
        return str(Translator(f"={text}", origin).translate_formula(place)).removeprefix("=")
    except (TranslatorError, ValueError, CellCoordinatesException):
        return text


def _merged(reference: str, extras: Extras) -> None:
    try:
        left, top, right, bottom = range_boundaries(reference)
    except (ValueError, TypeError, CellCoordinatesException):
        return
    if None not in (left, top, right, bottom):
        extras.merged.setdefault(top, []).append((left, bottom - top + 1, right - left + 1))


def drawn_texts(archive: zipfile.ZipFile, part: str) -> Iterator[str]:
    """Blocks of Markdown: the texts of a sheet's drawings, the figures of its charts, and its comments."""
    for drawing, root in related(archive, part, "drawing"):
        yield from (as_paragraph(text) for text in paragraph_texts(root))
        for _, chart in related(archive, drawing, "chart"):
            yield from (as_paragraph(title) for title in chart_titles(chart))
            if rows := chart_rows(chart):
                yield markdown_table(rows)
        for _, model in related(archive, drawing, "diagramData"):
            yield from (as_paragraph(text) for text in diagram_texts(model))
    yield from (as_paragraph(text) for text in _comments(archive, part))


def _comments(archive: zipfile.ZipFile, part: str) -> Iterator[str]:
    persons: dict[str, str] = {}
    for name in archive.namelist():
        if name.startswith("xl/persons/") and name.endswith(".xml"):
            for person in parse_part(archive.read(name)).iter(f"{_S}person"):
                persons[person.get("id", "")] = person.get("displayName", "")
    for _, root in related(archive, part, "comments"):
        authors = ["".join(author.itertext()) for author in root.iter(f"{_S}author")]
        for comment in root.iter(f"{_S}comment"):
            at = comment.get("authorId", "")
            author = authors[int(at)] if at.isdigit() and int(at) < len(authors) else ""
            text = "".join(t.text or "" for t in comment.iter(f"{_S}t"))
            if text.strip() and not author.startswith("tc="):  # the older form of a threaded one
                yield f"{comment.get('ref', '')} {comment_line(text, author, None)}".strip()
    for _, root in related(archive, part, "threadedComment"):
        for comment in root.iter(f"{_S}threadedComment"):
            text = "".join(t.text or "" for t in comment.iter(f"{_S}text"))
            if text.strip():
                line = comment_line(text, persons.get(comment.get("personId", "")), comment.get("dT"))
                yield f"{comment.get('ref', '')} {line}".strip()
