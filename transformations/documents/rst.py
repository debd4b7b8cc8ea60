"""reStructuredText (also Sphinx's) in, its title and its text as Markdown out.

docutils parses it, with everything switched off that reads a file, uses the network, or tells the time. docutils would
drop the content of a directive or role that it does not know: `rst_markup` keeps it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from docutils import nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import directives, roles

from transformations.documents.doctree import render_document
from transformations.documents.extract import Extract
from transformations.documents.rst_markup import register_markup

_SETTINGS = {
    "_disable_config": True,
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "report_level": 5,
    "halt_level": 5,
    "warning_stream": False,
    # Let errors through; without this docutils prints a report and calls sys.exit.
    "traceback": True,
    # A table may be wide, and a paragraph may be one long line.
    "line_length_limit": 10**9,
    # As in Sphinx: the first title is a section like every other, and a field list at the top is no bibliography.
    "doctitle_xform": False,
    "docinfo_xform": False,
    "sectnum_xform": False,
    "syntax_highlight": "none",
    "smart_quotes": False,
    "datestamp": None,
}
_registries = threading.Lock()


def parse_rst(text: str) -> Extract:
    """Return the title (of the first section) and the text as Markdown.

    The result depends on `text` alone: not on files, and not on the documents parsed before it.

    Raises:
        Exception: whatever docutils raises, such as RecursionError for some hundred levels of nesting.
    """
    with _own_registries():
        register_markup(text)
        document = publish_doctree(text, settings_overrides=dict(_SETTINGS))
    title = next(
        (node.astext() for node in document.findall(nodes.title) if isinstance(node.parent, nodes.section)), None
    )
    return Extract(title, render_document(document))


@contextmanager
def _own_registries() -> Iterator[None]:
    """Undo on leaving whatever a document registers: docutils keeps names in dictionaries of the process.

    Otherwise a `.. role::` or `.. default-role::` of one document would change how the next one is read. docutils
    offers no better way; Sphinx's `docutils_namespace` does the same. The lock is for threads: one parse at a time uses
    the registries, from its start to its end.
    """
    with _registries:
        registries: list[dict[str, Any]] = [getattr(directives, "_directives"), getattr(roles, "_roles")]  # noqa: B009
        known = [dict(registry) for registry in registries]
        try:
            yield
        finally:
            for registry, before in zip(registries, known, strict=True):
                registry.clear()
                registry.update(before)
