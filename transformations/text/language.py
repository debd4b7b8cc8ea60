"""A text in, the language of its prose and the classifier's confidence out."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from transformations.errors import MissingDependencyError

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

UNDETERMINED = "und"
# Below this, the best guess is more often wrong than right: names, single words, a list of numbers.
MIN_CONFIDENCE = 0.5
# How many characters of a document are read: its beginning shows the language, and the rest would only cost time.
_LOOKED_AT = 16_000
_PROSE = 4_000
# Of longer prose the classifier reads places spread over it. That is as reliable as reading all of it and takes half
# the time; the beginning alone would misjudge a translation whose first part was left in English.
_PLACES, _CHARACTERS_PER_PLACE = 32, 64
# Parts of prose that are in no language: inline code, the targets of links, addresses, tags.
_NO_PROSE = r"`+[^`]*`+|\]\([^()\s]*(?:\([^()\s]*\)[^()\s]*)*\)|<[^<>\s][^<>]*>|\b\w+://\S+|\bwww\.\S+"
_ASIDE = re.compile(_NO_PROSE, re.IGNORECASE)
# The search for mail addresses takes most of the time, and most texts have no "@".
_ASIDE_WITH_ADDRESSES = re.compile(rf"{_NO_PROSE}|[^\s@]{{1,64}}@\S+", re.IGNORECASE)
_FENCE = re.compile(r"[\s>]*(`{3,}(?=[^`]*$)|~{3,})")
_LIST_ITEM = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)])\s")
_LETTER = re.compile(r"[^\W\d_]")


class Language(NamedTuple):
    """A language and how sure it is.

    Attributes:
        code: ISO 639-1 if the language has such a code, else 639-3; "und" if the language cannot be determined.
        confidence: the model's probability, 0 to 1.
    """

    code: str
    confidence: float


def detect_language(text: str | None) -> Language:
    """The language of `text`, read as Markdown: code blocks, inline code and addresses are left out.

    Of the first 4,000 characters of prose, some 2,000 are judged, in places spread over them. The same text gives the
    same answer on every machine. If a text has two languages, the answer is the one with more text. The code is "und"
    if the text is null, has no letters or is in no language, or if `confidence` is below one half, as it is for most
    short texts.

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
    prose = _without_code(text[:_LOOKED_AT])
    aside = _ASIDE_WITH_ADDRESSES if "@" in prose else _ASIDE
    prose = " ".join(aside.sub(" ", prose).split())[:_PROSE]
    if len(prose) <= _PLACES * _CHARACTERS_PER_PLACE:
        return prose
    last = len(prose) - _CHARACTERS_PER_PLACE
    starts = [last * place // (_PLACES - 1) for place in range(_PLACES)]
    return " ".join(prose[start : start + _CHARACTERS_PER_PLACE] for start in starts)


def _without_code(text: str) -> str:
    """The lines of Markdown outside blocks of code: approximate, which is enough here and ten times as fast as a
    parser."""
    kept: list[str] = []
    fence, is_code, is_in_list, follows_blank = "", False, False, True
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence):
                fence = ""
            continue
        if mark:
            fence = mark[1]
        elif not line.strip():
            follows_blank = True
            continue
        elif line.startswith(("    ", "\t")) and not is_in_list and (follows_blank or is_code):
            is_code = True
            continue
        else:
            kept.append(line)
            is_in_list = bool(_LIST_ITEM.match(line)) or (is_in_list and (not follows_blank or line[0] in " \t"))
        is_code = follows_blank = False
    return "\n".join(kept)


@cache
def _identifier() -> LanguageIdentifier:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise MissingDependencyError.for_extra("py3langid", "documents") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
