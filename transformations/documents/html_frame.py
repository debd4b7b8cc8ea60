"""The elements of an HTML page in, the element that holds its text and what is the frame of the site out.

Measured on the manuals and pages of `benchmarks/html.py`: a page of a manual is all text, except elements that are
marked as navigation. A page that describes itself for search engines and social networks (Open Graph, JSON-LD) is a
page of a site, with teasers, advertisements and comments around its article. There trafilatura finds the article, which
says where the text begins and ends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from docutils import nodes
from lxml.html import HtmlElement

from transformations.documents.html_tree import HEADINGS, Linked

# Roles of ARIA that are not the content of the page.
_FRAME_ROLES = frozenset(("navigation", "banner", "contentinfo", "search", "menu", "menubar", "toolbar", "dialog"))
# Names that generators give to navigation; an element with such a name that is made of links is dropped.
_NAVIGATION = re.compile(
    r"(?:^|[\s_-])(?:nav|navbar|navheader|navfooter|navigation|navpath|nav-path|navrow|breadcrumbs?|side-?bar|"
    r"sphinxsidebar|menu|pagination|skip-?link)(?:$|\s)",
    re.IGNORECASE,
)
_NAMED = frozenset(("div", "ul", "ol", "dl", "table", "aside", "section", "span", "p"))
_FOR_SITES = re.compile(r"(?:og|article|twitter):")
_HIDDEN = re.compile(r"display\s*:\s*none", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+")
_MOSTLY = 0.5
_SHINGLE = 3
# How many blocks before the article are searched for its heading.
_HEADING_REACH = 6


def root_of(page: HtmlElement) -> HtmlElement:
    """The element that holds the text: `<main>` if there is one with text, else the body."""
    mains = [main for main in page.xpath("//main|//*[@role='main']") if not _is_hidden(main)]
    if mains and not any(main in mains[0].iterdescendants() for main in mains[1:]) and len(mains) > 1:
        mains = []
    if mains and any(text.strip() for text in mains[0].itertext()):
        return mains[0]
    body = page.find("body")
    return page if body is None else body


def is_frame(element: HtmlElement) -> bool:
    """Whether an element is navigation, the head or foot of the site, or hidden from readers."""
    tag = element.tag
    if tag == "nav" or element.get("role", "").lower() in _FRAME_ROLES or _is_hidden(element):
        return True
    if tag in ("header", "footer"):
        if any(around.tag in ("main", "article") or around.get("role") == "main" for around in element.iterancestors()):
            return False
        # The head of a page that holds its title is the head of the text.
        return tag == "footer" or next(element.iter("h1", "h2"), None) is None
    name = f"{element.get('class') or ''} {element.get('id') or ''}"
    return tag in _NAMED and bool(_NAVIGATION.search(name)) and _is_of_links(element)


def is_of_site(page: HtmlElement) -> bool:
    """Whether the page describes itself for search engines and social networks."""
    if next((s for s in page.iter("script") if "ld+json" in (s.get("type") or "").lower()), None) is not None:
        return True
    return any(_FOR_SITES.match(meta.get("property") or meta.get("name") or "") for meta in page.iter("meta"))


def title_outside(page: HtmlElement, root: HtmlElement) -> str:
    """The page's only heading of level 1, if it stands outside `root`; else ""."""
    if next(root.iter("h1"), None) is not None:
        return ""
    titles = [h for h in page.iter("h1") if not _is_hidden(h) and next(h.iterancestors("nav", "footer"), None) is None]
    return " ".join(titles[0].text_content().split()) if len(titles) == 1 else ""


def of_article(blocks: Sequence[nodes.Element], article: str) -> list[nodes.Element]:
    """Those of `blocks` from the first to the last that are in `article`, and the headings before the first.

    Blocks between them that are made of links and are not in `article` are teasers, and are dropped. Without any match
    all blocks are kept.
    """
    known = _shingles(article)
    shares = [_share(block.astext(), known) for block in blocks]
    kept = [i for i, share in enumerate(shares) if share >= _MOSTLY and len(_shingles(blocks[i].astext())) > 1]
    if not kept:
        return list(blocks)
    first = kept[0]
    for i in range(first - 1, max(first - _HEADING_REACH, 0) - 1, -1):
        first = i if isinstance(blocks[i], nodes.title) else first
    return [
        block
        for i, block in enumerate(blocks)
        if first <= i <= kept[-1] and (shares[i] >= _MOSTLY or isinstance(block, nodes.title) or not _links(block))
    ]


def _links(block: nodes.Element) -> bool:
    return sum(len(link.astext()) for link in block.findall(Linked)) > _MOSTLY * len(block.astext())


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    return {(word,) for word in words} | set(pairwise(words)) | set(zip(words, words[1:], words[2:], strict=False))


def _share(text: str, known: set[tuple[str, ...]]) -> float:
    """The share of a block's runs of three words that are in `known`; with fewer words, the run of all of them."""
    words = _WORD.findall(text.casefold())
    size = min(len(words), _SHINGLE)
    runs = list(zip(*(words[i:] for i in range(size)), strict=False)) if size else []
    return sum(run in known for run in runs) / len(runs) if runs else 0.0


def _is_hidden(element: HtmlElement) -> bool:
    if element.get("role") == "tabpanel":  # a page hides all panels but one, and a reader can open each
        return False
    if element.get("hidden") is not None and element.get("hidden") != "until-found":
        return True
    return element.get("aria-hidden") == "true" or bool(_HIDDEN.search(element.get("style") or ""))


def _is_of_links(element: HtmlElement) -> bool:
    """Whether most of an element's text is in links; an element that holds a main heading is never navigation."""
    if next(element.iter(*HEADINGS[:2], "main", "article"), None) is not None:
        return False
    text = len("".join(element.text_content().split()))
    linked = sum(len("".join(link.text_content().split())) for link in element.iter("a"))
    return linked >= _MOSTLY * text
