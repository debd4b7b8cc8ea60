"""PowerPoint slides in, their title and their text as Markdown out: each slide a section, with its notes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import zip_longest
from typing import Any

import pptx

from transformations.documents.archive import open_archive, properties
from transformations.documents.extract import Extract, RefusedDocumentError
from transformations.documents.plain import escape_block_start, escape_inline
from transformations.documents.table import markdown_table

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_C = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"


def parse_pptx(content: bytes) -> Extract:
    """Return the title that the file's properties give, the slides in order, and the metadata (`slides` among it).

    A slide is a heading (its title, or "Slide 3") and its shapes from top to bottom: paragraphs, lists, tables, the
    figures of charts, the alternative text of pictures; then its notes.

    Raises:
        RefusedDocumentError: see `open_archive`; `unparseable` where it is an archive and no presentation.
    """
    with open_archive(content) as archive:
        if "ppt/presentation.xml" not in archive.namelist():
            raise RefusedDocumentError("unparseable: an archive without ppt/presentation.xml is no presentation")
        title, metadata = properties(archive)
    slides = pptx.Presentation(BytesIO(content)).slides
    blocks = [block for number, slide in enumerate(slides, 1) for block in _slide(slide, number)]
    return Extract(title, "\n\n".join(blocks), {**metadata, "slides": len(slides)})


def _slide(slide: Any, number: int) -> Iterator[str]:
    heading = slide.shapes.title
    name = " ".join(heading.text_frame.text.split()) if heading is not None else ""
    blocks = [block for shape in _in_order(slide.shapes) if shape != heading for block in _shape(shape)]
    notes = slide.notes_slide.notes_text_frame if slide.has_notes_slide else None
    blocks += list(_paragraphs(notes)) if notes is not None else []
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
        yield markdown_table([cell.text for cell in row.cells] for row in shape.table.rows)
    elif getattr(shape, "has_chart", False):
        yield from _chart(shape.chart.part._element)
    elif shape.has_text_frame:
        yield from _paragraphs(shape.text_frame)
    else:
        pictured = shape._element.xpath(".//p:cNvPr/@descr")
        yield from (_line(text) for text in pictured[:1] if text.strip())


def _paragraphs(frame: Any) -> Iterator[str]:
    """The paragraphs of a text frame; those that are indented or carry a bullet are list items."""
    items: list[str] = []
    for paragraph in frame.paragraphs:
        text = escape_inline(" ".join(paragraph.text.split()))
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
    """The title and the figures of a chart, read from its XML: python-pptx does not know all kinds of charts."""
    yield from (_line("".join(t.text or "" for t in title.iter(f"{_A}t"))) for title in chart.iter(f"{_C}title"))
    rows: dict[str, list[str]] = {}
    names = [""]
    for series in chart.iter(f"{_C}ser"):
        names.append(" ".join(_values(series, "tx")))
        for category, value in zip_longest(_values(series, "cat"), _values(series, "val"), fillvalue=""):
            rows.setdefault(category, []).append(value)
    if rows:
        yield markdown_table([names, *([category, *values] for category, values in rows.items())])


def _values(series: Any, part: str) -> list[str]:
    return [v.text or "" for found in series.iter(f"{_C}{part}") for v in found.iter(f"{_C}v")]


def _line(text: str) -> str:
    return escape_block_start(escape_inline(" ".join(text.split())))
