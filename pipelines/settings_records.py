"""One record source as lakeloop.yml names it in; its checked settings out.

records:
  flights:
    format: csv
    location: records/flights
    key: [flight_id]
    order_by: [updated_at]
    columns: {flight_id: string, updated_at: timestamp, dep_delay: int}
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from expectations.rules import Level
from transformations.column_types import canonical_type, is_nested
from transformations.errors import ConfigurationError

SOURCE_NAME = r"^[a-z][a-z0-9_]{0,39}$"
COLUMN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
TABLE_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+){1,2}")
# What a table of records has besides, and what the tables of a source are called.
_RESERVED_COLUMNS = frozenset(
    "record_id failed_rules reason record attempts replayed_at valid_from valid_to is_current".split()  # noqa: SIM905
)
_RESERVED_ENDS = ("_quarantine", "_history", "_files")
# Reader options that change how bytes become records, and no other.
OPTIONS: dict[str, frozenset[str]] = {
    "csv": frozenset({"sep", "quote", "escape", "nullValue", "ignoreLeadingWhiteSpace", "ignoreTrailingWhiteSpace"}),
    "json": frozenset({"multiLine"}),
    "parquet": frozenset(),
    "delta": frozenset({"maxFilesPerTrigger", "maxBytesPerTrigger"}),
    "kafka": frozenset({"bootstrap.servers", "security.protocol", "startingOffsets", "maxOffsetsPerTrigger"}),
}
FILE_FORMATS = ("csv", "json", "parquet")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OperationSettings(_Part):
    """Where a record says that it deletes its key."""

    column: str = Field(description="the column; it is no part of the record")
    delete: tuple[str, ...] = Field(("delete", "D"), description="its values that mean a delete; others are upserts")


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
    columns: dict[str, str] = Field(min_length=1, description="the contract: name → Spark type")
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
    include: tuple[str, ...] = Field((), description="file name patterns; none: *.csv, *.json and *.jsonl, *.parquet")
    discovery: Literal["auto", "listing", "auto_loader"] = Field(
        "auto", description="how new files are found; auto: Auto Loader on Databricks, else a listing of the folder"
    )

    @property
    def is_files(self) -> bool:
        return self.format in FILE_FORMATS

    @field_validator("options", mode="before")
    @classmethod
    def _as_text(cls, options: Any) -> Any:
        if not isinstance(options, dict):
            return options
        return {key: str(v).lower() if isinstance(v, bool) else str(v) for key, v in options.items()}

    @field_validator("columns")
    @classmethod
    def _canonical(cls, columns: dict[str, str]) -> dict[str, str]:
        for name in columns:
            if not COLUMN_NAME.fullmatch(name) or name.lower() in _RESERVED_COLUMNS:
                raise ValueError(f"{name!r} cannot be the name of a column: letters, digits and _, and not reserved")
        if len({name.lower() for name in columns}) < len(columns):
            raise ValueError("two names differ only in their case, which Spark does not tell apart")
        try:
            return {name: canonical_type(of) for name, of in columns.items()}
        except ConfigurationError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _consistent(self) -> RecordSettings:
        for setting in ("key", "order_by", "required"):
            for name in getattr(self, setting):
                if name not in self.columns:
                    raise ValueError(f"{setting} names {name!r}, which is not among the columns {list(self.columns)}")
        for name in (*self.key, *self.order_by):
            of = self.columns[name]
            if is_nested(of) or of == "binary" or (name in self.key and of in ("float", "double")):
                raise ValueError(f"{name!r} is {of}, which cannot be compared as a key or an order must be")
        if self.format == "delta" and (self.order_by or self.op):
            raise ValueError(
                "a Delta table's own commits order its changes and say what was deleted: no order_by, no op"
            )
        if self.format == "delta" and "/" not in self.location and not TABLE_NAME.fullmatch(self.location):
            raise ValueError(
                "location of a Delta table is a folder with a / in it, or catalog.schema.table in plain letters"
            )
        if self.op is not None and self.op.column in self.columns:
            raise ValueError(f"op.column {self.op.column!r} is among the columns; it is no part of the record")
        unknown = set(self.options) - OPTIONS[self.format]
        if unknown:
            known = sorted(OPTIONS[self.format])
            raise ValueError(f"options {sorted(unknown)} are not among those of {self.format}: {known}")
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
