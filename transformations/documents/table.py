"""Rows of cells in, a Markdown table out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformations.documents.plain import escape_block_start

# At the end of a row.
_MAX_BLANKS = 8


def markdown_table(rows: Iterable[Sequence[str]]) -> str:
    """The first row is the header; shorter rows are filled, and a cell is one line. "" where there are no rows.

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
    """A table of cells that are Markdown; a row ends before many blanks, which a reader of Markdown puts there.

    Otherwise a thousand columns by a thousand rows are megabytes of blanks, whatever was in the file.

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
    """The same, but that rows above the table with a single cell are its title: paragraphs, and no header.

    Of two columns the second may well have no name: there a title is a row of one cell, not one with a blank behind.

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
    """Rows with what merged cells say: a cell over several rows is told in each of them; one over several columns in
    the first, and in a header (but for a title over all columns) in each.

    Args:
        rows: changed in place. What a merged cell hides is blank.
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
