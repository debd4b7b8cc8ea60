"""An HTML element that shows code in, its code (without line numbers and buttons) and its language out."""

from __future__ import annotations

import re

from lxml import etree
from lxml.html import HtmlElement

_PRE = frozenset(("pre", "xmp", "listing", "plaintext"))
_LANGUAGE = re.compile(r"(?:^|\s)(?:language-|lang-|highlight-source-|highlight-|sourceCode\s+|brush:\s*)([\w+#.-]+)")
_NO_LANGUAGE = frozenset(("default", "none", "plaintext", "text", "notranslate", "console-output"))
_NO_CODE = re.compile(r"(?:^|\s)(?:linenos?|lineno|line-numbers?(?:-rows)?|gutter)(?:\s|$)")
_LINES = frozenset(("div", "p", "li", "tr"))


def is_code_block(element: HtmlElement) -> bool:
    """Whether all of an element is a block of code; Doxygen writes one as a `div` with a `div` for each line."""
    if element.tag in _PRE:
        return True
    return element.tag == "div" and (element.get("class") or "") == "fragment"


def code_of(element: HtmlElement) -> str:
    """The text of the code with its line breaks, without line numbers and buttons."""
    parts: list[str] = []
    walker = etree.iterwalk(element, events=("start", "end"))
    is_left_out = False
    for event, part in walker:
        if event == "start":
            is_left_out = part.tag in ("button", "script", "style") or bool(_NO_CODE.search(part.get("class") or ""))
            if is_left_out:
                walker.skip_subtree()
            elif part.tag == "br":
                parts.append("\n")
            elif part.text:
                parts.append(part.text)
            continue
        if not is_left_out and part.tag in _LINES and parts and not parts[-1].endswith("\n"):
            parts.append("\n")
        is_left_out = False
        if part is not element and part.tail:
            parts.append(part.tail)
    code = "".join(parts)
    return code.replace("\r\n", "\n").strip("\n")


def language_of(element: HtmlElement) -> str:
    """The language that the page names for a block of code; "" if it names none."""
    around = [element, *element.iter("code"), *(parent for parent in list(element.iterancestors())[:2])]
    for part in around:
        named = _LANGUAGE.search(part.get("class") or "")
        if named and named.group(1).lower() not in _NO_LANGUAGE:
            return named.group(1)
    return ""
