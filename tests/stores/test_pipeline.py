"""Every store behind the pipeline: the scenarios of docs/benchmarks.md that an index meets, and what each costs it.

One way of running each; to Spark all ways are the same calls, and tests/stores/test_contract.py has every way.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.answering.search import Searcher
from pipelines.conductor.run import new_context
from pipelines.settings.sections import Settings
from pipelines.stores import STORES
from pipelines.vector_index.audit import audit
from pipelines.vector_index.repair import repair
from pipelines.vector_index.state import served
from tests.stores.servers import VARIANTS
from tests.support.chunked import chunk, deliver, settings_for, sync
from tests.support.embedders import counted

pytestmark = pytest.mark.long
CHUNKS = [chunk(document, place) for document in range(6) for place in range(10)]


def assert_equal(settings: Settings) -> None:
    context = new_context(settings)
    result = audit(context, served(context.lake, "chunks"))
    assert result.is_equal, result.to_json()


def written(settings: Settings) -> dict[str, int]:
    counts = sync(settings).get("sync-index", {})
    return {name: counts.get(name, 0) for name in ("upserts", "deletes", "skipped", "rows")}


@pytest.mark.parametrize(
    "variant",
    [
        # CI runs one on a disk and one that is served.
        pytest.param(ways[-1], marks=() if ways[-1] in ("lance", "pgvector") else pytest.mark.longest)
        for store in STORES
        if (ways := VARIANTS.get(store, (store,)))
    ],
)
def test_a_table_and_its_index_through_all_that_happens_to_them(store_settings: str, tmp_path: Path, spark):
    index: dict[str, Any] = json.loads(store_settings)["index"]
    settings = settings_for(tmp_path, **index)
    deliver(settings, CHUNKS)
    try:
        assert written(settings) == {"upserts": 60, "deletes": 0, "skipped": 0, "rows": 60}
        assert_equal(settings)
        assert sync(settings) == {}
        paid = counted()

        edited = chunk(2, 3, "One paragraph, edited.")
        deliver(settings, [edited], [CHUNKS[23]])
        assert written(settings) == {"upserts": 1, "deletes": 1, "skipped": 0, "rows": 60}
        deliver(settings, [], CHUNKS[50:])
        assert written(settings) == {"upserts": 0, "deletes": 10, "skipped": 0, "rows": 50}
        deliver(settings, [row | {"source": "wiki", "title": None} for row in CHUNKS[:3]])
        assert written(settings) == {"upserts": 3, "deletes": 0, "skipped": 0, "rows": 50}
        assert counted() - paid == 1
        assert_equal(settings)

        lake = new_context(settings).lake
        lake.read("gold.chunk_index").write.format("delta").mode("overwrite").save(str(lake.folder("gold.chunk_index")))
        assert written(settings) == {"upserts": 0, "deletes": 0, "skipped": 50, "rows": 50}

        store = served(lake, "chunks").open(settings)
        manifest = store.manifest()
        rows = pa.Table.from_batches([batch for batch in store.rows() if batch.num_rows])
        ghost = rows.slice(0, 1).set_column(0, rows.schema.field(0), pa.array(["ghost"]))
        store.upsert(ghost)
        store.delete(rows["chunk_id"].to_pylist()[1:4])
        store.commit(manifest, expected=manifest)
        store.close()
        result = repair(new_context(settings), served(lake, "chunks"))
        assert result["differences"] == {"missing": 3, "ghost": 1}
        assert (result["upserts"], result["deletes"]) == (3, 1)
        assert_equal(settings)

        store = served(lake, "chunks").open(settings)
        store.drop()
        store.close()
        assert written(settings) == {"upserts": 50, "deletes": 0, "skipped": 0, "rows": 50}
        assert_equal(settings)
        assert counted() - paid == 1
        (hit,) = Searcher(settings).search(edited["text"], k=1)
        assert hit.chunk_id == edited["chunk_id"]
    finally:
        state = served(new_context(settings).lake, "chunks")
        if state is not None:
            state.open(settings).drop()
