"""Compares arriving columns with the contract of a source, and admits new and wider columns to it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pipelines.flow.stage import Context
from pipelines.records.reader import Part
from pipelines.records.source import RecordSource, declare, follow
from pipelines.settings.records import COLUMN_NAME, RESERVED_COLUMNS
from transformations.tables.column_types import is_type, wider_integers
from transformations.tables.text_values import PLAIN, read_text

if TYPE_CHECKING:
    from pyspark.sql import Column

log = logging.getLogger(__name__)


def names_of(source: RecordSource) -> list[str]:
    """The names that the source uses for the columns of the contract, and for its `op` column, if it has one."""
    readings, op = source.settings.readings, source.settings.op
    called = [readings.get(name, PLAIN).source or name for name in source.contract.columns]
    return [*called, op.column] if op else called


def admit(context: Context, source: RecordSource, parts: list[Part]) -> tuple[RecordSource, int]:
    """Admit the columns of `parts` to the source's contract, and bring its bronze table to that.

    Returns the source with the new contract, and how many columns were added or widened.

    Raises:
        ExpectationFailedError: the contract is frozen, and something else arrived.
    """
    contract = source.contract
    for part in parts:
        arriving = shown(source, part)
        changes = contract.compare(arriving)
        if not part.tells_columns:
            changes = [change for change in changes if change.kind != "missing"]
        able = [
            name
            for name, type_name in arriving.items()
            if COLUMN_NAME.fullmatch(name) and name.lower() not in RESERVED_COLUMNS and is_type(type_name)
        ]
        if any(change.hint for change in changes):
            log.warning("%s: %s: %s", source.bronze, part.name, "; ".join(map(str, changes)))
        contract = contract.admit(changes, source=part.name, can_be_column=able)
        if contract.evolution == "evolve" and part.is_text:
            wider = _wider_by_value(source, part, contract.columns)
            contract = replace(contract, columns={**contract.columns, **wider})
    if contract.columns == source.contract.columns:
        return source, 0
    admitted = replace(source, contract=contract)
    declare(context.lake, admitted)
    return admitted, follow(context.lake, source.bronze)


def shown(source: RecordSource, part: Part) -> dict[str, str]:
    """The columns of a part (name → type) as a contract compares them, under the contract's names.

    A column of texts, or of Spark's type void, counts as having the type that the contract wants. The `op` column is
    left out.
    """
    op = source.settings.op.column.lower() if source.settings.op else None
    readings = source.settings.readings
    called = {(readings[n].source or n if n in readings else n).lower(): n for n in source.contract.columns}
    taken = {name.lower() for name in source.contract.columns}
    found = {}
    for name, type_name in part.arriving.items():
        column = called.get(name.lower())
        if name.lower() == op or (column is None and (type_name == "void" or name.lower() in taken)):
            continue
        wanted = source.contract.columns[column] if column is not None else part.suggested.get(name, type_name)
        found[column or name] = part.shown.get(name, wanted if part.is_text or type_name == "void" else type_name)
    return found


def _wider_by_value(source: RecordSource, part: Part, columns: Mapping[str, str]) -> dict[str, str]:
    """The integer columns for which a text arrived that needs a wider integer: name → the narrowest type that fits."""
    from pyspark.sql import functions as F

    arriving = {name.lower(): name for name in part.arriving}
    readings = source.settings.readings
    checks: dict[tuple[str, str], Column] = {}
    for name, of in columns.items():
        wider = wider_integers(of)
        reading = readings.get(name, PLAIN)
        if wider and (arriving_name := arriving.get((reading.source or name).lower())) is not None:
            text = F.col("_record").getField(arriving_name)
            for enough in (of, *wider[:-1]):
                too_large = read_text(text, wider[-1], reading).isNotNull() & read_text(text, enough, reading).isNull()
                checks[name, enough] = F.coalesce(F.bool_or(too_large), F.lit(False))
    if not checks:
        return {}
    row = part.rows.agg(*[check.alias(f"c{n}") for n, check in enumerate(checks.values())]).first()
    assert row is not None
    short = {of for of, is_short in zip(checks, row, strict=True) if is_short}
    needed = {name for name, _ in short}
    return {
        name: next(of for of in (columns[name], *wider_integers(columns[name])) if (name, of) not in short)
        for name in needed
    }
