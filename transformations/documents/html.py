"""An HTML page in, its title and its main content as Markdown out: no navigation, no footer, no script."""

from __future__ import annotations

from copy import deepcopy

import trafilatura
from trafilatura.metadata import extract_metadata
from trafilatura.settings import DEFAULT_CONFIG

# With its default sizes trafilatura distrusts a page of less than 250 characters and falls back to its bare text, which
# loses headings, code and tables. A page of documentation may well be short.
_CONFIG = deepcopy(DEFAULT_CONFIG)
for _size in ("MIN_EXTRACTED_SIZE", "MIN_OUTPUT_SIZE"):
    _CONFIG.set("DEFAULT", _size, "1")


def parse_html(text: str) -> tuple[str | None, str]:
    """Return the title of the page and its main content; "" where there is none.

    Where no main content is found, the whole text of the page is taken rather than nothing.
    """
    markdown = trafilatura.extract(
        text,
        output_format="markdown",
        include_comments=False,
        include_formatting=True,
        include_tables=True,
        config=_CONFIG,
    )
    markdown = markdown or trafilatura.html2txt(text)
    metadata = extract_metadata(text) if markdown else None
    return (metadata.title or None) if metadata else None, markdown or ""
