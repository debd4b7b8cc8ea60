"""The text of a value: no two values of any types share one, and what is equal has one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformations.tables.canonical import canonical, said_hash, values_hash

# Values of one type each, all different; of types of one line, a value stands in one of them only.
DIFFERENT = {
    "string": [
        "''", "' '", "'n'", "'null'", "'NaN'", "'1'", "'s1:n'", "'\\u0000'", "'a'", "'A'", "'a '", "'é'", "'e\\u0301'",
        "'[]'", "'a,b'", "'a;b'",
    ],
    "binary": ["X''", "X'00'", "X'0000'", "X'61'", "X'FF'"],
    "boolean": ["true", "false"],
    "bigint": ["0", "1", "-1", "9223372036854775807", "-9223372036854775808"],
    "decimal(38,10)": [
        "0.1", "0.01", "0.0000000001", "-0.5", "1234567890123456789012345678.0000000001", "100.5", "10.5",
    ],
    "double": [
        "double('NaN')", "double('Infinity')", "double('-Infinity')", "0.0D", "-0.0D", "1.0D", "1e308D", "4.9e-324D",
        "0.1D", "0.30000000000000004D", "0.3D", "float(0.1)",
    ],
    "date": ["date'0001-01-01'", "date'1970-01-01'", "date'9999-12-31'"],
    "timestamp": [
        "timestamp'1970-01-01 00:00:00Z'", "timestamp'1970-01-01 00:00:00.000001Z'",
        "timestamp'1970-01-01 00:00:00.000002Z'", "timestamp'2024-11-03 05:30:00Z'",
        "timestamp'2024-11-03 06:30:00Z'", "timestamp'9999-12-31 23:59:59.999999Z'",
    ],
    "timestamp_ntz": ["timestamp_ntz'2024-11-03 01:30:00'", "timestamp_ntz'2024-11-03 01:30:00.000001'"],
    "interval day to second": ["interval '1' day", "interval '1' second", "interval '0.000001' second"],
    "array<string>": [
        "array()", "array(null)", "array('')", "array('', '')", "array('a', 'b')", "array('a,b')", "array('b', 'a')",
        "array('as1:b')",
    ],
    "array<array<string>>": [
        "array(array('a'), array('b'))", "array(array('a', 'b'))", "array(array('a', 'b'), array())",
    ],
    "map<string,string>": [
        "map()", "map('a', null)", "map('a', '')", "map('a', 'b', 'c', 'd')", "map('a', 'd', 'c', 'b')",
    ],
    "struct<a:string,b:string>": [
        "named_struct('a', null, 'b', null)", "named_struct('a', null, 'b', 'x')", "named_struct('a', 'x', 'b', null)",
        "named_struct('a', 'xs1:y', 'b', '')",
    ],
}  # fmt: skip
EQUAL = [
    ("1", "1L", "tinyint(1)", "1.00BD", "cast(1 as decimal(38,0))"),
    ("0", "0.00BD", "-0BD", "cast(0 as decimal(38,38))"),
    ("100", "100.0BD"),
    ("double('NaN')", "float('NaN')", "double('NaN') * -1"),
    ("0.5D", "float(0.5)"),
    ("map('a', 1, 'b', 2)", "map('b', 2, 'a', 1)"),
    ("timestamp'2024-11-03 01:30:00-04:00'", "timestamp'2024-11-03 05:30:00Z'"),
    ("array(1, null)", "array(1L, null)"),
]


def _texts(spark, values: list[str]) -> list[str]:
    frame = spark.sql("SELECT " + ", ".join(f"{value} AS c{n}" for n, value in enumerate(values)))
    return list(frame.select(*[canonical(frame[c], frame.schema[c].dataType) for c in frame.columns]).first())


def test_no_two_values_share_a_text_and_equal_ones_do(spark):
    values = ["null", *[f"cast({v} AS {of})" for of, group in DIFFERENT.items() for v in group]]
    equal = [value for group in EQUAL for value in group]
    # What a session's zone is must not matter.
    spark.conf.set("spark.sql.session.timeZone", "America/New_York")
    try:
        texts = _texts(spark, [*values, *equal])
    finally:
        spark.conf.set("spark.sql.session.timeZone", "UTC")
    shared = [
        (one, other) for n, one in enumerate(values) for m, other in enumerate(values[:n]) if texts[n] == texts[m]
    ]
    assert shared == []
    told = iter(texts[len(values) :])
    for group in EQUAL:
        assert len({next(told) for _ in group}) == 1, group


cells = st.none() | st.text("n;:s1a\x00é", max_size=4)
rows_of_cells = st.tuples(cells, st.none() | st.lists(cells, max_size=3), cells)


def test_rows_share_a_hash_only_where_they_are_equal(spark):
    """Hundreds of rows of texts made of what the encoding itself is made of, in one frame."""
    seen: list[tuple] = []

    @settings(max_examples=300, database=None, deadline=None)
    @given(rows_of_cells)
    def collect(row: tuple) -> None:
        seen.append((row[0], row[1], row[2], repr(row)))

    collect()
    frame = spark.createDataFrame(seen, "a string, b array<string>, c string, r string")
    hashed = frame.select("r", values_hash(frame, ["a", "b", "c"]).alias("h")).distinct().collect()
    assert len({row["r"] for row in hashed}) == len({row["h"] for row in hashed}) == len(hashed) > 50


@pytest.mark.parametrize("columns", [[], ["a"]])
def test_a_row_without_columns_has_a_hash_too(spark, columns):
    frame = spark.createDataFrame([("x",)], "a string")
    assert len(frame.select(values_hash(frame, columns)).first()[0]) == 64


def test_what_a_row_says_does_not_change_with_a_column_where_it_says_nothing(spark):
    rows = spark.sql("SELECT 'x' AS a, CAST(NULL AS string) AS b UNION ALL SELECT NULL, 'x' UNION ALL SELECT 'x', ''")
    wider = rows.selectExpr("*", "CAST(NULL AS bigint) AS `A.c`", "CAST(NULL AS string) AS `0`")
    before = [row["h"] for row in rows.select(said_hash(rows, rows.columns).alias("h")).collect()]
    after = [row["h"] for row in wider.select(said_hash(wider, wider.columns).alias("h")).collect()]
    assert before == after
    assert len(set(before)) == 3
