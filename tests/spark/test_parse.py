"""Parsing in Spark's tasks: what one document does to its process is a reason in its row, and in no other."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from pyspark.sql.pandas.types import from_arrow_schema

from expectations.rules.rules import split
from expectations.tables.documents import DOCUMENT_RULES
from pipelines.documents.parse import PARSED_SCHEMA, Limits, parse_batches
from tests.support import files
from tests.support.hostile import SEGFAULT

HOSTILE = {
    "sleep.md": (b"!sleep", "is_parsed_in_time"),
    "crash.md": (SEGFAULT, "is_safe_to_parse"),
    "memory.md": (b"!allocate", "is_within_memory"),
    "locked.pdf": (files.pdf(["x"], encrypted=True), "is_not_encrypted"),
    "bomb.docx": (files.archive({"word/document.xml": bytes(64 * 1024 * 1024)}), "is_within_size_limit"),
    "quote.csv": (b'a,b\n1,"open\n', "is_parseable"),
    "picture.pdf": (files.PNG, "is_parseable"),
}


def test_hostile_documents_are_refused_by_name_and_their_neighbours_are_parsed(spark):
    good = {f"good-{number}.md": f"# Good {number}\n\ntext".encode() for number in range(20)}
    contents = {**good, **{name: content for name, (content, _) in HOSTILE.items()}}
    now = datetime(2024, 1, 1, tzinfo=timezone.utc)
    rows = [(path, path, "files", "h", len(c), now, now, bytearray(c), None) for path, c in sorted(contents.items())]
    arrivals = spark.createDataFrame(
        rows,
        "document_id string, path string, source string, content_hash string, size bigint, modified_at timestamp, "
        "_ingested_at timestamp, content binary, _rescued string",
    ).repartition(2)
    parse = parse_batches(Limits(3, 512), parser="tests.support.hostile:parse")
    parsed = arrivals.mapInArrow(parse, from_arrow_schema(PARSED_SCHEMA)).persist()
    valid, refused = split(parsed, rules=DOCUMENT_RULES)
    assert {row["path"]: row["failed_rules"] for row in refused.collect()} == {
        name: [rule] for name, (_, rule) in HOSTILE.items()
    }
    assert {row["path"]: row["title"] for row in valid.collect()} == {path: f"Good {path[5:-3]}" for path in good}
    parsed.unpersist()


def test_every_sample_ends_as_text_or_as_a_row_with_a_reason(shared_data):
    from benchmarks.parse import parse_all, recalled, samples

    found = samples(shared_data)
    if not found:
        pytest.skip(f"no docling_samples or pdf_samples in {shared_data}")
    parsed = parse_all(found)
    assert set(parsed) == set(found)
    known = tuple(rule.predicate.split("'")[1] for rule in DOCUMENT_RULES[:-1])
    for file, document in parsed.items():
        assert (document.text.strip() != "") == (document.error is None), file
        assert document.error is None or document.error.startswith(known), file
    # Pictures alone, and one with a password: nothing else is refused.
    assert {file.suffix for file, document in parsed.items() if document.error} <= {".pdf"}
    shares = [pair for file, document in parsed.items() if (pair := recalled(file, document.text))]
    assert sum(p[0] for p in shares) / sum(p[1] for p in shares) >= 0.85
