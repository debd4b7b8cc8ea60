"""What must be true of a document before it is silver, given the `reason` that ingest or a parser gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from expectations.rules.rules import Level, Rule
from expectations.rules.texts import has_no_personal_data, is_in_language


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
    Rule("is_not_encrypted", _unless("encrypted")),
    Rule("is_parsed_in_time", _unless("timed_out")),
    Rule("is_within_memory", _unless("out_of_memory")),
    Rule("is_safe_to_parse", _unless("crashed")),
    # A reason that none of the above knows is still a refusal, never a silent pass.
    Rule(
        "has_no_other_error",
        "reason IS NULL OR reason RLIKE '^(unreadable|invalid_path|duplicate_path|too_large|"
        "not_text|wrong_encoding|empty|unparseable|encrypted|timed_out|out_of_memory|crashed)'",
    ),
)


def document_rules(
    *,
    languages: Sequence[str] = (),
    language_level: Level = "quarantine",
    allow_personal_data: bool = True,
) -> tuple[Rule, ...]:
    """`DOCUMENT_RULES`, and what only some want of a document that could be read.

    Args:
        languages: the languages to keep, with "und" where those that nobody can tell are to be kept too; none: all.
        language_level: what breaking that means.
        allow_personal_data: whether spans of it may be there.
    """
    more = [is_in_language(*languages, level=language_level)] if languages else []
    more += [] if allow_personal_data else [has_no_personal_data()]
    return (*DOCUMENT_RULES, *(replace(rule, predicate=f"text IS NULL OR ({rule.predicate})") for rule in more))
