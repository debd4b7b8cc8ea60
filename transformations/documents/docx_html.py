"""HTML of a Word document in, the same with marks and the Markdown that replaces each mark out."""

from __future__ import annotations

from typing import Any

from lxml import html as lxml_html

from transformations.documents.plain import escape_block_start, escape_inline
from transformations.documents.table import markdown_tables, spread

# No document has these characters, and no converter touches them.
_MARK, _BACKSLASH = "\ue000{}\ue001", "\ue002"
_MAX_SPAN = 200


def marked(html: str) -> tuple[str, dict[str, str]]:
    """Return the HTML with marks, and for each mark the Markdown that it stands for.

    A table becomes a paragraph that holds its mark; a table with a single cell, used for layout, becomes its content.
    A text that would open a list or a heading ("2007.", "# 1") gets the mark of a backslash.
    """
    root = lxml_html.fragment_fromstring(html, create_parent="div")
    for paragraph in root.iter("p"):
        line = (paragraph.text or "").lstrip()
        escaped = escape_block_start(line)
        if escaped != line:
            at = next(i for i, character in enumerate(escaped) if line[i : i + 1] != character)
            paragraph.text = line[:at] + _BACKSLASH + line[at:]
    tables = {_BACKSLASH: "\\"}
    for table in list(root.iter("table")):
        rows = _rows(table)
        if len(rows) == 1 and len(rows[0]) == 1 and not _is_inside(table):
            rows[0][0].tag = "div"
            table.addprevious(rows[0][0])
            table.drop_tree()
    for table in [table for table in root.iter("table") if not _is_inside(table)]:
        mark = _MARK.format(len(tables))
        tables[mark] = markdown_tables(_grid(table))
        paragraph = lxml_html.Element("p")
        paragraph.text = mark
        table.addprevious(paragraph)
        table.drop_tree()
    return lxml_html.tostring(root, encoding="unicode"), tables


def _is_inside(table: Any) -> bool:
    return any(ancestor.tag == "table" for ancestor in table.iterancestors())


def _rows(table: Any) -> list[list[Any]]:
    """The cells of each row of the table itself, not of one inside it."""
    lines = table.xpath("./tr | ./thead/tr | ./tbody/tr | ./tfoot/tr")
    return [line.xpath("./td | ./th") for line in lines]


def _grid(table: Any) -> list[list[str]]:
    """The cells as rows of equal length; merged cells are repeated as `spread` does."""
    grid: list[list[str]] = []
    spans: list[tuple[int, int, int, int]] = []
    below: dict[int, int] = {}  # column -> how many more rows a cell from above covers
    for top, cells in enumerate(_rows(table)):
        row: list[str] = []
        waiting = list(cells)
        while waiting or below.get(len(row)):
            if below.get(len(row)):
                below[len(row)] -= 1
                row.append("")
                continue
            cell = waiting.pop(0)
            down, wide, first = _span(cell, "rowspan"), _span(cell, "colspan"), len(row)
            spans.append((top, first, down, wide))
            below.update(dict.fromkeys(range(first, first + wide), down - 1))
            row += [_cell_text(cell), *[""] * (wide - 1)]
        grid.append(row)
    return spread(grid, spans)


def _span(cell: Any, name: str) -> int:
    value = cell.get(name, "1")
    return min(max(int(value), 1), _MAX_SPAN) if value.isdigit() else 1


def _cell_text(cell: Any) -> str:
    """The text of a cell on one line; rows of a table inside it are separated by semicolons, their cells by commas."""
    for inner in reversed(cell.xpath(".//table")):  # the innermost first
        text = "; ".join(", ".join(filter(None, (_plain(c) for c in row))) for row in _rows(inner))
        paragraph = lxml_html.Element("p")
        paragraph.text = text
        inner.addprevious(paragraph)
        inner.drop_tree()
    return escape_inline(_plain(cell))


def _plain(cell: Any) -> str:
    for box in cell.iter("input"):
        box.tail = f"{'[x]' if box.get('checked') is not None else '[ ]'} {box.tail or ''}"
    for block in cell.iter("p", "li", "br", "div", "h1", "h2", "h3", "h4", "h5", "h6"):
        block.tail = f" {block.tail or ''}"
    return " ".join(cell.text_content().replace(_BACKSLASH, "").split())
