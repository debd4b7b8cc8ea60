"""An HTML page in, its title and its main content as Markdown out: no navigation, no footer, no script."""

from __future__ import annotations

import re
from copy import deepcopy

import trafilatura
from trafilatura.metadata import extract_metadata
from trafilatura.settings import DEFAULT_CONFIG

from transformations.documents.extract import Extract

_PAGE = re.compile(r"<(?:html|body|!doctype)\b", re.IGNORECASE)
# With its default sizes trafilatura distrusts a page of less than 250 characters and falls back to its bare text, which
# loses headings, code and tables. A page of documentation may well be short.
_CONFIG = deepcopy(DEFAULT_CONFIG)
for _size in ("MIN_EXTRACTED_SIZE", "MIN_OUTPUT_SIZE"):
    _CONFIG.set("DEFAULT", _size, "1")


def parse_html(text: str) -> Extract:
    """Return the title of the page, its main content ("" where there is none), and author, date and description.

    A fragment, as in an e-mail, counts as the body of a page. Where no main content is found, the whole text of the
    page is taken rather than nothing.
    """
    if not _PAGE.search(text):
        text = f"<html><body>{text}</body></html>"
    tree = trafilatura.load_html(text)
    if tree is None:
        return Extract(None, "")
    found = extract_metadata(tree, extensive=False)  # what the page says, not the first date in its text
    markdown = trafilatura.extract(
        tree,
        output_format="markdown",
        include_comments=False,
        include_formatting=True,
        include_tables=True,
        favor_recall=True,  # without it, nested lists and lists in cells are lost
        config=_CONFIG,
    )
    metadata = {"author": found.author, "created_at": found.date, "description": found.description}
    return Extract(found.title or None, markdown or trafilatura.html2txt(text), metadata)
