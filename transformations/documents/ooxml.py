"""Parts of an Office file in, what Word, Excel and PowerPoint share out: relations, charts, diagrams, comments."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, NamedTuple
from urllib.parse import unquote

from lxml import etree

from transformations.documents.extract import RefusedDocumentError

A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
C = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
DGM = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}"
R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_RELATIONSHIP = "{http://schemas.openxmlformats.org/package/2006/relationships}Relationship"
# Points of a diagram that are drawing only, and hold no text of the author.
_DRAWN_POINTS = frozenset({"pres", "parTrans", "sibTrans"})
_MAX_PARTS = 10_000


class Relation(NamedTuple):
    """A link from one part to another.

    Attributes:
        kind: the last word of the relation's type, such as `chart`.
        part: the name of the other part; "" for a web address.
    """

    kind: str
    part: str


def parse_part(content: bytes) -> Any:
    """The root element of a part. Entities are not resolved, and nothing is fetched.

    Raises:
        etree.XMLSyntaxError: it is no XML.
        MemoryError: libxml2 got no memory.
        RefusedDocumentError: `unparseable`: it refers to an entity.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        if not error.lineno:  # an error without a place: libxml2 got no memory
            raise MemoryError from error
        raise
    for element in list(root.iter(etree.Entity)):
        raise RefusedDocumentError(f"unparseable: it refers to the entity {element.name!r}, which is not resolved")
    return root


def relations(archive: zipfile.ZipFile, part: str) -> dict[str, Relation]:
    """Id -> relation of a part; of the whole file if `part` is "". None at all if the list is missing or broken."""
    folder, name = posixpath.split(part)
    try:
        root = parse_part(archive.read(posixpath.join(folder, "_rels", f"{name}.rels")))
    except (KeyError, etree.XMLSyntaxError):
        return {}
    found = {}
    for relation in list(root.iter(_RELATIONSHIP))[:_MAX_PARTS]:
        target = relation.get("Target", "")
        is_outside = relation.get("TargetMode") == "External"
        path = "" if is_outside else posixpath.normpath(posixpath.join("/", folder, unquote(target))).lstrip("/")
        found[relation.get("Id", "")] = Relation(posixpath.basename(relation.get("Type", "")), path)
    return found


def main_part(archive: zipfile.ZipFile, usual: str) -> str | None:
    """The main part that the file names, or else the `usual` one if that exists.

    None if there is none, or if its root element is not that of such a file (`document` for Word).
    """
    names = set(archive.namelist())
    named = (r.part for r in relations(archive, "").values() if r.kind == "officeDocument" and r.part in names)
    part = next(named, usual if usual in names else None)
    kind = usual.rpartition("/")[2].removesuffix(".xml")  # the name of its root: document, workbook, presentation
    return part if part is None or _root_name(archive, part) in (kind, None) else None


def _root_name(archive: zipfile.ZipFile, part: str) -> str | None:
    """The name of a part's root element; None if it cannot be read: whoever reads the whole part then says why."""
    try:
        with archive.open(part) as stream:
            _, root = next(iter(etree.iterparse(stream, events=("start",), resolve_entities=False, no_network=True)))
            return str(etree.QName(root).localname)
    except (etree.XMLSyntaxError, StopIteration, OSError, ValueError, zipfile.BadZipFile):
        return None


def related(archive: zipfile.ZipFile, part: str, *kinds: str) -> Iterator[tuple[str, Any]]:
    """Name and root of each part of one of `kinds` that `part` links to; a broken or missing one is left out."""
    for relation in relations(archive, part).values():
        if relation.kind in kinds and relation.part:
            try:
                yield relation.part, parse_part(archive.read(relation.part))
            except (KeyError, etree.XMLSyntaxError):
                continue


def paragraph_texts(element: Any) -> Iterator[str]:
    """The text of each paragraph of a drawing, on one line; blank ones are left out."""
    for paragraph in element.iter(f"{A}p"):
        text = "".join(t.text or "" if t.tag == f"{A}t" else "\n" for t in paragraph.iter(f"{A}t", f"{A}br"))
        if text.strip():
            yield " ".join(text.split())


def comment_line(text: str, author: str | None, at: str | None) -> str:
    """A comment as one line, with its author and date if they are known."""
    about = ", ".join(filter(None, ((author or "").strip(), (at or "")[:19])))
    return f"Comment ({about}): {' '.join(text.split())}" if about else f"Comment: {' '.join(text.split())}"


def diagram_texts(model: Any) -> Iterator[str]:
    """The texts of a diagram (SmartArt), in the order of its data."""
    for point in model.iter(f"{DGM}pt"):
        if point.get("type") not in _DRAWN_POINTS:
            text = " ".join(paragraph_texts(point))
            if text:
                yield text


def chart_titles(chart: Any) -> list[str]:
    """The titles of a chart and of its axes."""
    titles = (" ".join("".join(t.text or "" for t in title.iter(f"{A}t")).split()) for title in chart.iter(f"{C}title"))
    return [title for title in titles if title]


def chart_rows(chart: Any) -> list[list[str]]:
    """The figures of a chart: a row for each category (or x), a column for each series; the first row names them."""
    rows: dict[tuple[int, str], list[str]] = {}
    names = [""]
    series_of_chart = list(chart.iter(f"{C}ser"))
    for place, series in enumerate(series_of_chart):
        names.append(" ".join(_values(series, "tx")))
        categories = _values(series, "cat") or _values(series, "xVal")
        values = _values(series, "val") or _values(series, "yVal")
        seen: dict[str, int] = {}
        for category, value in zip_longest(categories, values, fillvalue=""):
            seen[category] = seen.get(category, 0) + 1  # a category may come twice
            row = rows.setdefault((seen[category], category), [""] * len(series_of_chart))
            row[place] = value
    return [names, *([category, *values] for (_, category), values in rows.items())] if rows else []


def _values(series: Any, part: str) -> list[str]:
    for found in series.findall(f"{C}{part}"):
        points = list(found.iter(f"{C}pt"))
        levels = list(found.iter(f"{C}lvl"))
        if len(levels) > 1:  # categories in levels: the innermost names the point
            points = list(levels[0].iter(f"{C}pt"))
        return ["".join(v.text or "" for v in point.iter(f"{C}v")) for point in points] or [
            v.text or "" for v in found.iter(f"{C}v")
        ]
    return []
