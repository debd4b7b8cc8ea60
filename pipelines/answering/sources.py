"""Which of the chunks that a search found an answer may rest on, and what of them a model gets to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.settings.sections import AnswerSettings
from pipelines.stores import Hit
from transformations.text.chat_turns import before_turns

# By model of the index, the score of the best chunk below which a question is not about the documents: measured by
# benchmarks/off_topic.py. For other models nothing was measured, so nothing is refused.
_LEAST_SCORES = {"all-minilm-l6-v2": 0.3}


@dataclass(frozen=True)
class Source:
    """A chunk as an answer may use it: its title and text up to where they play a turn of a chat, and its place."""

    title: str
    text: str
    place: str


def is_off_topic(hits: Sequence[Hit], chosen: AnswerSettings, *, model: str) -> bool:
    """Whether no chunk is near enough to the question to tell of it; `model` is the one that made the index."""
    least = _LEAST_SCORES.get(model, -1.0) if chosen.min_score is None else chosen.min_score
    return bool(hits) and max(hit.score for hit in hits) < least


def sources_of(hits: Sequence[Hit]) -> list[Source]:
    """One source a chunk, in their order."""
    found = []
    for hit in hits:
        title = before_turns(" > ".join(hit.heading_path) or hit.title or hit.path)
        found.append(Source(title, before_turns(hit.text), " › ".join([hit.path, *hit.heading_path[-1:]])))
    return found


def shown_of(sources: Sequence[Source], *, chars: int | None) -> list[tuple[str, str]]:
    """(title, text) of the sources that the model gets to read, cut to so many characters in all."""
    left = chars
    shown = []
    for place, source in enumerate(sources):
        text = source.text
        if left is not None:
            # What a short source leaves goes to those behind it.
            text = _cut(text, left // (len(sources) - place))
            left -= len(text)
        if text.strip():
            shown.append((source.title, text))
    return shown


def _cut(text: str, chars: int) -> str:
    if len(text) <= chars:
        return text
    kept = text[:chars]
    # Whole lines, unless that loses most of it.
    end = kept.rfind("\n")
    return kept[:end] if end > chars // 2 else kept
