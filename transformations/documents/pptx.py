"""PowerPoint slides in, their title and their text as Markdown out: each slide a section, with notes and comments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any

import pptx
from lxml import etree

from transformations.documents.archive import open_archive, properties
from transformations.documents.extract import Extract, RefusedDocumentError
from transformations.documents.ooxml import (
    DGM,
    A,
    R,
    chart_rows,
    chart_titles,
    comment_line,
    diagram_texts,
    main_part,
    paragraph_texts,
    parse_part,
    related,
)
from transformations.documents.plain import as_paragraph, escape_block_start, escape_inline
from transformations.documents.table import markdown_table, markdown_tables, spread

_P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_P188 = "{http://schemas.microsoft.com/office/powerpoint/2018/8/main}"
_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_USUAL = "ppt/presentation.xml"


def parse_pptx(content: bytes) -> Extract:
    """Return the title that the file's properties give, the slides in order, and the metadata with the number `slides`.

    A slide is a heading (its title, or "Slide 3") and its shapes from top to bottom: paragraphs, lists, tables, the
    figures of charts, the texts of diagrams, the alternative text of pictures; then its notes and its comments.

    Raises:
        RefusedDocumentError: see `open_archive`; `unparseable` if the archive is no presentation.
    """
    with open_archive(content) as archive:
        if (main := main_part(archive, _USUAL)) is None:
            raise RefusedDocumentError(f"unparseable: an archive without {_USUAL} is no presentation")
        title, metadata = properties(archive)
        authors = _authors(archive, main)
        slides = pptx.Presentation(BytesIO(content)).slides
        blocks: list[str] = []
        for number, slide in enumerate(slides, 1):
            part = str(slide.part.partname).lstrip("/")
            comments = [text for _, root in related(archive, part, "comments") for text in _comments(root, authors)]
            blocks += _slide(slide, number, comments)
    return Extract(title, "\n\n".join(blocks), {**metadata, "slides": len(slides)})


def _slide(slide: Any, number: int, comments: list[str]) -> Iterator[str]:
    heading = slide.shapes.title
    name = " ".join(heading.text_frame.text.split()) if heading is not None else ""
    blocks = [block for shape in _in_order(slide.shapes) if shape != heading for block in _shape(shape)]
    # Drawings in two forms, for newer and older programs: python-pptx reads neither, so the newer one is read here.
    for choice in slide._element.xpath("./p:cSld/p:spTree//*[local-name() = 'AlternateContent']/*[1]"):
        blocks += [as_paragraph(text) for text in _texts(choice)]
    notes = slide.notes_slide.notes_text_frame if slide.has_notes_slide else None
    blocks += list(_paragraphs(notes)) if notes is not None else []
    blocks += [as_paragraph(comment) for comment in comments]
    if name or blocks:
        yield f"# {escape_inline(name) or f'Slide {number}'}"
    yield from blocks


def _in_order(shapes: Iterable[Any]) -> list[Any]:
    return sorted(shapes, key=lambda shape: (shape.top or 0, shape.left or 0))


def _shape(shape: Any) -> Iterator[str]:
    if hasattr(shape, "shapes"):  # a group
        for inner in _in_order(shape.shapes):
            yield from _shape(inner)
    elif getattr(shape, "has_table", False):
        yield markdown_tables(_table(shape.table))
    elif getattr(shape, "has_chart", False):
        yield from _chart(shape.chart.part._element)
    elif shape.has_text_frame:
        yield from _paragraphs(shape.text_frame)
    elif diagrams := list(shape._element.iter(f"{DGM}relIds")):
        yield from (
            as_paragraph(text) for diagram in diagrams for text in _diagram(shape.part, diagram.get(f"{R}dm", ""))
        )
    else:
        pictured = shape._element.xpath(".//p:cNvPr/@descr")
        yield from (as_paragraph(text) for text in [*paragraph_texts(shape._element), *pictured[:1]] if text.strip())


def _table(table: Any) -> list[list[str]]:
    """The rows of a table; merged cells are repeated as `spread` does."""
    cells = [list(row.cells) for row in table.rows]
    spans = [
        (top, left, cell.span_height, cell.span_width)
        for top, row in enumerate(cells)
        for left, cell in enumerate(row)
        if cell.is_merge_origin
    ]
    return spread([[escape_inline(cell.text) for cell in row] for row in cells], spans)


def _diagram(part: Any, id_: str) -> list[str]:
    try:
        return list(diagram_texts(parse_part(part.related_part(id_).blob)))
    except (KeyError, etree.XMLSyntaxError):
        return []


def _texts(element: Any) -> Iterator[str]:
    for paragraph in element.iter(f"{A}p"):
        text = "".join(t.text or "" for t in paragraph.iter(f"{A}t", f"{_M}t"))
        if text.strip():
            yield text


def _authors(archive: Any, main: str) -> dict[str, str]:
    """Id -> name of the authors of comments, in the parts of older and of newer programs."""
    found = {}
    for _, root in related(archive, main, "commentAuthors", "authors"):
        for author in root.iter(f"{_P}cmAuthor", f"{_P188}author"):
            found[author.get("id", "")] = author.get("name", "")
    return found


def _comments(root: Any, authors: dict[str, str]) -> Iterator[str]:
    for comment in root.iter(f"{_P}cm", f"{_P188}cm", f"{_P188}reply"):
        own = [child for child in comment if child.tag in (f"{_P}text", f"{_P188}txBody")]
        text = " ".join("".join(child.itertext()) for child in own)
        if text.strip():
            yield comment_line(
                text, authors.get(comment.get("authorId", "")), comment.get("dt") or comment.get("created")
            )


def _paragraphs(frame: Any) -> Iterator[str]:
    """The paragraphs of a text frame; those that are indented or carry a bullet are list items."""
    items: list[str] = []
    for paragraph in frame.paragraphs:
        # An equation is an element of its own within a paragraph, which python-pptx leaves out.
        maths = "".join(t.text or "" for t in paragraph._p.iter(f"{_M}t"))
        text = escape_inline(" ".join(f"{paragraph.text} {maths}".split()))
        if not text:
            continue
        marks = paragraph._p.xpath("./a:pPr/a:buChar | ./a:pPr/a:buAutoNum")
        if paragraph.level or marks:
            items.append(f"{'  ' * paragraph.level}- {text}")
            continue
        if items:
            yield "\n".join(items)
            items = []
        yield escape_block_start(text)
    if items:
        yield "\n".join(items)


def _chart(chart: Any) -> Iterator[str]:
    """The titles and the figures of a chart, read from its XML: python-pptx does not know all kinds of charts."""
    yield from (as_paragraph(title) for title in chart_titles(chart))
    if rows := chart_rows(chart):
        yield markdown_table(rows)
