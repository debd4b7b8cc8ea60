"""An Excel workbook in, its sheets as Markdown tables out: with the values last computed, in their formats."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, time
from typing import Any

import openpyxl

from transformations.documents.archive import open_archive, properties
from transformations.documents.extract import Extract, RefusedDocumentError
from transformations.documents.number_format import general, shown
from transformations.documents.ooxml import main_part
from transformations.documents.plain import escape_inline
from transformations.documents.table import markdown_tables, spread
from transformations.documents.xlsx_parts import Extras, drawn_texts, extras_of, sheets_of, with_plain_styles

_USUAL = "xl/workbook.xml"


def parse_xlsx(content: bytes) -> Extract:
    """Return the title that the file's properties give, a section for each sheet, and the metadata with `sheets`.

    A blank row ends a table; blank columns are dropped. A number has the signs and zeros of its format, and all of its
    digits. A formula is kept if its value was never computed. The texts of drawings, the figures of charts and the
    comments follow the tables. Hidden sheets are kept.

    Raises:
        RefusedDocumentError: see `open_archive`; `unparseable` if the archive is no workbook.
    """
    with open_archive(content) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # openpyxl warns of extensions that it leaves out; none of them is text
        if (main := main_part(archive, _USUAL)) is None:
            raise RefusedDocumentError(f"unparseable: an archive without {_USUAL} is no workbook")
        title, metadata = properties(archive)
        plain = with_plain_styles(archive, content, main)
        workbook = openpyxl.load_workbook(plain, read_only=True, data_only=True, keep_links=False)
        read = {sheet.title: sheet for sheet in workbook.worksheets}
        blocks: list[str] = []
        names = []
        for name, part in sheets_of(archive, main):
            names.append(name)
            sheet_blocks = []
            if name in read:
                read[name].reset_dimensions()  # the size that a file names may be wrong, or a million rows
                sheet_blocks = [markdown_tables(t) for t in _tables(read[name].iter_rows(), extras_of(archive, part))]
            sheet_blocks += drawn_texts(archive, part)
            blocks += [f"# {escape_inline(name)}", *sheet_blocks] if sheet_blocks else []
        workbook.close()
    return Extract(title, "\n\n".join(blocks), {**metadata, "sheets": ", ".join(names)})


def _tables(rows: Iterable[Sequence[Any]], extras: Extras) -> Iterator[list[list[str]]]:
    """Runs of rows that are not blank, without the columns that are blank in the whole run."""
    block: list[list[str]] = []
    number = 0
    for number, row in enumerate(rows, 1):
        cells = [_text(cell) for cell in row]
        if extras.formulas:
            for at, text in enumerate(cells):
                cells[at] = text or extras.formulas.get((number, at + 1), "")
        if any(cells):
            block.append(cells)
        elif block:
            yield _table(block, number - len(block), extras)
            block = []
    if block:
        yield _table(block, number - len(block) + 1, extras)


def _table(rows: list[list[str]], first: int, extras: Extras) -> list[list[str]]:
    """The rows with the same columns in each; `first` is the sheet's number of the first row."""
    width = max(map(len, rows))
    used = [at for at in range(width) if any(at < len(row) and row[at] for row in rows)]
    if extras.merged:
        spans = [
            (top, left - 1, down, wide)
            for top in range(len(rows))
            for left, down, wide in extras.merged.get(first + top, ())
            if left <= len(rows[top])
        ]
        rows = spread([row + [""] * (width - len(row)) for row in rows], spans)
    return [[row[at] if at < len(row) else "" for at in used] for row in rows]


def _text(cell: Any) -> str:
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int | float):
        return shown(value, cell.number_format or "General") if value == value else general(value)
    if isinstance(value, datetime) and value.time() == time():
        value = value.date()
    return str(value).strip()
