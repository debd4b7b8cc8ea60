"""The hash of a row and the fingerprint of a set, computed on Spark and in Python."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from transformations.index.fingerprint import ROW_FIELDS, fingerprint, row_hash, row_hash_of

hashes = st.lists(st.text("0123456789abcdef", min_size=64, max_size=64))


def test_spark_and_python_hash_a_row_alike(spark):
    generator = random.Random(7)
    # What keeps fields and elements apart, and what stands for null, as values too.
    words = ["", "a", "naïve", "日本", "tab\tand\nline", "'quote'", "\x1e", "a\x1fa", "\x00", "\x1c", "\x1c1", None]
    rows = []
    for _ in range(200):
        row = {name: generator.choice(words) for name in ROW_FIELDS}
        row["heading_path"] = generator.choice([None, [generator.choice(words) for _ in range(generator.randrange(3))]])
        rows.append(row)
    alike: dict[str, object] = dict.fromkeys(ROW_FIELDS, "x") | {"heading_path": ["x"]}
    paths = [None, [], [""], [None], ["", ""], ["\x1e"], ["\x00"], ["\x1c4"], ["\x1c5"], ["a\x1fa"], ["a", "a"]]
    rows += [alike | {"heading_path": path} for path in paths]
    rows += [
        alike | {"path": path, "title": title} for path, title in [("a\x1fa", "a"), ("a", "a\x1fa"), ("\x00", "a")]
    ]
    rows += [alike | {"path": None, "title": "a"}]
    schema = ", ".join(f"{n} {'array<string>' if n == 'heading_path' else 'string'}" for n in ROW_FIELDS)
    found = spark.createDataFrame([tuple(r[n] for n in ROW_FIELDS) for r in rows], schema).select(row_hash().alias("h"))
    hashes = [r["h"] for r in found.collect()]
    assert hashes == [row_hash_of(row) for row in rows]
    assert len(set(hashes)) == len({repr(row) for row in rows})


@given(hashes, st.randoms())
def test_a_fingerprint_ignores_order_and_notices_a_row_twice(rows: list[str], generator: random.Random):
    shuffled = [*rows]
    generator.shuffle(shuffled)
    assert fingerprint(shuffled) == fingerprint(rows)
    if rows and int(rows[0][:32], 16):
        assert fingerprint([*rows, rows[0]]) != fingerprint(rows)
