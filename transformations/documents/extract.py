"""What a parser hands over, and how it says that it cannot: the whole of the contract between a format and the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Extract(NamedTuple):
    """What a parser took out of one document.

    Attributes:
        title: what the document calls itself; None where it does not.
        markdown: its text.
        metadata: what it says about itself, as text; blank values are dropped later.
    """

    title: str | None
    markdown: str
    metadata: Mapping[str, object] = {}


class RefusedDocumentError(ValueError):
    """A document that gives no text; the message is its reason, which begins with a word that a rule knows."""
