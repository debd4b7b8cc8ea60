"""The elements of an HTML page in, a docutils tree of what a reader sees out, for `doctree` to write.

The page is read in one pass without recursion, so it may nest at any depth. Lists and quotations keep up to 24 levels;
wrappers (`div`, `section`, …) never nest. Tables that are only layout, and rows that only hold a heading, become plain
blocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import cast

from docutils import nodes
from lxml import etree
from lxml.html import HtmlElement

from transformations.documents.html_code import code_of, is_code_block, language_of

HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SKIPPED = _words(
    "head script style template noscript svg canvas iframe object embed audio video applet select datalist optgroup "
    "option button rp param source track col colgroup"
)
_MARKS: dict[str, type[nodes.Element]] = {
    **dict.fromkeys(("b", "strong"), nodes.strong),
    **dict.fromkeys(("i", "em", "cite", "dfn"), nodes.emphasis),
}
_CODE = frozenset(("code", "kbd", "samp", "tt"))
_LISTS: dict[str, type[nodes.Element]] = {
    **dict.fromkeys(("ul", "menu", "dir"), nodes.bullet_list),
    "ol": nodes.enumerated_list,
}
# Characters to put before and after the text of an element that Markdown has no mark for.
_AROUND = {"q": ("“", "”"), "s": ("~~", "~~"), "del": ("~~", "~~"), "strike": ("~~", "~~")}
_BLOCKS = _words(
    "address article aside blockquote body caption center dd details dialog div dl dt fieldset figcaption figure "
    "footer form frameset header hgroup hr html legend li main nav noframes p search section summary table tbody td "
    "tfoot th thead tr"
) | {*HEADINGS, *_LISTS}
# The sign beside a heading that links to the heading (Sphinx, GitHub, MkDocs, Docusaurus, the icon font of Read the
# Docs), and the sign that leads back from a footnote.
_PERMALINK = re.compile("[\\s¶#§🔗⚓∞\uf0c1\u200b↩\ufe0e]*")
_RAISED = re.compile(r"[-+−]?\d+")
_MAX_NESTING = 24
_MAX_COLSPAN, _MAX_ROWSPAN = 1000, 65534


class Linked(nodes.inline):
    """The text of a link."""


def blocks_of(root: HtmlElement, *, is_left_out: Callable[[HtmlElement], bool]) -> list[nodes.Element]:
    """Return the blocks of `root` in the order of the page.

    Args:
        is_left_out: whether an element, with all that is in it, is no part of the text.
    """
    reader = _Reader(root)
    walker = etree.iterwalk(root, events=("start", "end"))
    is_taken = False  # the element that has just begun is dealt with, with all that is in it
    for event, element in walker:
        if event == "start":
            is_taken = reader.is_skipped(element) or is_left_out(element) or reader.start(element)
            if is_taken:
                walker.skip_subtree()
            else:
                reader.text(element.text)
        else:
            if not is_taken:
                reader.end(element)
            is_taken = False
            if element is not root:
                reader.text(element.tail)
    reader.flush()
    return [cast(nodes.Element, block) for block in reader.document.children]


class _Reader:
    """The state while the page is read: the open blocks, one inside the other, and the line in the innermost."""

    def __init__(self, root: HtmlElement) -> None:
        self.document = nodes.container()
        self._blocks: list[tuple[HtmlElement | None, nodes.Element]] = [(None, self.document)]
        self._line = nodes.paragraph()
        self._marks: list[tuple[HtmlElement, nodes.Element]] = []
        self._breaks = 0
        self._last = ""  # character of the line
        self._nesting = 0  # lists and quotations that are open
        self._cells = 0
        self._links = 0
        self._titled = _ancestors(root.iter(*HEADINGS))
        self._with_tables = _ancestors(root.iter("table"))
        self._structured = _ancestors(root.iter("pre", "table", "dl", *HEADINGS))

    def text(self, text: str | None) -> None:
        if text:
            self._breaks = 0 if text.strip() else self._breaks
            self._last = text[-1]
            self._inline().append(Linked("", nodes.Text(text)) if self._links else nodes.Text(text))

    def flush(self) -> None:
        """End the line of text: it becomes a paragraph, or a part of a heading or term, which hold text alone."""
        line, self._line, self._breaks, self._last = self._line, nodes.paragraph(), 0, ""
        self._marks.clear()
        if not any(not isinstance(node, nodes.Text) or node.strip() for node in line.children):
            return
        block = self._blocks[-1][1]
        if isinstance(block, nodes.title | nodes.term):
            block.extend([nodes.Text(" "), *line.children])
        else:
            self._add(line)

    def is_skipped(self, element: HtmlElement) -> bool:
        if not isinstance(element.tag, str):
            return True
        # A button that is all of a heading opens the section below it: its text is the heading.
        return element.tag in _SKIPPED and not (element.tag == "button" and self._is_top(nodes.title))

    def start(self, element: HtmlElement) -> bool:
        """Begin an element; true if that deals with all that is in it, too."""
        tag = element.tag
        if tag in _MARKS:
            self._mark(element, _MARKS[tag])
        elif is_code_block(element):
            self.flush()
            code = code_of(element)
            self._add(nodes.literal_block(code, code, language=language_of(element)))
            return True
        elif tag in _CODE and element not in self._structured:
            code = element.text_content()
            self._inline().append(nodes.literal(code, code))
            return True
        elif tag in _BLOCKS:
            self.flush()
            self._start_block(element, tag)
        elif tag == "a":
            if is_permalink(element):
                return True
            self._links += 1
        elif tag == "br":
            self._breaks += 1
            self._inline().append(nodes.Text("\n"))
            if self._breaks > 1 and not self._cells:
                self.flush()
        elif tag == "img":
            alt = " ".join((element.get("alt") or "").split())
            self.text(f" {alt} " if alt else None)
        elif tag == "input" and element.get("type", "").lower() == "checkbox" and self._is_top(nodes.list_item):
            self.text("[x] " if element.get("checked") is not None else "[ ] ")
        elif tag == "sup":
            # Without a "^", 10 to the power of 6 would become 106.
            is_power = not len(element) and _RAISED.fullmatch((element.text or "").strip()) and self._last.isalnum()
            self.text("^" if is_power else None)
        elif tag == "math":
            self._inline().append(nodes.math("", _formula(element)))
            return True
        elif tag in _AROUND:
            self.text(_AROUND[tag][0])
        return False

    def end(self, element: HtmlElement) -> None:
        if self._marks and self._marks[-1][0] is element:
            self._marks.pop()
        if element.tag in _AROUND:
            self.text(_AROUND[element.tag][1])
        self._links -= element.tag == "a"
        if element.tag not in _BLOCKS:
            return
        if element.tag in ("caption", "dt") and not self._is_top(nodes.term):
            self._lead_on()
        self.flush()
        if (element.tag == "table" and self._is_top(nodes.table)) or self._blocks[-1][0] is element:
            self._close()

    def _start_block(self, element: HtmlElement, tag: str) -> None:
        # If an end tag is missing, libxml2 puts the next element inside this one.
        if (tag in HEADINGS and self._is_top(nodes.title)) or (tag in ("dt", "dd") and self._is_top(nodes.term)):
            self._close()
        if tag in HEADINGS:
            if self._cells or self._nesting:
                self._mark(element, nodes.strong)
            else:
                self._open(element, nodes.title("", level=int(tag[1])))
        elif tag == "summary":
            self._mark(element, nodes.strong)
        elif tag == "tr":
            self._start_row(element)
        elif tag in ("td", "th"):
            if self._is_top(nodes.row):
                rows, columns = (_number(element.get(f"{n}span"), 1) for n in ("row", "col"))
                more = {"morerows": min(rows, _MAX_ROWSPAN) - 1, "morecols": min(columns, _MAX_COLSPAN) - 1}
                self._open(element, nodes.entry("", **more))
        elif tag == "li":
            if self._is_top(nodes.bullet_list, nodes.enumerated_list):
                self._open(element, nodes.list_item())
        elif tag in ("dt", "dd") and self._is_top(nodes.definition) and self._blocks[-1][0] is element.getparent():
            self._close()
            self._start_block(element, tag)
        elif tag == "dt" and self._is_top(nodes.definition_list):
            item = self._item()
            if len(item.children) > 1:
                item = nodes.definition_list_item("", nodes.term())
                self._blocks[-1][1].append(item)
            term = cast(nodes.Element, item.children[0])
            term.append(nodes.Text(", " if term.astext() else ""))
            self._blocks.append((element, term))
        elif tag == "dd" and self._is_top(nodes.definition_list):
            definition = nodes.definition()
            self._item().append(definition)
            self._blocks.append((element, definition))
        elif self._nesting < _MAX_NESTING:
            # A reader does not see a list of sections as a list.
            if tag in _LISTS and element not in self._titled:
                self._open(element, _LISTS[tag]("", start=_number(element.get("start"), 1)))
            elif tag == "blockquote" and element not in self._titled:
                self._open(element, nodes.block_quote())
            elif tag == "dl" and element not in self._structured:
                self._open(element, nodes.definition_list())

    def _start_row(self, row: HtmlElement) -> None:
        table = next(row.iterancestors("table"), None)
        if table is None or self._is_layout(row, table):
            if self._is_top(nodes.table):
                self._close()
            return
        if not self._is_top(nodes.table):
            group = nodes.tgroup("", nodes.thead(), nodes.tbody())
            self._open(None, nodes.table("", group))
        head, body = (cast(nodes.Element, part) for part in _last(self._blocks[-1][1]).children)
        cells = [cell for cell in row if cell.tag in ("td", "th")]
        is_first = not head.children and not body.children
        is_head = row.getparent().tag == "thead" or (is_first and all(cell.tag == "th" for cell in cells))
        node = nodes.row()
        (head if is_head and not body.children else body).append(node)
        self._blocks.append((row, node))

    def _is_layout(self, row: HtmlElement, table: HtmlElement) -> bool:
        """Whether a row is no row of data: it lays out parts of the page, or is a heading within a table."""
        if row in self._with_tables or table.get("role") in ("presentation", "none"):
            return True
        cells = [cell for cell in row if cell.tag in ("td", "th")]
        if any("lineno" in (cell.get("class") or "") for cell in cells):
            return True
        rows = table.iter("tr")
        if next(rows) is row and next(rows, None) is None and next(table.iter("th"), None) is None:
            return True
        if row not in self._titled:
            return False
        texts = [(cell, " ".join(cell.text_content().split())) for cell in cells]
        filled = [(cell, text) for cell, text in texts if text]
        titles = [
            (text, " ".join(" ".join(h.text_content().split()) for h in cell.iter(*HEADINGS)))
            for cell, text in filled
            if cell in self._titled
        ]
        return len(filled) == 1 or any(text != title for text, title in titles)

    def _item(self) -> nodes.Element:
        """The last item of the list of definitions that is open."""
        block = self._blocks[-1][1]
        if not block.children:
            block.append(nodes.definition_list_item("", nodes.term()))
        return _last(block)

    def _add(self, node: nodes.Element) -> None:
        block = self._blocks[-1][1]
        if isinstance(block, nodes.bullet_list | nodes.enumerated_list):
            if not block.children:
                block.append(nodes.list_item())
            block = _last(block)
        elif isinstance(block, nodes.definition_list):
            self._item().append(nodes.definition())
            block = _last(self._item())
        elif isinstance(block, nodes.table):  # text between rows
            _last(_last(block)).append(nodes.row("", nodes.entry()))
            block = _last(_last(_last(_last(block))))
        elif isinstance(block, nodes.row):
            block.append(nodes.entry())
            block = _last(block)
        block.append(node)

    def _open(self, element: HtmlElement | None, node: nodes.Element) -> None:
        self._add(node) if not isinstance(node, nodes.list_item | nodes.entry) else self._blocks[-1][1].append(node)
        self._blocks.append((element, node))
        self._nesting += isinstance(node, _NESTED)
        self._cells += isinstance(node, nodes.entry)

    def _close(self) -> None:
        node = self._blocks.pop()[1]
        self._nesting -= isinstance(node, _NESTED)
        self._cells -= isinstance(node, nodes.entry)

    def _is_top(self, *kinds: type[nodes.Element]) -> bool:
        return isinstance(self._blocks[-1][1], kinds)

    def _inline(self) -> nodes.Element:
        return self._marks[-1][1] if self._marks else self._line

    def _mark(self, element: HtmlElement, kind: type[nodes.Element]) -> None:
        """Open a mark (bold, italic) once: bold inside bold, or right after bold, goes into the same mark."""
        around = self._inline()
        if any(isinstance(node, kind) for _, node in self._marks):
            node = around
        elif around.children and type(around.children[-1]) is kind:
            node = _last(around)
        else:
            node = kind()
            around.append(node)
        self._marks.append((element, node))

    def _lead_on(self) -> None:
        line = self._line.astext().rstrip()
        if line and line[-1] not in ".:;!?":
            self._marks.clear()
            self.text(":")


def _last(node: nodes.Element) -> nodes.Element:
    return cast(nodes.Element, node.children[-1])


_NESTED = (nodes.bullet_list, nodes.enumerated_list, nodes.definition_list, nodes.block_quote)


def is_permalink(link: HtmlElement) -> bool:
    return (link.get("href") or "").startswith("#") and bool(_PERMALINK.fullmatch(link.text_content()))


def _ancestors(elements: Iterable[HtmlElement]) -> frozenset[HtmlElement]:
    """All ancestors of `elements`; each is visited once, however deep the page nests."""
    found: set[HtmlElement] = set()
    for element in elements:
        for ancestor in element.iterancestors():
            if ancestor in found:
                break
            found.add(ancestor)
    return frozenset(found)


def _formula(element: HtmlElement) -> str:
    """The TeX source of a formula if the page has it, else its text."""
    for annotation in element.iter("annotation"):
        if "tex" in (annotation.get("encoding") or "").lower():
            return str(annotation.text_content()).strip()
    return " ".join(element.text_content().split())


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 10 else default
