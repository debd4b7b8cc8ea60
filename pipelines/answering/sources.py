"""Decides which retrieved chunks an answer may use, and which parts of them the language model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.settings.sections import AnswerSettings
from pipelines.stores import Hit
from transformations.text.chat_turns import before_turns

# Model of the index → the least score that the best chunk must have, else the question is not about the documents;
# measured by benchmarks/off_topic.py. For other models nothing was measured, so no question is refused.
_LEAST_SCORES = {"all-minilm-l6-v2": 0.3}


@dataclass(frozen=True)
class Source:
    """A chunk as an answer may use it: its title and text, each cut before an imitated turn of a chat; its place."""

    title: str
    text: str
    place: str


def is_off_topic(hits: Sequence[Hit], chosen: AnswerSettings, *, model: str) -> bool:
    """Whether all chunks score too low to be about the question; False without hits. `model`: that of the index."""
    least = _LEAST_SCORES.get(model, -1.0) if chosen.min_score is None else chosen.min_score
    return bool(hits) and max(hit.score for hit in hits) < least


def sources_of(hits: Sequence[Hit]) -> list[Source]:
    """One source for each chunk, in the same order."""
    found = []
    for hit in hits:
        title = before_turns(" > ".join(hit.heading_path) or hit.title or hit.path)
        found.append(Source(title, before_turns(hit.text), " › ".join([hit.path, *hit.heading_path[-1:]])))
    return found


def shown_of(sources: Sequence[Source], *, chars: int | None) -> list[tuple[str, str]]:
    """(title, text) of the sources that the model reads, without empty ones.

    Args:
        chars: the most characters of all texts together; None: no limit.
    """
    left = chars
    shown = []
    for place, source in enumerate(sources):
        text = source.text
        if left is not None:
            # What a short source does not use is left for the sources after it.
            text = _cut(text, left // (len(sources) - place))
            left -= len(text)
        if text.strip():
            shown.append((source.title, text))
    return shown


def _cut(text: str, chars: int) -> str:
    if len(text) <= chars:
        return text
    kept = text[:chars]
    # End at a whole line, unless that would lose more than half of the text.
    end = kept.rfind("\n")
    return kept[:end] if end > chars // 2 else kept
