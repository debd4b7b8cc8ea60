"""Limits in, ready-made rules for rows that hold a text, and for what refining found out about it, out."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from expectations.rules.rules import Level, Rule
from transformations.errors import ConfigurationError


def has_text(*, column: str = "text", level: Level = "quarantine") -> Rule:
    """The text has a character that is no white space of any kind."""
    return Rule(
        "has_text",
        f"{column} RLIKE '[^\\\\p{{Z}}\\\\s]'",
        level,
        lambda row: any(not _is_white(sign) for sign in row[column] or ""),
    )


def is_within_length(*, at_most: int, at_least: int = 1, column: str = "text", level: Level = "quarantine") -> Rule:
    """The text has `at_least` to `at_most` characters (Unicode code points), both included."""
    return Rule(
        "is_within_length",
        f"char_length({column}) BETWEEN {int(at_least)} AND {int(at_most)}",
        level,
        lambda row: row[column] is not None and at_least <= len(row[column]) <= at_most,
    )


def is_within_token_limit(*, at_most: int, column: str = "token_count", level: Level = "quarantine") -> Rule:
    """The text has 1 to `at_most` tokens; the model would cut a longer one silently."""
    return Rule(
        "is_within_token_limit",
        f"{column} BETWEEN 1 AND {int(at_most)}",
        level,
        lambda row: row[column] is not None and 1 <= row[column] <= at_most,
    )


def is_in_language(*languages: str, column: str = "language", level: Level = "warn") -> Rule:
    """The text's language is one of `languages` (ISO 639-1); null breaks the rule, and so does "und" unless named.

    Raises:
        ConfigurationError: no language is given, or something that is not the code of one.
    """
    wrong = [code for code in languages if not (code.isascii() and code.isalpha() and code.islower())]
    if wrong or not languages:
        raise ConfigurationError(f"is_in_language takes codes such as 'en', 'de', but it has {wrong or 'none'}")
    return Rule("is_in_language", f"{column} IN ({_texts(languages)})", level, lambda row: row[column] in languages)


def is_representative(*, column: str = "is_representative", level: Level = "quarantine") -> Rule:
    """The text is no near-duplicate of another text that is kept instead. Null (not judged yet) breaks the rule."""
    return Rule("is_representative", column, level, lambda row: row[column] is True)


def has_no_personal_data(*, column: str = "pii_spans", level: Level = "quarantine") -> Rule:
    """No span of personal data was found; null (nobody has looked) breaks the rule."""
    return Rule("has_no_personal_data", f"size({column}) = 0", level, lambda row: row[column] == [])


def _is_white(sign: str) -> bool:
    """Whether Java's regular expressions call the character white: Unicode's separators and six ASCII characters."""
    return sign in " \t\n\x0b\f\r" or unicodedata.category(sign).startswith("Z")


def _texts(values: Sequence[str]) -> str:
    return ", ".join(f"'{value}'" for value in values)
