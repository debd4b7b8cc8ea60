"""JSON or XML in, the same as Markdown out: a table if it is a list of flat objects, else a block of code."""

from __future__ import annotations

import json

from lxml import etree

from transformations.documents.extract import Extract, RefusedDocumentError
from transformations.documents.ooxml import parse_part
from transformations.documents.table import markdown_table
from transformations.text.blocks import fenced

_MAX_DEPTH = 200
# How many cells a table may have for each cell that is filled.
_MAX_CELLS = 10


def parse_json(text: str) -> Extract:
    """A list of flat objects becomes a table with a row for each, if at least a tenth of its cells is filled.

    Anything else becomes a block of code, one value a line.

    Raises:
        RefusedDocumentError: `unparseable`, with the place.
    """
    try:
        value = json.loads(
            text, parse_float=_Number, parse_int=_Number, parse_constant=_Number, object_pairs_hook=_Object
        )
    except json.JSONDecodeError as error:
        raise RefusedDocumentError(f"unparseable: line {error.lineno}: {error.msg}") from None
    title = next((one for name, one in value if name == "title"), None) if isinstance(value, _Object) else None
    if type(value) is list and value and all(_is_flat(row) for row in value):
        names = list(dict.fromkeys(name for row in value for name, _ in row))
        # Objects without common names would give a table of blanks, whose size grows with the square of their number.
        if len(names) * len(value) <= _MAX_CELLS * sum(map(len, value)):
            fields = [{name: _shown(one) for name, one in row} for row in value]
            rows = [[row.get(name, "") for name in names] for row in fields]
            return Extract(None, markdown_table([names, *rows]), {"rows": len(rows), "columns": len(names)})
    laid_out = "\n".join(_lines(value, 0))
    return Extract(title if isinstance(title, str) else None, fenced(laid_out, "json"))


class _Number(str):
    """A number as it is written, so that no digit is lost."""


class _Object(list[tuple[str, object]]):
    """The names and values of an object, in order; a name may come twice."""


def parse_xml(content: bytes) -> Extract:
    """The document as it is, without its XML declaration, as a block of code; nothing that it refers to is opened.

    Raises:
        RefusedDocumentError: `unparseable`: no XML (with the place), or it refers to an entity.
    """
    try:
        root = parse_part(content)
    except etree.XMLSyntaxError as error:
        raise RefusedDocumentError(f"unparseable: {error}") from None
    titles = (element.text for element in root.iter("{*}title", "{*}Title") if element.text and element.text.strip())
    return Extract(next(titles, None), fenced(etree.tostring(root, encoding="unicode").strip(), "xml"))


def _is_flat(row: object) -> bool:
    if not isinstance(row, _Object) or any(isinstance(value, list) for _, value in row):
        return False
    return len({name for name, _ in row}) == len(row) > 0


def _shown(value: object) -> str:
    return str(value) if isinstance(value, str) else json.dumps(value)


def _lines(value: object, depth: int, before: str = "", after: str = "") -> list[str]:
    """Like `json.dumps(…, indent=1)`, but numbers are written as they were."""
    indent = " " * depth
    if depth > _MAX_DEPTH:
        raise RefusedDocumentError(f"unparseable: it is nested more than {_MAX_DEPTH} deep")
    if isinstance(value, _Object):
        inner = [(f"{json.dumps(key, ensure_ascii=False)}: ", one) for key, one in value]
        marks = "{}"
    elif isinstance(value, list):
        inner, marks = [("", one) for one in value], "[]"
    else:
        shown = str(value) if isinstance(value, _Number) else json.dumps(value, ensure_ascii=False)
        return [f"{indent}{before}{shown}{after}"]
    lines = [f"{indent}{before}{marks[0]}"]
    for place, (name, one) in enumerate(inner):
        lines += _lines(one, depth + 1, name, "," if place < len(inner) - 1 else "")
    return [*lines, f"{indent}{marks[1]}{after}"]
