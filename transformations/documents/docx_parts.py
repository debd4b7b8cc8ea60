"""The XML of a Word document in, the same out with plain paragraphs and tables for what mammoth cannot read.

mammoth reads paragraphs, tables, notes, links and pictures. Moved text, equations, the data of charts and diagrams,
comments, and the text boxes of newer versions of Word are rewritten here into what it reads.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lxml import etree
from markitdown.converter_utils.docx.math.omml import oMath2Latex

from transformations.documents.ooxml import (
    DGM,
    C,
    R,
    Relation,
    chart_rows,
    chart_titles,
    comment_line,
    diagram_texts,
    parse_part,
    related,
    relations,
)

_STRICT = "http://purl.oclc.org/ooxml/wordprocessingml/main"
_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
W = f"{{{_W}}}"
_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_V = "{urn:schemas-microsoft-com:vml}"
# Elements that only wrap others: their children take their place.
_WRAPPERS = ("customXml", "bdo", "dir", "ruby", "rubyBase", "rt", "fldSimple")


def prepare(content: bytes, archive: zipfile.ZipFile, part: str) -> bytes:
    """Rewrite `content`, the XML of the part `part` of `archive`, so that mammoth reads all of its text."""
    root = parse_part(content)
    if etree.QName(root).namespace == _STRICT:
        return content  # the strict form has other names, which mammoth knows
    found = relations(archive, part)
    _choose(root)
    _moved(root)
    _equations(root)
    _after(root, f"{C}chart", lambda e: _chart(archive, found.get(e.get(f"{R}id", ""))))
    _after(root, f"{DGM}relIds", lambda e: _diagram(archive, found.get(e.get(f"{R}dm", ""))))
    comments = dict(_comments(archive, part))
    _after(root, f"{W}commentReference", lambda e: _paragraphs(comments.get(e.get(f"{W}id", ""), "")))
    _text_boxes(root)
    for name in _WRAPPERS:
        etree.strip_tags(root, f"{W}{name}")
    return bytes(etree.tostring(root, xml_declaration=True, encoding="UTF-8", standalone=True))


def frame_texts(archive: zipfile.ZipFile, part: str) -> list[str]:
    """The paragraphs of headers and footers in the order of the parts, each text once."""
    texts: dict[str, None] = {}
    for kind in ("header", "footer"):
        for _, root in sorted(related(archive, part, kind), key=lambda named: named[0]):
            for paragraph in root.iter(f"{W}p"):
                text = _text(paragraph)
                if any(character.isalpha() for character in text):  # no mere page number
                    texts[text] = None
    return list(texts)


def _text(element: Any) -> str:
    parts = element.iter(f"{W}t", f"{W}tab", f"{W}br", f"{W}cr", f"{W}noBreakHyphen", f"{_M}t")
    hyphen = f"{W}noBreakHyphen"
    pieces = ("-" if e.tag == hyphen else (e.text or "") if e.tag in (f"{W}t", f"{_M}t") else " " for e in parts)
    return " ".join("".join(pieces).split())


def _choose(root: Any) -> None:
    """Keep one of two forms of the same drawing: the older, which mammoth reads, or the newer if the older is empty."""
    for either in list(root.iter(f"{_MC}AlternateContent")):
        if any(_text(form) or len(form) for form in either.findall(f"{_MC}Fallback")):
            for choice in either.findall(f"{_MC}Choice"):
                drawn = [e for tag in (f"{C}chart", f"{DGM}relIds") for e in choice.iter(tag)]
                for element in drawn:  # the older form of a chart is a picture
                    either.addprevious(element)
                either.remove(choice)
            continue
        for choice in either.findall(f"{_MC}Choice")[:1]:
            for child in list(choice):
                either.addprevious(child)
        _removed(either)


def _moved(root: Any) -> None:
    for source in list(root.iter(f"{W}moveFrom")):
        _removed(source)
    for target in root.iter(f"{W}moveTo"):
        target.tag = f"{W}ins"


def _equations(root: Any) -> None:
    for equation in list(root.iter(f"{_M}oMath")):
        if any(ancestor.tag == f"{_M}oMath" for ancestor in equation.iterancestors()):
            continue
        mark = "$$" if equation.getparent().tag == f"{_M}oMathPara" else "$"
        latex = _latex(equation)
        run = etree.Element(f"{W}r")
        text = etree.SubElement(run, f"{W}t")
        text.set("{http://www.w3.org/XML/1998/namespace}space", "preserve")
        text.text = f"{mark}{latex}{mark}" if latex else ""
        equation.addprevious(run)
        _removed(equation)
    etree.strip_tags(root, f"{_M}oMathPara")


def _latex(equation: Any) -> str:
    """The LaTeX of an equation; its bare text if no LaTeX can be made."""
    for fraction in equation.iter(f"{_M}f"):  # a file may leave out its properties, which the library needs
        if fraction.find(f"{_M}fPr") is None:
            fraction.insert(0, etree.Element(f"{_M}fPr"))
    bare = " ".join("".join(t.text or "" for t in equation.iter(f"{_M}t")).split())
    try:
        return str(oMath2Latex(equation).latex).strip() or bare  # type: ignore[no-untyped-call]
    except Exception:  # of any kind: an equation that the library does not know must not lose its text
        return bare


def _text_boxes(root: Any) -> None:
    """Copy the text of a text box that mammoth does not look into behind the paragraph that holds the box."""
    for box in list(root.iter(f"{W}txbxContent")):
        if not any(ancestor.tag == f"{_V}textbox" for ancestor in box.iterancestors()):
            _insert(box, list(box))


def _after(root: Any, tag: str, blocks: Callable[[Any], Sequence[Any]]) -> None:
    for element in list(root.iter(tag)):
        _insert(element, blocks(element))


def _insert(element: Any, blocks: Sequence[Any]) -> None:
    """Put blocks behind the paragraph that holds `element`."""
    place = next((ancestor for ancestor in element.iterancestors() if ancestor.tag == f"{W}p"), None)
    for block in reversed(blocks):
        if place is not None:
            place.addnext(block)


def _chart(archive: zipfile.ZipFile, relation: Relation | None) -> list[Any]:
    chart = _part(archive, relation)
    if chart is None:
        return []
    rows = chart_rows(chart)
    return [*_paragraphs(*chart_titles(chart)), *([_table(rows)] if rows else [])]


def _diagram(archive: zipfile.ZipFile, relation: Relation | None) -> list[Any]:
    model = _part(archive, relation)
    return [] if model is None else _paragraphs(*diagram_texts(model))


def _part(archive: zipfile.ZipFile, relation: Relation | None) -> Any:
    if relation is None:
        return None
    try:
        return parse_part(archive.read(relation.part))
    except (KeyError, etree.XMLSyntaxError):
        return None


def _comments(archive: zipfile.ZipFile, part: str) -> Iterator[tuple[str, str]]:
    for _, root in related(archive, part, "comments"):
        for comment in root.iter(f"{W}comment"):
            text = " ".join(filter(None, (_text(paragraph) for paragraph in comment.iter(f"{W}p"))))
            if text:
                line = comment_line(text, comment.get(f"{W}author"), comment.get(f"{W}date"))
                yield comment.get(f"{W}id", ""), line


def _paragraphs(*texts: str) -> list[Any]:
    made = []
    for text in filter(None, texts):
        paragraph = etree.Element(f"{W}p")
        etree.SubElement(etree.SubElement(paragraph, f"{W}r"), f"{W}t").text = text
        made.append(paragraph)
    return made


def _table(rows: Sequence[Sequence[str]]) -> Any:
    table = etree.Element(f"{W}tbl")
    for row in rows:
        line = etree.SubElement(table, f"{W}tr")
        for cell in row:
            etree.SubElement(line, f"{W}tc").extend(_paragraphs(cell) or [etree.Element(f"{W}p")])
    return table


def _removed(element: Any) -> None:
    """Remove an element from its tree; the text after it stays."""
    parent, before = element.getparent(), element.getprevious()
    if element.tail:
        if before is not None:
            before.tail = (before.tail or "") + element.tail
        else:
            parent.text = (parent.text or "") + element.tail
    element.tail = None
    parent.remove(element)
