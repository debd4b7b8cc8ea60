"""The contract of a parser: what it returns, and the error by which it refuses a document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Extract(NamedTuple):
    """What a parser took out of one document.

    Attributes:
        title: the document's own title; None if it has none.
        markdown: its text.
        metadata: what the document says about itself; values become text, and blank ones are dropped, later.
    """

    title: str | None
    markdown: str
    metadata: Mapping[str, object] = {}


class RefusedDocumentError(ValueError):
    """A document gives no text; the message is the reason, and begins with a word that a rule knows (`encrypted`)."""
