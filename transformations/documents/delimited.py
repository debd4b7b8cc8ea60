"""Values separated by commas, semicolons, tabs or bars in, one Markdown table out; its first row is the header."""

from __future__ import annotations

import csv
from collections import Counter
from contextlib import suppress
from io import StringIO
from itertools import islice

from transformations.documents.extract import Extract, RefusedDocumentError
from transformations.documents.table import markdown_tables

_DELIMITERS = ",;\t|"
_JUDGED_ROWS = 1000


def parse_csv(text: str) -> Extract:
    """Return no title, the table, and the numbers of its rows (without the header) and columns.

    The delimiter is the one that cuts the most of the first thousand rows into the same number of cells, two at least.
    In a tie it is the one that gives more cells a row, then the one that stands first in `,;<tab>|`. Rows of one cell
    above the table are its title. Shorter rows are filled with blanks, longer ones widen the table.

    Raises:
        RefusedDocumentError: `unparseable`, with the line: a quote that is not closed, or text after a closing quote.
    """
    delimiter = max(_DELIMITERS, key=lambda delimiter: _fit(text, delimiter))
    reader = csv.reader(StringIO(text), delimiter=delimiter, strict=True)
    try:
        rows = [row for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise RefusedDocumentError(f"unparseable: line {reader.line_num}: {error}; is a quote broken?") from None
    columns = max(map(len, rows), default=0)
    return Extract(None, markdown_tables(rows), {"rows": max(len(rows) - 1, 0), "columns": columns})


def _fit(text: str, delimiter: str) -> tuple[float, int]:
    """The most common number of cells (more than one) among the rows, as (the share of rows that have it, that number).
    (0, 1) if each row has one cell."""
    widths: Counter[int] = Counter()
    with suppress(csv.Error):  # `parse_csv` reads all of it, and says what is wrong
        for row in islice(csv.reader(StringIO(text), delimiter=delimiter), _JUDGED_ROWS):
            if any(cell.strip() for cell in row):
                widths[len(row)] += 1
    rows = widths.total()
    width, count = max(
        ((w, n) for w, n in widths.items() if w > 1), key=lambda pair: (pair[1], pair[0]), default=(1, 0)
    )
    return (count / rows if rows else 0, width)
