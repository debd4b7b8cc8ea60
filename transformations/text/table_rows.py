"""A table of a Markdown text in, its rows with their column names out, in time linear in the text.

markdown-it fills every row with blank cells up to the header's width: a header of a thousand columns with three
thousand short rows gives three million tokens. GFM also drops the cells beyond the header's width; here they are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from markdown_it.rules_block import StateBlock

_BAR = re.compile(r"(?<!\\)\|")
_RULE = re.compile(r":?-+:?")
# Each row repeats the names of its columns; of a longer name it repeats this many characters.
_MAX_NAME = 120


def table_rule(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A rule for tables that replaces markdown-it's own: it makes one token, which holds the cells of each row."""
    if start + 2 > end or state.sCount[start + 1] < state.blkIndent:
        return False
    if state.is_code_block(start) or state.is_code_block(start + 1):
        return False
    rule, head = _line(state, start + 1), _line(state, start)
    # "- -" is a list in a list.
    if rule[:1] not in ("|", "-", ":") or (rule[:1] == "-" and rule[1:2] in (" ", "\t")) or set(rule) - set("|-: \t"):
        return False
    rules = [cell.strip() for cell in rule.strip("|").split("|")] if rule.strip("|") else []
    names = _cells(head)
    if "|" not in head or len(names) != len(rules) or not all(map(_RULE.fullmatch, rules)):
        return False
    if silent:
        return True
    parent, state.parentType = state.parentType, "table"
    terminators = state.md.block.ruler.getRules("blockquote")
    rows, line = [names], start + 2
    while line < end and state.sCount[line] >= state.blkIndent and not state.is_code_block(line):
        text = _line(state, line)
        if not text or any(terminator(state, line, end, True) for terminator in terminators):
            break
        rows.append(_cells(text))
        line += 1
    state.parentType = parent
    token = state.push("table_open", "table", 1)
    token.map, token.meta = [start, line], {"rows": rows}
    state.push("table_close", "table", -1)
    state.line = line
    return True


def named_rows(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Each row of a table with its column names; if a name is in no row, or is shortened, the header comes first.

    >>> list(named_rows([["a", "b", "c"], ["1", "", "", "4"], ["", "2"]]))
    ['a | b | c', 'a: 1 | 4', 'b: 2']
    """
    head, body = rows[0], rows[1:]
    names = [name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}…" for name in head]
    filled = {column for row in body for column, cell in enumerate(row) if cell}
    if any(name and (column not in filled or name != names[column]) for column, name in enumerate(head)):
        yield " | ".join(filter(None, head))
    for row in body:
        named = [
            f"{names[column]}: {cell}" if column < len(names) and names[column] else cell
            for column, cell in enumerate(row)
            if cell
        ]
        if named:
            yield " | ".join(named)


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]].strip()


def _cells(text: str) -> list[str]:
    """The cells of a row; a bar at its start or end makes no cell, and a bar with a backslash is part of its cell."""
    cells = [" ".join(cell.replace("\\|", "|").split()) for cell in _BAR.split(text)]
    if cells and not cells[0]:
        del cells[0]
    if cells and not cells[-1]:
        del cells[-1]
    return cells
