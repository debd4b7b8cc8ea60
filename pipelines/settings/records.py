"""The settings of one record source, as in lakeloop.yml:

records:
  flights:
    format: csv
    location: records/flights
    key: [flight_id]
    order_by: [updated_at]
    columns: {flight_id: string, updated_at: {type: timestamp, from: Updated at}, dep_delay: int}
"""

from __future__ import annotations

import codecs
import re
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from expectations.rules.rules import Level
from pipelines.storage.object_path import is_address
from transformations.errors import ConfigurationError
from transformations.tables.column_types import canonical_type, is_nested
from transformations.tables.text_values import Reading, pattern_fault

SOURCE_NAME = r"^[a-z][a-z0-9_]{0,39}$"
COLUMN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
TABLE_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){1,2}")
# Column names that tables of records use themselves, and ends of names that a source's further tables have.
RESERVED_COLUMNS = frozenset({"valid_from", "valid_to", "is_current", "failed_rules"})
_RESERVED_ENDS = ("_quarantine", "_history", "_files")
# The reader options that are allowed: those that decide how bytes become records.
_TRIMS = ("ignoreLeadingWhiteSpace", "ignoreTrailingWhiteSpace")
OPTIONS: dict[str, frozenset[str]] = {
    "csv": frozenset({"sep", "quote", "escape", "nullValue", "multiLine", "encoding", *_TRIMS}),
    "json": frozenset({"multiLine", "encoding"}),
    "parquet": frozenset(),
    "delta": frozenset(),
    "kafka": frozenset({"bootstrap.servers", "security.protocol", "startingOffsets", "maxOffsetsPerTrigger"}),
}
FILE_PATTERNS = {
    "csv": ("*.csv", "*.csv.gz"),
    "json": ("*.json", "*.jsonl", "*.ndjson", "*.json.gz", "*.jsonl.gz", "*.ndjson.gz"),
    "parquet": ("*.parquet",),
}
_NUMBERS = ("tinyint", "smallint", "int", "bigint", "float", "double")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OperationSettings(_Part):
    """Where a record says that it deletes its key."""

    column: str = Field(description="the column; it is no part of the record")
    delete: tuple[str, ...] = Field(("delete", "D"), description="its values that mean a delete; others are upserts")


class ColumnSettings(_Part):
    """A column of the contract: its type alone, or its type and how the source says it."""

    type: str = Field(description="a Spark type")
    source: str | None = Field(None, alias="from", min_length=1, description="what the source calls it; none: the same")
    format: str | None = Field(
        None, description="of a date or timestamp: dd.MM.yyyy and the like, or seconds, milliseconds, microseconds"
    )
    null_texts: tuple[str, ...] = Field((), description="texts that mean that there is no value")
    thousands_mark: str = Field("", max_length=1, description="what may stand between groups of three digits")
    decimal_mark: str = Field(".", min_length=1, max_length=1, description="what stands before a fraction")

    @model_validator(mode="before")
    @classmethod
    def _type_alone(cls, given: Any) -> Any:
        return {"type": given} if isinstance(given, str) else given

    @field_validator("type")
    @classmethod
    def _canonical(cls, of: str) -> str:
        try:
            return canonical_type(of)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _consistent(self) -> ColumnSettings:
        if self.format is not None:
            if self.type not in ("date", "timestamp"):
                raise ValueError(f"format is of dates and timestamps, and the column is {self.type}")
            if fault := pattern_fault(self.format, self.type):
                raise ValueError(f"format {self.format!r} cannot be read exactly: {fault}")
        has_marks = bool(self.thousands_mark) or self.decimal_mark != "."
        if has_marks and not (self.type in _NUMBERS or self.type.startswith("decimal(")):
            raise ValueError(f"thousands_mark and decimal_mark are of numbers, and the column is {self.type}")
        if self.thousands_mark == self.decimal_mark or any(
            mark and mark in "0123456789+-eE" for mark in (self.thousands_mark, self.decimal_mark)
        ):
            raise ValueError("thousands_mark and decimal_mark must differ, and be no digit and no sign of a number")
        return self

    @property
    def reading(self) -> Reading:
        return Reading(self.source, self.format, self.null_texts, self.thousands_mark, self.decimal_mark)


class RuleSettings(_Part):
    """What must be true of a record."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$", description="snake_case")
    predicate: str = Field(min_length=1, description="Spark SQL over the record's columns, true of a good one")
    level: Level = Field("quarantine", description="warn, quarantine or fail")


class RecordSettings(_Part):
    """A source of records: where it is, its contract, and what becomes of what does not keep it."""

    format: Literal["csv", "json", "parquet", "delta", "kafka"] = Field(
        description="csv, json, parquet, delta or kafka"
    )
    location: str = Field(min_length=1, description="folder (of files), folder or name (of a Delta table), or topic")
    columns: dict[str, ColumnSettings] = Field(
        min_length=1, description="the contract: name → Spark type, or name → {type: …, from: …, format: …}"
    )
    key: tuple[str, ...] = Field(min_length=1, description="the columns that tell records apart")
    order_by: tuple[str, ...] = Field(
        (),
        description="the column that says which change of a key is later, then those that decide ties; none: arrival",
    )
    required: tuple[str, ...] = Field((), description="further columns that must not be null")
    op: OperationSettings | None = Field(None, description="column: …, delete: [values]; none: every record upserts")
    evolution: Literal["evolve", "quarantine", "freeze"] = Field(
        "quarantine", description="of a change of the columns: the table follows, the rows are set aside, or a stop"
    )
    rules: tuple[RuleSettings, ...] = Field((), description="a list of {name, predicate, level}")
    options: dict[str, str] = Field(default_factory=dict, description="of the reader; see docs/records.md")
    include: tuple[str, ...] = Field(
        (),
        description="file name patterns, in any case; none: *.csv, *.json, *.jsonl and *.ndjson (.gz too), *.parquet",
    )
    discovery: Literal["listing", "auto_loader"] = Field(
        "listing", description="how new files are found: by listing the folder, or by Databricks' Auto Loader"
    )

    @property
    def is_files(self) -> bool:
        return self.format in FILE_PATTERNS

    @property
    def is_stream(self) -> bool:
        """Whether only a stream of Spark tells what is new: of a topic, or of files that Auto Loader finds."""
        return self.format == "kafka" or (self.is_files and self.discovery == "auto_loader")

    @property
    def file_patterns(self) -> tuple[str, ...]:
        """The patterns that the names of its files match, in upper or lower case."""
        return self.include or FILE_PATTERNS[self.format]

    @field_validator("options", mode="before")
    @classmethod
    def _as_text(cls, options: Any) -> Any:
        if not isinstance(options, dict):
            return options
        texts = {key: str(v).lower() if isinstance(v, bool) else str(v) for key, v in options.items()}
        return {key: "\t" if (key, v) == ("sep", "\\t") else v for key, v in texts.items()}

    @field_validator("columns")
    @classmethod
    def _able(cls, columns: dict[str, ColumnSettings]) -> dict[str, ColumnSettings]:
        for name in columns:
            if not COLUMN_NAME.fullmatch(name) or name.lower() in RESERVED_COLUMNS:
                raise ValueError(
                    f"{name!r} cannot be the name of a column: letters, digits and _, and not reserved. Where the "
                    f"source calls it so, choose a name for it: a_name: {{type: …, from: {name!r}}}"
                )
        if len({name.lower() for name in columns}) < len(columns):
            raise ValueError("two names differ only in their case, which Spark does not tell apart")
        sources = [(of.source or name).lower() for name, of in columns.items()]
        if twice := sorted({source for source in sources if sources.count(source) > 1}):
            raise ValueError(f"two columns are read from the same one of the source: {twice}")
        return columns

    @property
    def types(self) -> dict[str, str]:
        """The canonical type of each column, by name."""
        return {name: of.type for name, of in self.columns.items()}

    @property
    def readings(self) -> dict[str, Reading]:
        """How the texts of each column are read, by name."""
        always = (self.options["nullValue"],) if self.options.get("nullValue") else ()
        readings = {name: of.reading for name, of in self.columns.items()}
        return {name: replace(of, null_texts=(*always, *of.null_texts)) for name, of in readings.items()}

    @model_validator(mode="after")
    def _consistent(self) -> RecordSettings:
        for setting in ("key", "order_by", "required"):
            for name in getattr(self, setting):
                if name not in self.columns:
                    raise ValueError(f"{setting} names {name!r}, which is not among the columns {list(self.columns)}")
        for name in (*self.key, *self.order_by):
            of = self.columns[name].type
            if is_nested(of) or of == "binary" or (name in self.key and of in ("float", "double")):
                raise ValueError(f"{name!r} is {of}, which cannot be compared as a key or an order must be")
        if self.format == "delta" and (self.order_by or self.op):
            raise ValueError(
                "a Delta table's own commits order its changes and say what was deleted: no order_by, no op"
            )
        if self.format != "kafka" and is_address(self.location):
            raise ValueError(
                "location is a path of this machine, not an address: records in object storage are not supported yet. "
                "A bucket that is mounted has a path"
            )
        if self.format == "delta" and "/" not in self.location and not TABLE_NAME.fullmatch(self.location):
            raise ValueError(
                "location of a Delta table is a folder with a / in it, or catalog.schema.table in letters, digits, _, -"
            )
        if self.op is not None and self.op.column in {of.source or name for name, of in self.columns.items()}:
            raise ValueError(f"op.column {self.op.column!r} is among the columns; it is no part of the record")
        unknown = set(self.options) - OPTIONS[self.format]
        if unknown:
            known = sorted(OPTIONS[self.format])
            raise ValueError(f"options {sorted(unknown)} are not among those of {self.format}: {known}")
        for name, least, most in (("sep", 1, 20), ("quote", 0, 1), ("escape", 0, 1)):
            given = self.options.get(name, ",")
            if not least <= len(given) <= most or set(given) & set("\r\n"):
                raise ValueError(f"the option {name} is {given!r}; it is one sign (sep may be several, quote none)")
        if "encoding" in self.options:
            try:
                codecs.lookup(self.options["encoding"])
            except LookupError:
                raise ValueError(f"the option encoding is no name of one: {self.options['encoding']!r}") from None
        if self.format == "kafka" and "bootstrap.servers" not in self.options:
            raise ValueError("kafka needs the option bootstrap.servers: host:port of a broker")
        return self


RecordSources = dict[Annotated[str, StringConstraints(pattern=SOURCE_NAME)], RecordSettings]


def check_source_names(sources: dict[str, RecordSettings]) -> dict[str, RecordSettings]:
    """Refuse a name whose tables would have the name of another source's tables."""
    for name in sources:
        if name.endswith(_RESERVED_ENDS):
            raise ValueError(f"{name!r} ends as a table of another source does; not {', '.join(_RESERVED_ENDS)}")
    return sources
