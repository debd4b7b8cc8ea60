"""An HTML page in, its title and its text as Markdown out: no navigation, no head or foot of a site, no script."""

from __future__ import annotations

import re
from copy import deepcopy

import trafilatura
from docutils import nodes
from lxml import html as lxml_html
from lxml.etree import ErrorTypes, ParserError
from lxml.html import HtmlElement
from trafilatura.metadata import extract_metadata

from transformations.documents.doctree import render_blocks
from transformations.documents.extract import Extract, RefusedDocumentError
from transformations.documents.html_frame import is_frame, is_of_site, of_article, root_of, title_outside
from transformations.documents.html_tree import blocks_of

# The text is decoded already, and the parser would take an XML declaration for text.
_DECLARATION = re.compile(r"\A\s*<\?xml[^>]*>", re.IGNORECASE)
_NO_CHARACTERS = re.compile("[\0-\x08\x0e-\x1f]")


def parse_html(text: str) -> Extract:
    """Return the title of the page, its text ("" if there is none), and author, date and description.

    A fragment, as in an e-mail, counts as the body of a page. If a page has teasers and comments around an article,
    only the article is taken.

    Raises:
        RefusedDocumentError: `unparseable`: elements nest deeper than libxml2 reads.
    """
    page = _page(text)
    if page is None:
        return Extract(None, "")
    title, metadata = _described(page)
    root = root_of(page)
    blocks = blocks_of(root, is_left_out=is_frame)
    if not blocks:  # all of the page is marked as frame
        blocks = blocks_of(root, is_left_out=_nothing)
    elif is_of_site(page) and (article := _article(page)):
        blocks = of_article(blocks, article)
    heading = title_outside(page, root)
    if heading:
        blocks.insert(0, nodes.title("", heading, level=1))
    first = next((block.astext() for block in blocks if isinstance(block, nodes.title) and block["level"] == 1), "")
    return Extract(" ".join(first.split()) or title, render_blocks(blocks), metadata)


def html_to_markdown(text: str) -> str:
    """All of a page or a fragment as Markdown: for HTML that is known to be content only."""
    page = _page(text)
    return "" if page is None else render_blocks(blocks_of(page, is_left_out=_nothing))


def _page(text: str) -> HtmlElement | None:
    text = _NO_CHARACTERS.sub("", _DECLARATION.sub("", text))
    # Without `huge_tree` libxml2 silently drops elements that nest more than 256 deep.
    parser = lxml_html.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True)
    try:
        page: HtmlElement = lxml_html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)
    except ParserError:  # nothing but blanks or comments
        return None
    if any(entry.type == ErrorTypes.ERR_RESOURCE_LIMIT for entry in parser.error_log):
        raise RefusedDocumentError("unparseable: elements nest more than 2,048 deep, and what is below would be lost")
    return page


def _nothing(element: HtmlElement) -> bool:
    return False


def _described(page: HtmlElement) -> tuple[str | None, dict[str, object]]:
    found = extract_metadata(deepcopy(page), extensive=False)  # what the page says, not the first date in its text
    return found.title or None, {
        "author": found.author,
        "created_at": found.date,
        "description": found.description,
    }


def _article(page: HtmlElement) -> str:
    return trafilatura.extract(deepcopy(page), output_format="txt", include_comments=False, include_tables=True) or ""
