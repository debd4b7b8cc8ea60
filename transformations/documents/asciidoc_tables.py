"""Lines of AsciiDoc in, the same lines out, in which tables with spanning cells are written cell by cell.

pandoc's reader of AsciiDoc loses count after a cell over several rows: every later cell becomes a row of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_FENCE = re.compile(r"\|={3,}\s*$")
_CELL = re.compile(
    r"(?:(?<=\s)|^)(?:(?P<times>\d+)\*|(?P<wide>\d+)?(?:\.(?P<tall>\d+))?\+)?(?:[<^>]|\.[<^>]){0,2}(?P<style>[adehlmsv]?)\|",
    re.MULTILINE,
)
_SPAN = re.compile(r"(?:^|\s)(?:\d+|\d*\.\d+)\+[<^>.]*[a-z]?\|", re.MULTILINE)
_COLUMNS = re.compile(r"cols\s*=\s*(?:\"([^\"]*)\"|([^,\]\s]+))")
_MAX_CELLS = 100_000


def without_spans(lines: list[str]) -> Iterator[str]:
    """`lines` without spans: a cell that spans rows is repeated in each of them, one that spans columns stands in the
    first. A table that would have more than 100,000 cells stays as it is."""
    i = 0
    while i < len(lines):
        if _FENCE.match(lines[i]):
            end = next((j for j in range(i + 1, len(lines)) if lines[j].rstrip() == lines[i].rstrip()), None)
            if end is not None:
                yield lines[i]
                yield from _cell_by_cell(lines[i + 1 : end], attributes=lines[i - 1] if i else "")
                yield lines[end]
                i = end + 1
                continue
            yield from lines[i:]
            return
        yield lines[i]
        i += 1


def _cell_by_cell(lines: list[str], *, attributes: str) -> list[str]:
    text = "\n".join(lines)
    if not _SPAN.search(text) or "format=" in attributes:
        return lines
    marks = list(_CELL.finditer(text))
    first = next((line for line in lines if line.strip()), "")
    width = _width(attributes) or sum(int(m["wide"] or m["times"] or 1) for m in _CELL.finditer(first))
    if not width:
        return lines
    grid: dict[tuple[int, int], str] = {}
    place = 0  # counted row by row
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        content = text[mark.end() : following.start() if following else len(text)].strip()
        wide, tall = min(int(mark["wide"] or 1), width), int(mark["tall"] or 1)
        for _ in range(int(mark["times"] or 1)):
            while divmod(place, width) in grid:
                place += 1
            row, column = divmod(place, width)
            if (len(grid) + wide * tall) > _MAX_CELLS:
                return lines
            for r in range(row, row + tall):
                for c in range(column, min(column + wide, width)):
                    grid[r, c] = f"{mark['style']}|{content if c == column else ''}"
    rows = [[grid.get((r, c), "|") for c in range(width)] for r in range(max((r for r, _ in grid), default=-1) + 1)]
    at = lines.index(first)
    has_header = len(lines) > at + 1 and not lines[at + 1].strip() and len(list(_CELL.finditer(first))) > 1
    head = [" ".join(rows[0]), ""] if rows and (has_header or "header" in attributes) else []
    return [*head, *(line for row in rows[1 if head else 0 :] for cell in row for line in cell.split("\n"))]


def _width(attributes: str) -> int:
    """How many columns a table has according to the line above it; 0 if that line does not say."""
    found = _COLUMNS.search(attributes)
    if not found:
        return 0
    columns = re.split(r"[,;]", (found.group(1) or found.group(2) or "").strip())
    counted = (re.match(r"\s*(\d+)\*", column) for column in columns)
    return sum(int(times.group(1)) if times else 1 for times in counted)
