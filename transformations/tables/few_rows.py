"""A few rows in memory in, what the functions of the same names in changes.py and history.py compute for frames, out.

A few rows are compared here in a millisecond; Spark takes a hundred to plan the same. Both give the same result:
tests/spark/test_few_rows.py compares them on random rows of all types.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from transformations.tables.history import Replaced

_FEED = ("_change_type", "_commit_version", "_commit_timestamp")


def fold_changes(feed: pa.Table, *, key: str, before: str | None = None) -> pa.Table:
    """Like `transformations.tables.changes.fold_changes`, for a change feed in memory."""
    kinds, versions = feed["_change_type"].to_pylist(), feed["_commit_version"].to_pylist()
    keys = feed[key].to_pylist()
    first: dict[Any, tuple[tuple[int, bool], int]] = {}
    last: dict[Any, tuple[tuple[int, bool], int]] = {}
    for place, (key_value, kind, version) in enumerate(zip(keys, kinds, versions, strict=True)):
        order = (version, kind not in ("delete", "update_preimage"))
        if key_value not in first or order < first[key_value][0]:
            first[key_value] = (order, place)
        if kind != "update_preimage" and (key_value not in last or order >= last[key_value][0]):
            last[key_value] = (order, place)
    places = [place for _, place in last.values()]
    folded = feed.take(pa.array(places, pa.int64())).drop_columns([c for c in _FEED if c in feed.column_names])
    ops = ["delete" if kinds[place] == "delete" else "upsert" for place in places]
    folded = folded.append_column("_op", pa.array(ops, pa.string()))
    if before is None:
        return folded
    starts = [first[key_value][1] for key_value in last]
    held = [None if kinds[place] == "insert" else place for place in starts]
    return folded.append_column("_before", feed[before].take(pa.array(held, pa.int64())))


def net_changes(current: pa.Table, desired: pa.Table, *, key: str | Sequence[str], compare: Sequence[str]) -> pa.Table:
    """Like `transformations.tables.changes.net_changes`, for rows in memory."""
    keys = [key] if isinstance(key, str) else [*key]
    held: dict[tuple[Any, ...], list[int]] = {}
    for place, key_values in enumerate(values(current, keys)):
        held.setdefault(key_values, []).append(place)
    was, now = [*values(current, compare)], [*values(desired, compare)]
    places, ops = [], []
    for place, key_values in enumerate(values(desired, keys)):
        before = held.pop(key_values, None)
        if before is None or any(was[each] != now[place] for each in before):
            places.append(place)
            ops.append("insert" if before is None else "update")
    wanted = desired.take(pa.array(places, pa.int64()))
    gone = current.take(pa.array([places[0] for places in held.values()], pa.int64()))
    nothing = desired.schema.empty_table().take(pa.nulls(gone.num_rows, pa.int64()))
    for name in keys:
        at = desired.schema.get_field_index(name)
        nothing = nothing.set_column(at, desired.schema.field(name), gone[name].cast(desired.schema.field(name).type))
    ops += ["delete"] * gone.num_rows
    return pa.concat_tables([wanted, nothing]).append_column("_op", pa.array(ops, pa.string()))


def history_changes(
    before: pa.Table,
    changes: pa.Table,
    *,
    key: Sequence[str],
    order_by: str,
    compare: Sequence[str],
    replaces: Replaced = "nothing",
) -> pa.Table | None:
    """Like `transformations.tables.history.history_changes`, for rows in memory.

    Returns None if two rows have the same key and instant, or if a key or an instant is null: those are left to Spark.
    """
    columns = [c for c in changes.column_names if c != "_op"]
    changed_instants = [*values(changes, [*key, order_by])]
    if replaces == "everything":
        known = before.slice(0, 0)
    elif replaces == "same instants":
        replaced = set(changed_instants)
        stays = [moment not in replaced for moment in values(before, [*key, order_by])]
        known = before.filter(pa.array(stays, pa.bool_()))
    else:
        known = before
    both = pa.concat_tables([known.select(columns), changes.select(columns).cast(known.select(columns).schema)])
    of_known = [mark == "delete" for mark in known["_marks"].to_pylist()]
    is_delete = [*of_known, *(op == "delete" for op in changes["_op"].to_pylist())]
    instants = [*values(both, [*key, order_by])]
    if len(set(instants)) < len(instants) or any(value is None for moment in instants for value in moment):
        return None
    nulled = pa.array([None if gone else place for place, gone in enumerate(is_delete)], pa.int64())
    for name in compare:
        at = both.schema.get_field_index(name)
        both = both.set_column(at, both.schema.field(name), both[name].take(nulled))

    compared = [*values(both, compare)]
    places = sorted(range(len(instants)), key=lambda place: instants[place])
    marks: dict[int, str | None] = {}
    for before_it, place in zip([None, *places], places, strict=False):
        follows = before_it is not None and instants[before_it][:-1] == instants[place][:-1]
        is_same = follows and not is_delete[before_it or 0] and compared[before_it or 0] == compared[place]
        marks[place] = "delete" if is_delete[place] else "repeat" if is_same else None
    ends: dict[int, Any] = {}
    boundary: tuple[Any, ...] = ()  # key and instant of the nearest following row that is no repeat
    for place in reversed(places):
        instant = instants[place]
        ends[place] = (
            instant[-1] if marks[place] is not None else boundary[-1] if boundary[:-1] == instant[:-1] else None
        )
        if marks[place] != "repeat":
            boundary = instant
    order = both[order_by]
    after = both.append_column("valid_from", order)
    valid_to = pa.array([ends[place] for place in range(len(instants))], order.type)
    after = after.append_column("valid_to", valid_to).append_column("is_current", pc.is_null(valid_to))
    after = after.append_column("_marks", pa.array([marks[place] for place in range(len(instants))], pa.string()))
    same = [*compare, "valid_to", "is_current", "_marks"]
    return net_changes(before, after, key=[*key, "valid_from"], compare=same)


def quarantine_changes(
    current: pa.Table, refused: pa.Table, *, key: str, same: Sequence[str], now: datetime
) -> pa.Table:
    """Like `expectations.quarantine.quarantine_changes`, for rows in memory."""
    types = {name: current.schema.field(name).type for name in same}

    def is_same(row: dict[str, Any], was: dict[str, Any]) -> bool:
        return all(_comparable(row[name], of) == _comparable(was[name], of) for name, of in types.items())

    held = {row[key]: row for row in current.to_pylist()}
    found: list[dict[str, Any]] = []
    for row in refused.to_pylist():
        was = held.pop(row[key], None)
        is_open = was is not None and was["replayed_at"] is None
        if was is not None and is_open and is_same(row, was):
            continue
        attempts = (was["attempts"] or 0) + 1 if was is not None else 1
        found.append({**row, "attempts": attempts, "replayed_at": None, "_op": "insert" if was is None else "update"})
    # Rows in scope that are no longer refused: they were repaired, or are gone.
    closed = [row for row in held.values() if row["replayed_at"] is None]
    found += [{**row, "attempts": row["attempts"] or 0, "replayed_at": now, "_op": "update"} for row in closed]
    return pa.Table.from_pylist(found, schema=current.schema.append(pa.field("_op", pa.string())))


def values(rows: pa.Table, columns: Sequence[str]) -> Iterable[tuple[Any, ...]]:
    """The values of some columns, row by row, in a form in which values are equal if Spark takes them for equal."""
    if not columns:
        return [()] * rows.num_rows
    return zip(*(_compared(rows[name]) for name in columns), strict=True)


def _compared(column: pa.ChunkedArray) -> Iterable[Any]:
    is_plain = not (pa.types.is_nested(column.type) or pa.types.is_floating(column.type))
    found: list[Any] = column.to_pylist()
    return found if is_plain else (_comparable(value, column.type) for value in found)


def _comparable(value: Any, of: pa.DataType) -> Any:
    """`value` in a form in which NaN equals NaN, minus zero equals zero, and the entries of a map have no order."""
    if value is None:
        return None
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else value + 0.0
    if pa.types.is_map(of):
        return frozenset((_comparable(key, of.key_type), _comparable(each, of.item_type)) for key, each in value)
    if pa.types.is_struct(of):
        return tuple(_comparable(value[field.name], field.type) for field in of)
    if pa.types.is_nested(of):
        return tuple(_comparable(each, of.value_type) for each in value)
    return value
