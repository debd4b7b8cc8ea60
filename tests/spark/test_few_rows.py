"""What is few is compared in memory, and all else on Spark: the two say the same of random rows of all types, and a
workspace whose small changes go one way holds what one holds whose changes go the other way.
"""

from __future__ import annotations

import math
import random
import shutil
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES
from pipelines.documents import arrivals
from pipelines.flow.stage import Context, Versions
from pipelines.lakehouse import delta_folder
from pipelines.lakehouse.folders import FolderLakehouse
from pipelines.operations.plan import plan
from pipelines.settings.sections import Settings
from tests.support.by_spark import by_spark
from tests.support.state import assert_same, state
from transformations.tables import changes, few_rows, history

_AT = datetime(2026, 1, 1, tzinfo=timezone.utc)
_SPANS = [{"kind": "x", "score": math.nan}, {"kind": "x", "score": 0.5}, None]
# Few values of each type, so that random rows meet: with those that engines compare in ways of their own.
_VALUES: dict[str, tuple[pa.DataType, list[Any]]] = {
    "text": (pa.string(), [None, "", "a", "ä", "a\u0308", "NaN"]),
    "number": (pa.float64(), [None, 0.0, -0.0, math.nan, math.inf, 1.5]),
    "count": (pa.int32(), [None, 0, 1, -(2**31)]),
    "price": (pa.decimal128(10, 2), [None, Decimal("1.20"), Decimal("-0.00"), Decimal("0.00")]),
    "is_so": (pa.bool_(), [None, True, False]),
    "at": (pa.timestamp("us", "UTC"), [None, _AT, datetime(1, 1, 1, tzinfo=timezone.utc)]),
    "parts": (pa.list_(pa.string()), [None, [], ["a"], ["a", None], ["b", "a"]]),
    "said": (pa.map_(pa.string(), pa.string()), [None, [], [("a", "1"), ("b", None)], [("b", None), ("a", "1")]]),
    "spans": (
        pa.list_(pa.struct([("kind", pa.string()), ("score", pa.float64())])),
        [None, [], *([_SPANS[place] for place in of] for of in ((0,), (1, 2), (2, 1), (2, 1, 1)))],
    ),
}
COMPARE = [*_VALUES]
ROW = pa.schema([("k", pa.string()), ("j", pa.string()), *((c, of) for c, (of, _) in _VALUES.items())])


def _seeds(count: int) -> list[Any]:
    return [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, count))]


@pytest.fixture
def lake(spark: SparkSession, tmp_path: Path) -> FolderLakehouse:
    return FolderLakehouse(Settings(root=tmp_path), spark=lambda: spark)


def _row(chance: random.Random) -> dict[str, Any]:
    changed = chance.sample(COMPARE, chance.choice([0, 0, 1, 2]))  # most rows are alike
    values = {c: chance.choice(of) if c in changed else of[1] for c, (_, of) in _VALUES.items()}
    return {"k": chance.choice("abcdef"), "j": chance.choice(["x", None]), **values}


def _said(rows: pa.Table | DataFrame) -> list[str]:
    """The rows in no order, as texts in which a map has its entries in order."""
    table = rows if isinstance(rows, pa.Table) else rows.toArrow()
    return sorted(repr({c: _plain(v) for c, v in sorted(row.items())}) for row in table.to_pylist())


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        parts = [_plain(v) for v in value]
        return sorted(parts, key=repr) if any(isinstance(v, tuple) for v in value) else parts
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def _unique(rows: list[dict[str, Any]], *key: str) -> pa.Table:
    return pa.Table.from_pylist([*{tuple(row[k] for k in key): row for row in rows}.values()], schema=ROW)


@pytest.mark.parametrize("seed", _seeds(4))
@pytest.mark.parametrize("key", [["k"], ["k", "j"]])
def test_the_difference_of_two_states_is_the_same(lake: FolderLakehouse, seed: int, key: list[str]):
    chance = random.Random(seed)
    current, desired = (_unique([_row(chance) for _ in range(8)], *key) for _ in range(2))
    found = few_rows.net_changes(current, desired, key=key, compare=COMPARE)
    expected = changes.net_changes(lake.frame(current), lake.frame(desired), key=key, compare=COMPARE)
    assert _said(found) == _said(expected)
    assert found.schema.names == expected.columns


@pytest.mark.parametrize("seed", _seeds(4))
@pytest.mark.parametrize("before", [None, "text"])
def test_a_folded_feed_is_the_same(lake: FolderLakehouse, seed: int, before: str | None):
    chance = random.Random(seed)
    held: dict[str, dict[str, Any]] = {}
    feed: list[dict[str, Any]] = []
    for version in range(1, 7):
        for k in chance.sample("abcdef", 3):
            row, was = _row(chance) | {"k": k}, held.get(k)
            what = {"_commit_version": version, "_commit_timestamp": _AT}
            if was is not None and chance.random() < 0.3:
                feed.append({**was, **what, "_change_type": "delete"})
                if chance.random() < 0.7:
                    del held[k]
                    continue
                feed.append({**row, **what, "_change_type": "insert"})  # an overwrite says both
            elif was is not None:
                feed.append({**was, **what, "_change_type": "update_preimage"})
                feed.append({**row, **what, "_change_type": "update_postimage"})
            else:
                feed.append({**row, **what, "_change_type": "insert"})
            held[k] = row
    chance.shuffle(feed)
    table = pa.Table.from_pylist(feed, schema=pa.schema([*ROW, *delta_folder.CHANGE_SCHEMA]))
    expected = changes.fold_changes(lake.frame(table), key="k", before=before)
    assert _said(few_rows.fold_changes(table, key="k", before=before)) == _said(expected)


@pytest.mark.parametrize("seed", _seeds(6))
@pytest.mark.parametrize("replaces", ["nothing", "same instants", "everything"])
def test_the_changes_of_a_history_are_the_same(lake: FolderLakehouse, seed: int, replaces: Any):
    chance = random.Random(seed)
    schema = pa.schema([*ROW, ("since", pa.timestamp("us", "UTC")), ("_op", pa.string())])

    def batch(instants: list[int]) -> pa.Table:
        rows = [
            _row(chance) | {"since": _AT + timedelta(days=day), "_op": chance.choice(["upsert", "upsert", "delete"])}
            for day in instants
        ]
        unique = {(row["k"], row["since"]): row for row in rows}
        return pa.Table.from_pylist([*unique.values()], schema=schema)

    arguments: dict[str, Any] = {"key": ["k"], "order_by": "since", "compare": COMPARE}
    before = history.history(lake.frame(batch([*range(0, 20, 2)])), **arguments).toArrow()
    # Late ones fall between; where instants are said anew, they fall on what is there, too.
    late = batch([1, 3, 5, 9, 25] if replaces == "nothing" else [1, 2, 4, 5, 8, 25])
    found = few_rows.history_changes(before, late, **arguments, replaces=replaces)
    expected = history.history_changes(lake.frame(before), lake.frame(late), **arguments, replaces=replaces)
    assert found is not None
    assert _said(found) == _said(expected)


def test_two_changes_of_one_key_and_instant_are_left_to_spark(lake: FolderLakehouse):
    row = {c: of[1] for c, (_, of) in _VALUES.items()} | {"k": "a", "since": _AT, "_op": "upsert"}
    schema = pa.schema([*ROW, ("since", pa.timestamp("us", "UTC")), ("_op", pa.string())])
    twice, nowhen = ([row, row | {"text": "b"}], [row | {"since": None}])
    arguments: dict[str, Any] = {"key": ["k"], "order_by": "since", "compare": COMPARE}
    before = history.history(lake.frame(pa.Table.from_pylist([], schema=schema)), **arguments).toArrow()
    for rows in (twice, nowhen):
        assert few_rows.history_changes(before, pa.Table.from_pylist(rows, schema=schema), **arguments) is None


@pytest.mark.parametrize("seed", _seeds(4))
def test_arrivals_are_put_in_order_in_the_same_way(lake: FolderLakehouse, seed: int):
    chance = random.Random(seed)
    rows = [
        {
            "document_id": chance.choice("ab"),
            "path": chance.choice(["p", "q"]),
            "source": "files",
            "op": chance.choice(["upsert", "upsert", "delete"]),
            "content_hash": chance.choice(["1", "2", None]),
            "_rescued": chance.choice([None, None, "too_large: x"]),
            "_ingested_at": _AT + timedelta(hours=chance.randrange(6)),
        }
        for _ in range(14)
    ]
    head = lake.ensure(arrivals.SOURCE)
    lake.append_arrow(arrivals.SOURCE, rows)
    versions = Versions(head.version, head.version + 1, head.table_id)
    context = Context(
        lake.settings,
        lake,
        "run",
    )
    few = arrivals.arrivals_of(context, versions, again=[])
    assert isinstance(few, pa.Table)
    with by_spark():
        many = arrivals.arrivals_of(context, versions, again=[])
    assert not isinstance(many, pa.Table)
    # Of two rows that differ in nothing that orders them, either is taken.
    columns = ["document_id", "content_hash", "_rescued", "path", "_ingested_at", "_is_last", "_first_at"]
    assert _said(few.select(columns)) == _said(many.select(*columns))


_WORDS = "pump valve oil pressure gauge motor belt filter line tank seal ring shaft rotor"


def _edit(chance: random.Random, landing: Path) -> None:
    """Some files come, change, move, go, become unreadable, or near-equal to others."""
    for _ in range(chance.randint(1, 4)):
        files = sorted(landing.glob("*.md"))
        what = chance.choice(["new", "new", "change", "move", "remove", "break", "copy", "touch"])
        name = landing / f"{chance.randrange(40)}.md"
        if what == "new" or not files:
            name.write_text(_text(chance), encoding="utf-8")
        elif what == "change":
            chosen = chance.choice(files)
            chosen.write_bytes(
                chosen.read_bytes() + b"\n\n## More\n\nAnother " + chance.choice(_WORDS.split()).encode()
            )
        elif what == "move":
            chance.choice(files).rename(name)
        elif what == "remove":
            chance.choice(files).unlink()
        elif what == "break":
            chance.choice(files).write_bytes(b"\x00\xff\xfe\x00" * 9)
        elif what == "copy":
            name.write_bytes(chance.choice(files).read_bytes() + b"\n")
        else:
            chance.choice(files).touch()


def _text(chance: random.Random) -> str:
    words = _WORDS.split()
    sections = [f"## {chance.choice(words)}\n\n{' '.join(chance.choices(words, k=30))}." for _ in range(3)]
    return "# Title\n\n" + "\n\n".join(sections) + "\n"


@pytest.mark.long
@pytest.mark.parametrize(
    ("seed", "edits", "near_duplicates"),
    [(1, 1, "mark"), *(pytest.param(seed, 4, "serve_one", marks=pytest.mark.longest) for seed in (2, 3))],
)
def test_a_workspace_is_the_same_whichever_way_its_rows_go(
    tmp_path: Path, spark: Any, seed: int, edits: int, near_duplicates: str
):
    """A first load, some edits, and everything compared once more, which changes nothing."""

    def run(root: Path, *, plans: bool) -> Settings:
        settings = Settings(
            root=root,
            embedding={"model": "tests.support.embedders:Free"},
            index={"max_delete_ratio": 1},
            ingest={"max_delete_ratio": 1},
            refine={"near_duplicates": near_duplicates},
        )
        (root / "landing").mkdir(parents=True)
        chance = random.Random(seed)
        for number in range(6):
            (root / "landing" / f"{number}.md").write_text(_text(chance), encoding="utf-8")
        run_stages(new_context(settings), stages=DOCUMENT_STAGES)
        for _ in range(edits):
            _edit(chance, root / "landing")
            planned = plan(new_context(settings)) if plans else None
            outcome = run_stages(new_context(settings), stages=DOCUMENT_STAGES)
            counts = {stage.stage: stage.counts for stage in outcome.stages}
            if planned is None:
                continue
            assert planned.embed == counts.get("embed-chunks", {}).get("computed", 0)
            refused = sum(document.op == "!" for document in planned.documents)
            assert refused == counts.get("refine-documents", {}).get("set_aside", 0)
            cut = counts.get("chunk-documents", {})
            assert sum(document.chunks_added for document in planned.documents) == cut.get("insert", 0)
            assert sum(document.chunks_removed for document in planned.documents) == cut.get("delete", 0)
        lake = new_context(settings).lake
        heads = [lake.head(table) for table in _COMPARED]
        shutil.rmtree(lake.folder("ops.stage_state"))
        again = run_stages(new_context(settings), stages=DOCUMENT_STAGES[:4])
        assert {stage.stage for stage in again.stages} == {stage.command for stage in DOCUMENT_STAGES[1:4]}
        assert [lake.head(table) for table in _COMPARED] == heads
        return settings

    few = run(tmp_path / "few", plans=True)
    with by_spark():
        many = run(tmp_path / "many", plans=near_duplicates == "mark")
    for table, compared in _COMPARED.items():
        assert _rows(few, table, compared) == _rows(many, table, compared), table
    assert_same(state(few), state(many))


_COMPARED = {
    "silver.documents": ["path", "title", "text", "content_hash", "cluster_id", "is_representative", "_text_hash"],
    "silver.documents_history": ["path", "text", "content_hash", "is_current", "_marks"],
    "silver.documents_quarantine": ["path", "reason", "failed_rules", "attempts"],
    "silver.chunks": ["chunk_id", "path", "ordinal", "heading_path", "text", "text_hash", "token_count"],
    "gold.embeddings": ["text_hash", "model", "vector"],
    "gold.chunk_index": ["chunk_id", "row_hash", "vector"],
}


def _rows(settings: Settings, table: str, columns: list[str]) -> list[str]:
    return _said(new_context(settings).lake.read_arrow(table, columns=columns))
