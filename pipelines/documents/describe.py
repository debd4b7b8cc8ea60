"""Adds the language and the places of personal data to parsed documents, masks personal data, and gives their rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pyarrow as pa

from expectations.rules.rules import Rule
from expectations.tables.documents import document_rules
from pipelines.documents.parse import PARSED_SCHEMA
from pipelines.flow.rows import Batches
from pipelines.lakehouse.schemas.spec import SPANS
from pipelines.settings.sections import PersonalDataPolicy, RefineSettings
from transformations.errors import MissingDependencyError
from transformations.text.personal_data import PersonalSpan, find_personal_data, mask

DESCRIBED_SCHEMA = pa.schema(
    [*PARSED_SCHEMA, ("language", pa.string()), ("language_confidence", pa.float64()), ("pii_spans", SPANS)]
)


@dataclass(frozen=True)
class PersonalData:
    """The kinds of personal data to look for in texts, and what to do with them."""

    policy: PersonalDataPolicy
    kinds: tuple[str, ...]
    model: str | None

    @classmethod
    def of(cls, settings: RefineSettings) -> PersonalData:
        """What the settings say.

        Raises:
            MissingDependencyError: `refine.pii` is not "off", and Presidio is not installed.
        """
        if settings.pii != "off" and find_spec("presidio_analyzer") is None:
            raise MissingDependencyError.for_extra("presidio_analyzer", "pii")
        return cls(settings.pii, settings.pii_kinds, settings.pii_model)


def rules_of_documents(refine: RefineSettings) -> tuple[Rule, ...]:
    """The rules for documents, with the settings' languages and policy for personal data."""
    return document_rules(
        languages=refine.languages,
        language_level=refine.other_languages,
        allow_personal_data=refine.pii != "quarantine",
    )


def describe_batches(parse: Batches, *, personal_data: PersonalData) -> Batches:
    """A function for `mapInArrow`: the input of `parse` → the columns of `DESCRIBED_SCHEMA`, row by row."""

    def describe(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from transformations.text.language import with_language

        for batch in parse(batches):
            yield _with_personal_data(with_language(batch), personal_data)

    return describe


def searched(row: dict[str, Any], personal_data: PersonalData) -> dict[str, Any]:
    """A row with `title`, `text` and `metadata` → the same row with `pii_spans`.

    Spans are positions in the text that is stored: in a masked text, those of the `<KIND>` that replaces the data. Only
    spans of `text` are returned, although `title` and `metadata` are masked too. `pii_spans` is null if the policy is
    "off" or there is no text.
    """
    if personal_data.policy == "off" or row["text"] is None:
        return row | {"pii_spans": None}

    def spans(text: str | None) -> tuple[PersonalSpan, ...]:
        return find_personal_data(text, kinds=personal_data.kinds, model=personal_data.model)

    found = spans(row["text"])
    if personal_data.policy == "mask":
        metadata = row["metadata"]
        row = row | {
            "text": mask(row["text"], found),
            "title": row["title"] and mask(row["title"], spans(row["title"])),
            "metadata": metadata and [(key, value and mask(value, spans(value))) for key, value in metadata],
        }
        found = tuple(_places_of_masks(found))
    return row | {"pii_spans": [span._asdict() for span in found]}


def _places_of_masks(spans: Iterable[PersonalSpan]) -> Iterator[PersonalSpan]:
    shift = 0
    for span in spans:
        start, length = span.start + shift, len(f"<{span.kind}>")
        yield span._replace(start=start, end=start + length)
        shift += length - (span.end - span.start)


def _with_personal_data(batch: pa.RecordBatch, personal_data: PersonalData) -> pa.RecordBatch:
    names = ["title", "text", "metadata"]
    schema = pa.schema([*(batch.schema.field(name) for name in names), pa.field("pii_spans", SPANS)])
    rows = [searched(row, personal_data) for row in batch.select(names).to_pylist()]
    found = pa.RecordBatch.from_pylist(rows, schema=schema)
    columns = [found.column(name) if name in names else batch.column(name) for name in batch.schema.names]
    return pa.RecordBatch.from_arrays([*columns, found.column("pii_spans")], names=[*batch.schema.names, "pii_spans"])
