"""An Excel workbook in, its sheets as Markdown tables out: values as they were last computed, never formulas."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, time
from io import BytesIO

import openpyxl

from transformations.documents.archive import open_archive, properties
from transformations.documents.extract import Extract, RefusedDocumentError
from transformations.documents.plain import escape_inline
from transformations.documents.table import markdown_table


def parse_xlsx(content: bytes) -> Extract:
    """Return the title that the file's properties give, a section for each sheet, and the metadata (`sheets` in it).

    A blank row ends a table; blank columns are dropped. Hidden sheets are kept.

    Raises:
        RefusedDocumentError: see `open_archive`; `unparseable` where it is an archive and no workbook.
    """
    with open_archive(content) as archive:
        if "xl/workbook.xml" not in archive.namelist():
            raise RefusedDocumentError("unparseable: an archive without xl/workbook.xml is no workbook")
        title, metadata = properties(archive)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of extensions that openpyxl leaves out; none of them is text
        workbook = openpyxl.load_workbook(BytesIO(content), read_only=True, data_only=True, keep_links=False)
        blocks = []
        for sheet in workbook.worksheets:
            sheet.reset_dimensions()  # what a file says of its size may be wrong, or a million rows
            tables = [markdown_table(table) for table in _tables(sheet.iter_rows(values_only=True))]
            blocks += [f"# {escape_inline(sheet.title)}", *tables] if tables else []
        names = ", ".join(workbook.sheetnames)
        workbook.close()
    return Extract(title, "\n\n".join(blocks), {**metadata, "sheets": names})


def _tables(rows: Iterable[Sequence[object]]) -> Iterator[list[list[str]]]:
    """Runs of rows that are not blank, without the columns that are blank in all of them."""
    block: list[list[str]] = []
    for row in rows:
        cells = [_text(value) for value in row]
        if any(cells):
            block.append(cells)
        elif block:
            yield _without_blank_columns(block)
            block = []
    if block:
        yield _without_blank_columns(block)


def _without_blank_columns(rows: list[list[str]]) -> list[list[str]]:
    width = max(map(len, rows))
    used = [at for at in range(width) if any(at < len(row) and row[at] for row in rows)]
    return [[row[at] if at < len(row) else "" for at in used] for row in rows]


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, datetime) and value.time() == time():
        value = value.date()
    return str(value).strip()
