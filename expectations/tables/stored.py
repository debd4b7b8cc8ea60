"""The limits of the settings in, what must be true of each table as it is stored out.

Rows are judged before they are written (documents.py, chunks.py). These rules judge whole tables afterwards, in
`lakeloop quality --validate` and in alerts: they find what no single batch can show.
"""

from __future__ import annotations

from dataclasses import dataclass

from expectations.rules.rules import Rule
from expectations.rules.table_rules import TableRule, references, unique
from expectations.rules.texts import has_text
from expectations.rules.vectors import vector_rules
from expectations.tables.chunks import chunk_rules


@dataclass(frozen=True)
class TableExpectations:
    """The rules for one table. `key` is the columns that name a row in results."""

    key: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    table_rules: tuple[TableRule, ...] = ()


def table_expectations(*, max_tokens: int, max_characters: int) -> dict[str, TableExpectations]:
    """Table → its expectations, for chunks of at most this many tokens and characters."""
    return {
        "silver.documents": TableExpectations(("document_id",), (has_text(level="fail"),), (unique("document_id"),)),
        "silver.chunks": TableExpectations(
            ("chunk_id",),
            chunk_rules(max_tokens=max_tokens, max_characters=max_characters),
            (unique("chunk_id"), references("document_id", table="silver.documents")),
        ),
        "gold.embeddings": TableExpectations(
            ("text_hash", "model"),
            vector_rules(dimension="dimension", level="fail", unit_level="warn"),
            # A run that is killed and resumed may add a text twice; readers take one of the two rows.
            (unique("text_hash", "model", "revision", "dimension", "instruction", level="warn"),),
        ),
        "gold.chunk_index": TableExpectations(
            ("chunk_id", "model"),
            vector_rules(level="fail", unit_level="warn"),
            (unique("chunk_id", "model"), references("chunk_id", table="silver.chunks")),
        ),
    }
