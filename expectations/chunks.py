"""What must be true of a chunk before it is embedded."""

from __future__ import annotations

from expectations.rules import Rule
from expectations.texts import has_text, is_within_token_limit


def chunk_rules(*, max_tokens: int) -> tuple[Rule, ...]:
    """The rules for chunks of at most `max_tokens` tokens: a longer one would be cut by the model without a word."""
    return has_text(), is_within_token_limit(at_most=max_tokens)
