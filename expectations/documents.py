"""What must be true of a document before it is silver, given the `reason` that ingest or a parser gave."""

from __future__ import annotations

from expectations.rules import Rule


def _unless(reason: str) -> str:
    return f"NOT coalesce(startswith(reason, '{reason}'), false)"


DOCUMENT_RULES: tuple[Rule, ...] = (
    Rule("is_readable", _unless("unreadable")),
    Rule("has_valid_path", _unless("invalid_path")),
    Rule("has_unique_path", _unless("duplicate_path")),
    Rule("is_within_size_limit", _unless("too_large")),
    Rule("is_text", _unless("not_text")),
    Rule("is_valid_encoding", _unless("wrong_encoding")),
    Rule("is_not_empty", _unless("empty")),
    Rule("is_parseable", _unless("unparseable")),
    # A reason that none of the above knows is still a refusal, never a silent pass.
    Rule(
        "has_no_other_error",
        "reason IS NULL OR reason RLIKE '^(unreadable|invalid_path|duplicate_path|too_large|"
        "not_text|wrong_encoding|empty|unparseable)'",
    ),
)
