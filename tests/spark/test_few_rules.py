"""A rule that can be asked of a row in memory says of it what its SQL says on Spark, of any text and any reason."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from expectations.quarantine import quarantine_changes
from expectations.rules.rules import Rule, broken_by, with_failed_rules
from expectations.rules.texts import has_no_personal_data, has_text, is_in_language, is_representative, is_within_length
from expectations.tables.chunks import chunk_rules, is_known_to_the_model
from expectations.tables.documents import _REASONS, document_rules
from pipelines.lakehouse.schemas import TABLES
from pipelines.lakehouse.schemas.spec import SPANS
from tests.spark.test_few_rows import _AT, _said
from transformations.errors import ConfigurationError
from transformations.tables import few_rows

# White space of all kinds, in ASCII and beyond, and what looks like it and is none; signs of two UTF-16 units.
_SIGNS = [
    "",
    " ",
    "\t",
    "\n",
    "\x0b",
    "\x0c",
    "\r",
    "\x1c",
    "\x1f",
    "\x85",
    "\xa0",
    "\u1680",
    "\u180e",
    "\u2003",
    "\u2028",
]
_SIGNS += ["\u2029", "\u200b", "\u202f", "\u205f", "\u3000", "\ufeff", "\0", "a", "ä", "\u0308", "𝔘", "😀", "字"]
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("text", "embed_text", "language", "reason")),
        ("token_count", pa.int32()),
        ("unknown_ratio", pa.float64()),
        ("is_representative", pa.bool_()),
        ("pii_spans", SPANS),
    ]
)
_SPAN = {"kind": "E", "start": 0, "end": 1, "score": 0.5}


def _rows() -> list[dict[str, Any]]:
    chance = random.Random(5)
    reasons = [
        None,
        "",
        "Empty",
        " empty",
        "emptyish",
        "unknown: x",
        *_REASONS,
        *(f"{reason}: why" for reason in _REASONS),
    ]
    texts = [None, *_SIGNS, *("".join(chance.choices(_SIGNS, k=chance.randint(2, 12))) for _ in range(120))]
    return [
        {
            "text": text,
            "embed_text": chance.choice(texts),
            "language": chance.choice([None, "", "en", "de", "EN", "und"]),
            "reason": reasons[place % len(reasons)],
            "token_count": chance.choice([None, -1, 0, 1, 5, 6]),
            "unknown_ratio": chance.choice([None, 0.0, 0.2, 0.2000001, float("nan")]),
            "is_representative": chance.choice([None, True, False]),
            "pii_spans": chance.choice([None, [], [_SPAN]]),
        }
        for place, text in enumerate(texts)
    ]


@pytest.mark.parametrize(
    "rules",
    [
        document_rules(),
        document_rules(languages=["en", "und"], allow_personal_data=False),
        (*chunk_rules(max_tokens=5, max_characters=6), is_known_to_the_model()),
        (has_text(), is_within_length(at_most=3, at_least=2), is_in_language("de"), is_representative()),
        (has_no_personal_data(level="warn"),),
    ],
)
def test_the_two_say_the_same(spark: SparkSession, rules: tuple[Rule, ...]):
    rows = _rows()
    frame = spark.createDataFrame(pa.Table.from_pylist(rows, schema=_SCHEMA), from_arrow_schema(_SCHEMA))
    found = with_failed_rules(frame, rules=rules).toArrow().to_pylist()
    assert [broken_by(row, rules) for row in rows] == [row["failed_rules"] for row in found]
    assert any(row["failed_rules"] for row in found)
    assert not all(row["failed_rules"] for row in found)


def test_a_rule_that_only_spark_can_ask_never_passes_unasked():
    with pytest.raises(ConfigurationError, match="'is_small' can be asked of rows on Spark alone"):
        broken_by({"value": 12}, [Rule("is_small", "value < 10")])


@pytest.mark.parametrize("seed", range(4))
def test_a_quarantine_is_told_the_same(spark: SparkSession, seed: int):
    chance = random.Random(seed)
    schema = TABLES["silver.documents_quarantine"].schema

    def rows(count: int) -> list[dict[str, Any]]:
        ids = chance.sample("abcdefgh", count)
        values = {"path": "p", "failed_rules": ["is_text"], "_run_id": "r"}
        contents = ["1", "2", None]
        return [values | {"document_id": of, "content_hash": chance.choice(contents)} for of in ids]

    current = [
        row | {"attempts": chance.randint(1, 3), "replayed_at": chance.choice([None, None, _AT])} for row in rows(5)
    ]
    held = pa.Table.from_pylist(current, schema=schema)
    refused = pa.Table.from_pylist(rows(5), schema=schema).drop_columns(["attempts", "replayed_at"])
    arguments: dict[str, Any] = {"key": "document_id", "same": ["content_hash", "reason"], "now": _AT.replace(hour=5)}
    frames = [spark.createDataFrame(table, from_arrow_schema(table.schema)) for table in (held, refused)]
    assert _said(few_rows.quarantine_changes(held, refused, **arguments)) == _said(
        quarantine_changes(*frames, **arguments)
    )
