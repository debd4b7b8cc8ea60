"""Rows of cells in, a Markdown table out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformations.documents.plain import escape_block_start

# How many blank cells may stand at the end of a row; if there are more, they are left out.
_MAX_BLANKS = 8


def markdown_table(rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first row is the header, shorter rows are filled, a cell is one line. "" without rows.

    >>> print(markdown_table([["a", "b|c"], ["1"]]))
    | a | b\\|c |
    | --- | --- |
    | 1 |  |
    """
    cleaned = [[_cell(cell) for cell in row] for row in rows]
    width = max(map(len, cleaned), default=0)
    if not width:
        return ""
    return table_of(cleaned[0] + [""] * (width - len(cleaned[0])), cleaned[1:])


def table_of(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already; many blank cells at the end of a row are left out.

    Readers of Markdown fill them in. A thousand columns by a thousand rows would otherwise be megabytes of blanks.

    >>> print(table_of(["a", "b"], [["1"]]))
    | a | b |
    | --- | --- |
    | 1 |  |
    """
    width = len(head)
    lines = [head, ["---"] * width, *(_without_blanks(row, width) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _without_blanks(row: Sequence[str], width: int) -> Sequence[str]:
    filled = next((len(row) - i for i, cell in enumerate(reversed(row)) if cell), 0)
    if width - filled > _MAX_BLANKS:
        return row[: max(filled, 1)]
    return [*row, *[""] * (width - len(row))]


def markdown_tables(rows: Sequence[Sequence[str]]) -> str:
    """Like `markdown_table`, but rows above the table with a single filled cell become paragraphs: they are its title.

    In a table of two columns the second may have no name. So there only a row that has no second cell is a title, not a
    row whose second cell is blank.

    >>> print(markdown_tables([["Prices", "", ""], ["a", "b", "c"], ["1", "2", "3"]]))
    Prices
    <BLANKLINE>
    | a | b | c |
    | --- | --- | --- |
    | 1 | 2 | 3 |
    """
    rows = [list(row) for row in rows if any(cell.strip() for cell in row)]
    width = max((sum(bool(cell.strip()) for cell in row) for row in rows), default=0)
    titles = []
    while len(rows) > 1 and width > min(len(rows[0]), 2) and sum(bool(cell.strip()) for cell in rows[0]) == 1:
        titles.append(escape_block_start(" ".join("".join(rows.pop(0)).split())))
    return "\n\n".join([*titles, markdown_table(rows)])


def spread(rows: list[list[str]], spans: Iterable[tuple[int, int, int, int]]) -> list[list[str]]:
    """`rows` with merged cells filled in: a cell over several rows is repeated in each of them; a cell over several
    columns stands in the first, but in the header row in each (unless it is a title over all columns).

    Args:
        rows: changed in place. The cells that a merged cell covers are blank.
        spans: row and column of the first cell, and how many rows and columns it takes.
    """
    width = max(map(len, rows), default=0)
    for top, left, down, wide in spans:
        across = wide if top == 0 and wide < width else 1
        for row in rows[top : top + down]:
            for column in range(left, min(left + across, len(row))):
                row[column] = row[column] or rows[top][left]
    return rows


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
