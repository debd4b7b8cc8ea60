"""What must be true of a chunk before it is embedded."""

from __future__ import annotations

from expectations.rules import Rule


def chunk_rules(*, max_tokens: int) -> tuple[Rule, ...]:
    """The rules for chunks of at most `max_tokens` tokens: a longer one would be cut by the model without a word."""
    return (
        Rule("has_text", "length(trim(text)) > 0"),
        Rule("is_within_token_limit", f"token_count BETWEEN 1 AND {int(max_tokens)}"),
    )
