"""Settings in, what must be true of a document before it is silver, as rules, out.

Most rules read the `reason` for which ingest or a parser refused a document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from expectations.rules.rules import Level, Rule
from expectations.rules.texts import has_no_personal_data, is_in_language

# The first word of a reason that ingest or a parser gives, and the rule that it breaks.
_REASONS = {
    "unreadable": "is_readable",
    "invalid_path": "has_valid_path",
    "duplicate_path": "has_unique_path",
    "too_large": "is_within_size_limit",
    "not_text": "is_text",
    "wrong_encoding": "is_valid_encoding",
    "empty": "is_not_empty",
    "unparseable": "is_parseable",
    "encrypted": "is_not_encrypted",
    "timed_out": "is_parsed_in_time",
    "out_of_memory": "is_within_memory",
    "crashed": "is_safe_to_parse",
}


def _unless(reason: str, name: str) -> Rule:
    return Rule(
        name,
        f"NOT coalesce(startswith(reason, '{reason}'), false)",
        of_row=lambda row: not (row["reason"] or "").startswith(reason),
    )


DOCUMENT_RULES: tuple[Rule, ...] = (
    *(_unless(reason, name) for reason, name in _REASONS.items()),
    # An unknown reason is still a refusal, never a silent pass.
    Rule(
        "has_no_other_error",
        f"reason IS NULL OR reason RLIKE '^({'|'.join(_REASONS)})'",
        of_row=lambda row: row["reason"] is None or row["reason"].startswith(tuple(_REASONS)),
    ),
)


def document_rules(
    *,
    languages: Sequence[str] = (),
    language_level: Level = "quarantine",
    allow_personal_data: bool = True,
) -> tuple[Rule, ...]:
    """`DOCUMENT_RULES`, and optional rules for documents that could be read.

    Args:
        languages: the languages to keep; name "und" to keep documents of unknown language too. Empty: all.
        language_level: the level of that rule.
        allow_personal_data: whether a document may have personal data; if not, one that has is refused.
    """
    more = [is_in_language(*languages, level=language_level)] if languages else []
    more += [] if allow_personal_data else [has_no_personal_data()]
    return (*DOCUMENT_RULES, *map(_of_a_text, more))


def _of_a_text(rule: Rule) -> Rule:
    """`rule`, kept by a document without text: that has a reason, and breaks another rule."""
    asked = rule.of_row
    assert asked is not None
    return replace(
        rule,
        predicate=f"text IS NULL OR ({rule.predicate})",
        of_row=lambda row: row["text"] is None or asked(row),
    )
