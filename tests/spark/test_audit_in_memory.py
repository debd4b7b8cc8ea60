"""An index that came to harm at random: the comparison in memory finds what the one on Spark finds."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from pipelines.conductor.run import new_context
from pipelines.lakehouse.schemas import INDEX_SCHEMA
from pipelines.settings.sections import Settings
from pipelines.vector_index import audit as audit_module
from pipelines.vector_index.audit import Audit, audit
from pipelines.vector_index.state import served
from tests.support.by_spark import by_spark
from tests.support.chunked import chunk, deliver, settings_for, sync
from transformations.index.fingerprint import row_hash_of

Row = dict[str, Any]


def _last_bits(row: Row) -> Row:
    vector = np.asarray(row["vector"], np.float32)
    return row | {"vector": np.nextafter(vector, np.float32(2)).tolist()}


def _hashed_anew(row: Row) -> Row:
    return row | {"row_hash": row_hash_of(row)}


HARM: dict[str, Callable[[Row], list[Row]]] = {
    "nothing": lambda row: [row],
    "lost": lambda row: [],
    "ghost": lambda row: [row, row | {"chunk_id": row["chunk_id"] + "-ghost"}],
    "twice": lambda row: [row, row],
    "three times": lambda row: [row, row | {"text": "other"}, row],
    "text": lambda row: [row | {"text": "other"}],
    "text and hash": lambda row: [_hashed_anew(row | {"text": "other"})],
    "no text": lambda row: [row | {"text": None}],
    "no title": lambda row: [_hashed_anew(row | {"title": None})],
    "no headings": lambda row: [row | {"heading_path": None}],
    "a heading": lambda row: [row | {"heading_path": [None, "\x1e", ""]}],
    "path": lambda row: [row | {"path": "other"}],
    "path and hash": lambda row: [_hashed_anew(row | {"path": "other", "title": "other"})],
    "hash": lambda row: [row | {"row_hash": "0"}],
    "another hash": lambda row: [row | {"row_hash": "f" * 64}],
    "no hash": lambda row: [row | {"row_hash": None}],
    "last bits": lambda row: [_last_bits(row)],
    "near": lambda row: [row | {"vector": [row["vector"][0] + 0.9e-5, *row["vector"][1:]]}],
    "vector": lambda row: [row | {"vector": [row["vector"][0] + 1.1e-5, *row["vector"][1:]]}],
    "no number": lambda row: [row | {"vector": [float("nan"), *row["vector"][1:]]}],
    "no end": lambda row: [row | {"vector": [float("inf"), *row["vector"][1:]]}],
    "minus zero": lambda row: [row | {"vector": [-0.0, *row["vector"][1:]]}],
    "zero": lambda row: [row | {"vector": [0.0, *row["vector"][1:]]}],
}
# These are left to Spark.
NULLS: dict[str, Callable[[Row], list[Row]]] = {
    "no path": lambda row: [row | {"path": None}],
    "no vector": lambda row: [row | {"vector": None}],
    "a null in a vector": lambda row: [row | {"vector": [None, *row["vector"][1:]]}],
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = settings_for(tmp_path_factory.mktemp("template"))
    deliver(settings, [chunk(document, place) for document in range(6) for place in range(10)])
    sync(settings)
    return settings


class _Harmed:
    """A workspace whose index, and whose table, hold these rows."""

    def __init__(self, settings: Settings) -> None:
        self.context = new_context(settings)
        self.state = served(self.context.lake, "chunks")
        self.rows = self.context.lake.read_arrow("gold.chunk_index").to_pylist()
        self.manifest = self.state.manifest(settings)
        self._settings = settings

    def write(self, *, table: list[Row], index: list[Row]) -> None:
        lake = self.context.lake
        schema = lake.spec("gold.chunk_index").schema
        write_deltalake(
            str(lake.folder("gold.chunk_index")), pa.Table.from_pylist(table, schema=schema), mode="overwrite"
        )
        version = lake.head("gold.chunk_index").version
        store = self.state.open(self._settings)
        store.commit(replace(self.manifest, version=version, commit=""), expected=store.manifest())
        store.close()
        dataset = lance.dataset(f"{self.state.uri}/{self.state.index_name}.lance")
        dataset.delete("true")
        dataset.insert(pa.Table.from_pylist(index, schema=INDEX_SCHEMA).cast(dataset.schema))
        dataset.tags.update("served", dataset.latest_version)  # readers see what was done behind our back

    def audits(self) -> tuple[Audit, Audit]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(audit_module, "_compared_on_spark", None)
            here = audit(self.context, self.state)
        return here, self.by_spark()

    def by_spark(self) -> Audit:
        with by_spark():
            return audit(self.context, self.state)


@pytest.fixture
def harmed(template: Settings, tmp_path: Path, spark: SparkSession) -> _Harmed:
    shutil.copytree(template.root, tmp_path, dirs_exist_ok=True)
    return _Harmed(settings_for(tmp_path))


@pytest.mark.long
def test_harm_to_index_and_table_is_the_same_in_memory_and_on_spark(harmed: _Harmed):
    chance = random.Random(5)
    harms, kinds = [*HARM], set[str]()
    # Each harm once or more; the later workspaces have it in the table, or in both.
    for of_index, of_table in ((1, 0), (0, 1), (1, 1)):
        table, index = [], []
        for place, row in enumerate(harmed.rows):
            (first, second) = (harms[place % len(harms)], chance.choice(harms))
            index += HARM[first](row) if of_index else [row]
            harmed_row = HARM[second if of_index else first](row)[:1]
            table += harmed_row if of_table else [row]
        harmed.write(table=table, index=index)
        here, spark = harmed.audits()
        assert here == spark
        kinds |= {*here.counts}
    assert kinds == {"missing", "ghost", "duplicate", "stale", "wrong_filter", "wrong_vector"}


@pytest.mark.long
def test_what_spark_hashes_pass_over_and_a_table_with_an_id_twice_are_left_to_spark(harmed: _Harmed):
    whole = harmed.rows
    first, *rest = whole
    for null in NULLS.values():
        harmed.write(table=[*null(first), *rest], index=whole)
        assert audit(harmed.context, harmed.state) == harmed.by_spark()
    harmed.write(table=[first, *whole], index=whole)
    assert audit(harmed.context, harmed.state) == harmed.by_spark()


@pytest.mark.long
def test_an_index_that_is_as_it_should_be_is_equal_in_both_ways(harmed: _Harmed):
    harmed.write(table=harmed.rows, index=[_last_bits(row) for row in harmed.rows])
    here, spark = harmed.audits()
    assert here == spark
    assert here.is_equal
