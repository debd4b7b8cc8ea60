"""A table of made vectors in; sync against the raw client's upsert, search against its search, and recall, out.

    python -m benchmarks.stores sync   [--rows 240000] [--rounds 3]     Lance: rows a second, and the ratio
    python -m benchmarks.stores search [--rows 24000]                   Lance: milliseconds, and the ratio
    python -m benchmarks.stores recall [--rows 20000]                   every store that runs in a folder: recall@10
    python -m benchmarks.stores recall --texts FOLDER [--questions FILE] [--vectors FILE]      of real vectors

What is compared takes turns in one process. Vectors have 384 numbers: made ones stand in clusters, since pure noise has
no neighbours, and are easier than real ones. Real ones are those of the folder's chunks and, for searches, of the
questions (one a line), by the default model; the file named keeps them for the next time.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.stores.real_vectors import real_vectors
from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import stage_named
from pipelines.lakehouse.schemas import INDEX_SCHEMA, TABLES
from pipelines.models.embedders import embedding_model
from pipelines.settings.sections import Settings
from pipelines.stores import Manifest, open_store
from pipelines.vector_index.state import register
from pipelines.vector_index.writer import ROWS_PER_CALL
from transformations.index.fingerprint import fingerprint

SCHEMA = INDEX_SCHEMA
MODEL = "benchmarks.sync.embedder:StubEmbedder"
DIMENSION, CLUSTERS = 384, 500


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stores")
    parser.add_argument("what", choices=["sync", "search", "recall"])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stores", nargs="+", default=["lance", "chroma", "milvus", "faiss", "annoy", "scann"])
    parser.add_argument("--uri", help="of one store that is a server, as postgresql://…")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of index.options")
    parser.add_argument("--texts", type=Path, help="a folder of texts to embed")
    parser.add_argument("--questions", type=Path, help="a file of them, one a line")
    parser.add_argument("--vectors", type=Path, default=Path("real-vectors.npz"), help="keeps what was embedded")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lakeloop-bench-"))
    try:
        if arguments.what == "sync":
            compare_sync(folder, rows=arguments.rows or 240_000, rounds=arguments.rounds)
        elif arguments.what == "search":
            compare_search(folder, rows=arguments.rows or 24_000)
        else:
            rows = arguments.rows or 20_000
            made = pa.concat_tables(batches(rows)), queries(100)
            if arguments.texts:
                real = real_vectors(arguments.texts, questions=arguments.questions, cache=arguments.vectors)
                made = rows_of(real.texts, real.vectors), list(real.questions)
            index = {"options": dict(option.split("=", 1) for option in arguments.option)}
            index |= {"uri": arguments.uri} if arguments.uri else {}
            compare_recall(folder, *made, stores=arguments.stores, index=index)
    finally:
        shutil.rmtree(folder)


def compare_sync(folder: Path, *, rows: int, rounds: int) -> None:
    settings = Settings(root=folder, embedding={"model": MODEL})
    lake = new_context(settings).lake
    for batch in batches(rows):
        lake.append_arrow("gold.chunk_index", as_stored(batch))
    print("| round | raw rows/s | lakeloop rows/s | ratio |\n| --- | --- | --- | --- |")
    ratios = []
    for number in range(rounds):
        raw = raw_upsert(folder / f"raw-{number}.lance", rows)
        shutil.rmtree(folder / "index", ignore_errors=True)
        sync = timed(lambda: run_stages(new_context(settings), stages=[stage_named("sync-index")]))
        ratios.append(raw / sync)
        print(f"| {number} | {rows / raw:,.0f} | {rows / sync:,.0f} | {raw / sync:.2f} |", flush=True)
        shutil.rmtree(folder / f"raw-{number}.lance")
    print(f"\nmedian ratio {median(ratios):.2f} (1 is the raw client's rate)")


def raw_upsert(path: Path, rows: int) -> float:
    """The library alone: seconds that it takes to upsert the same batches, in memory, into an empty dataset."""
    import lance

    schema = SCHEMA.set(SCHEMA.get_field_index("vector"), pa.field("vector", pa.list_(pa.float32(), DIMENSION)))
    dataset = lance.write_dataset(schema.empty_table(), path)
    seconds = 0.0
    for batch in batches(rows):
        start = time.perf_counter()
        merge = dataset.merge_insert("chunk_id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(batch.cast(schema))
        seconds += time.perf_counter() - start
    return seconds


def compare_search(folder: Path, *, rows: int) -> None:
    import lance

    settings = Settings(root=folder, embedding={"model": MODEL})
    store, index = filled(settings, batches(rows))
    raw = lance.dataset(index)
    columns = ["chunk_id", "document_id", "path", "title", "heading_path", "text", "_distance"]
    ours, theirs = [], []
    for query in queries(300):
        nearest = {"column": "vector", "q": query, "k": 10, "metric": "cosine"}
        theirs.append(timed(lambda nearest=nearest: raw.to_table(columns=columns, nearest=nearest).to_pylist()))
        ours.append(timed(lambda query=query: store.search(query, k=10)))
    raw_ms, our_ms = median(theirs) * 1000, median(ours) * 1000
    print("| rows | raw p50 ms | lakeloop p50 ms | ratio |\n| --- | --- | --- | --- |")
    print(f"| {rows:,} | {raw_ms:.2f} | {our_ms:.2f} | {our_ms / raw_ms:.2f} |")


def compare_recall(folder: Path, rows: pa.Table, asked: list[Any], *, stores: list[str], index: Any) -> None:
    matrix = np.asarray(rows["vector"].combine_chunks().flatten()).reshape(-1, DIMENSION)
    ids = rows["chunk_id"].to_pylist()
    exact = [{ids[i] for i in np.argpartition(-(matrix @ query), 10)[:10]} for query in asked]
    print(f"{len(ids):,} rows, {len(asked):,} searches\n\n| store | recall@10 | search p50 ms |\n| --- | --- | --- |")
    for name in stores:
        settings = Settings(root=folder / name, index={**index, "store": name}, embedding={"model": MODEL})
        store, _ = filled(settings, [rows])
        store.search(asked[0], k=10)
        times, found = [], []
        for query, wanted in zip(asked, exact, strict=True):
            start = time.perf_counter()
            hits = store.search(query, k=10)
            times.append(time.perf_counter() - start)
            found.append(len(wanted & {hit.chunk_id for hit in hits}) / 10)
        print(f"| {name} | {np.mean(found):.3f} | {median(times) * 1000:.2f} |", flush=True)
        store.close()


def filled(settings: Settings, tables: Iterable[pa.Table]) -> tuple[Any, str]:
    """A store with the rows, committed, and where a Lance dataset of it is."""
    settings.root.mkdir(parents=True, exist_ok=True)
    model = embedding_model(settings)
    state = register(new_context(settings).lake, settings, model)
    store = open_store(settings, dimension=model.dimension, name=state.index_name)
    hashes = []
    for rows in tables:
        store.upsert(rows)
        hashes += rows["row_hash"].to_pylist()
    value = fingerprint(hashes)
    built = Manifest("gold.chunk_index", "bench", 1, value, model.name, model.revision, model.dimension, len(hashes))
    store.commit(built, expected=None)
    return store, f"{state.uri}/{state.index_name}.lance"


def batches(rows: int) -> Iterator[pa.Table]:
    """The rows of the table, as many at a time as a sync writes; always the same."""
    centres = _unit(np.random.default_rng(0).standard_normal((CLUSTERS, DIMENSION)))
    for start in range(0, rows, ROWS_PER_CALL):
        numbers = range(start, min(start + ROWS_PER_CALL, rows))
        chance = np.random.default_rng(start + 1)
        near = centres[chance.integers(CLUSTERS, size=len(numbers))]
        vectors = _unit(near + 0.03 * chance.standard_normal((len(numbers), DIMENSION)))
        texts = [f"Chunk {n}. " + "Some forty words of text that every chunk has. " * 12 for n in numbers]
        yield rows_of(texts, vectors, first=start)


def rows_of(texts: list[str], vectors: Any, *, first: int = 0) -> pa.Table:
    """Rows of gold.chunk_index, numbered from `first` on."""
    offsets = pa.array(np.arange(0, vectors.size + 1, DIMENSION), pa.int32())
    count, numbers = len(texts), range(first, first + len(texts))
    hashes = [hashlib.sha256(str(n).encode()).hexdigest() for n in numbers]
    values = {
        "chunk_id": [value[:32] for value in hashes],
        "document_id": [f"document-{n // 10}" for n in numbers],
        "path": [f"{n // 10}.md" for n in numbers],
        "title": ["A title"] * count,
        "heading_path": [["Guide", "Part"]] * count,
        "text": texts,
        "text_hash": hashes,
        "format": ["md"] * count,
        "source": ["files"] * count,
        "model": [f"{MODEL}@stub-a/{DIMENSION}"] * count,
        "vector": pa.ListArray.from_arrays(offsets, pa.array(vectors.ravel(), pa.float32())),
        "row_hash": hashes,
    }
    return pa.table(values, schema=SCHEMA)


def as_stored(rows: pa.Table) -> pa.Table:
    """The rows with the table's technical columns, which no index has."""
    for field in TABLES["gold.chunk_index"].schema:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows


def queries(count: int) -> list[Any]:
    chance = np.random.default_rng(99)
    centres = _unit(np.random.default_rng(0).standard_normal((CLUSTERS, DIMENSION)))
    near = centres[chance.integers(CLUSTERS, size=count)]
    return list(_unit(near + 0.03 * chance.standard_normal((count, DIMENSION))))


def _unit(vectors: Any) -> Any:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
