"""Rows of cells in, a Markdown table out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
