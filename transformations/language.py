"""A text in; the language that its prose is written in, and how sure that is, out."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from transformations.blocks import split_blocks
from transformations.errors import MissingDependencyError

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

UNDETERMINED = "und"
# Below it, the best guess is more often wrong than right: names, single words, a list of numbers.
MIN_CONFIDENCE = 0.5
# The language of a document shows at its beginning; the rest would cost time only.
_LOOKED_AT = 16_000
_CLASSIFIED = 4_000
# What stands in prose and is in no language: inline code, the targets of links, addresses, tags.
_NO_PROSE = re.compile(
    r"`+[^`]*`+|\]\([^()\s]*(?:\([^()\s]*\)[^()\s]*)*\)|<[^<>\s][^<>]*>|\b\w+://\S+|\bwww\.\S+|[^\s@]{1,64}@\S+",
    re.IGNORECASE,
)
_LETTER = re.compile(r"[^\W\d_]")


class Language(NamedTuple):
    """`code` is ISO 639-1 where the language has one, else 639-3, and "und" where it cannot be told."""

    code: str
    confidence: float


def detect_language(text: str | None) -> Language:
    """The language of `text`, read as Markdown: code blocks, inline code and addresses are left out.

    Of the prose, the first 4,000 characters are judged. The same text gives the same answer on every machine. Two
    languages in one text: the one with more of it. "und" where the text is null, has no letters or is no language, or
    where `confidence`, the model's probability (0 to 1), is below one half; short texts mostly are.

    >>> detect_language("Die Tabelle wird nach jedem Lauf verglichen.").code
    'de'
    >>> detect_language("```python\\nprint(1)\\n```\\n")
    Language(code='und', confidence=0.0)

    Raises:
        MissingDependencyError: py3langid is not installed.
    """
    prose = _prose(text or "")
    if not _LETTER.search(prose):
        return Language(UNDETERMINED, 0.0)
    code, confidence = _identifier().classify(prose)
    # zxx: no linguistic content.
    is_known = confidence >= MIN_CONFIDENCE and code != "zxx"
    return Language(code if is_known else UNDETERMINED, round(float(confidence), 4))


def with_language(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Rows that have a `text` → the same rows with `language` and `language_confidence`; for use in `mapInArrow`."""
    found = [detect_language(text) for text in batch.column("text").to_pylist()]
    codes = pa.array([language.code for language in found], pa.string())
    confidences = pa.array([language.confidence for language in found], pa.float64())
    return batch.append_column("language", codes).append_column("language_confidence", confidences)


def _prose(text: str) -> str:
    blocks = split_blocks(text[:_LOOKED_AT])
    prose = "\n".join(block.text for block in blocks if block.kind != "code")
    return " ".join(_NO_PROSE.sub(" ", prose).split())[:_CLASSIFIED]


@cache
def _identifier() -> LanguageIdentifier:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise MissingDependencyError.for_extra("py3langid", "documents") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
