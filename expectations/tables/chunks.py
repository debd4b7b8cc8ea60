"""Limits in, what must be true of a chunk before it is embedded, as rules, out."""

from __future__ import annotations

from expectations.rules.rules import Level, Rule
from expectations.rules.texts import has_text, is_within_length, is_within_token_limit


def chunk_rules(*, max_tokens: int, max_characters: int) -> tuple[Rule, ...]:
    """The rules for chunks of at most this many tokens and characters: a model would cut a longer one silently."""
    return (
        has_text(),
        is_within_token_limit(at_most=max_tokens),
        is_within_length(at_most=max_characters, column="embed_text"),
    )


def is_known_to_the_model(*, at_most: float = 0.2, level: Level = "warn") -> Rule:
    """At most this share of the letters is unknown to the embedding model: texts of unknown words all look the same.

    The rule judges `unknown_ratio` when chunks are cut. Null passes: the model does not say.
    """
    return Rule(
        "is_known_to_the_model",
        f"unknown_ratio IS NULL OR unknown_ratio <= {float(at_most)!r}D",
        level,
        lambda row: row["unknown_ratio"] is None or row["unknown_ratio"] <= at_most,
    )
