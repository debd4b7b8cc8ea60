"""Comma-separated values in (or with semicolons, tabs, bars), one Markdown table out; its first row is the header."""

from __future__ import annotations

import csv
from io import StringIO

from transformations.documents.extract import Extract, RefusedDocumentError
from transformations.documents.table import markdown_table

_DELIMITERS = ",;\t|"


def parse_csv(text: str) -> Extract:
    """Return no title, the table, and the numbers of its rows (without the header) and columns.

    The delimiter is the one that cuts the header into most cells; of two, the one that stands first in `,;<tab>|`.
    Shorter rows are filled with blanks, longer ones widen the table.

    Raises:
        RefusedDocumentError: `unparseable`, with the line: a quote that is not closed, or text behind a closed one.
    """
    delimiter = max(_DELIMITERS, key=lambda d: len(next(csv.reader(StringIO(text), delimiter=d), [])))
    reader = csv.reader(StringIO(text), delimiter=delimiter, strict=True)
    try:
        rows = [row for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise RefusedDocumentError(f"unparseable: line {reader.line_num}: {error}; is a quote broken?") from None
    columns = max(map(len, rows), default=0)
    return Extract(None, markdown_table(rows), {"rows": max(len(rows) - 1, 0), "columns": columns})
