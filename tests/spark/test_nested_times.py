"""A day or an instant that other engines cannot hold sets its record's value aside, however deep it lies."""

from __future__ import annotations

import json

import pytest

from transformations.tables.records import fit

# Years 10000 and 0, as Parquet and Delta can hold them.
LATE, EARLY = "timestamp_micros(253402300800000000)", "timestamp_micros(-62135596800000001)"
GOOD, LAST_DAY = "timestamp_micros(253402300799999999)", "date'9999-12-31'"
LATE_DAY = "date_add(date'9999-12-31', 1)"


@pytest.mark.parametrize(
    ("type_", "good", "bad"),
    [
        ("array<timestamp>", f"array({GOOD}, null)", f"array({GOOD}, {LATE})"),
        ("array<array<date>>", f"array(array({LAST_DAY}), null)", f"array(null, array({LAST_DAY}, {LATE_DAY}))"),
        ("map<string,timestamp>", f"map('a', {GOOD}, 'b', null)", f"map('a', {GOOD}, 'b', {EARLY})"),
        ("map<date,int>", f"map({LAST_DAY}, 1)", f"map({LATE_DAY}, 1)"),
        (
            "struct<n:int,at:struct<x.y:array<timestamp>>>",
            f"named_struct('n', 1, 'at', named_struct('x.y', array({GOOD})))",
            f"named_struct('n', 1, 'at', named_struct('x.y', array({LATE})))",
        ),
        ("struct<n:int,m:array<string>>", "named_struct('n', 1, 'm', array('a'))", None),
        ("timestamp", GOOD, LATE),
    ],
)
def test_only_what_holds_such_a_time_is_set_aside(spark, type_: str, good: str, bad: str | None):
    nested = type_.replace("x.y", "`x.y`")
    said = [f"cast({value} as {nested})" for value in (good, "null", *([bad] if bad else []))]
    others = "cast(null as string) AS _unreadable, cast(null as map<string,string>) AS _unknown"
    each = [f"SELECT {n} AS n, named_struct('c', {value}) AS _record, {others}" for n, value in enumerate(said)]
    rows = spark.sql(" UNION ALL ".join(each))
    fitted = fit(rows, columns={"c": type_}, arriving={"c": type_}).orderBy("n")
    kept = fitted.selectExpr("c IS NOT NULL", "_rescued").collect()
    assert [row[0] for row in kept] == [True, False, False][: len(said)]
    assert [row["_rescued"] for row in kept[:2]] == [None, None]
    if bad:
        assert list(json.loads(kept[2]["_rescued"])["wrong_type"]) == ["c"]
