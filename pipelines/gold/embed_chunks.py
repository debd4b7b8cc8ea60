"""Changes of silver.chunks in; a vector a text in gold.embeddings, and the rows to serve in gold.chunk_index, out.

gold.embeddings is a cache by text: what was embedded once is never embedded again, wherever the text moves. It is
committed every `embedding.commit_every` texts, before anything else is written, so that a kill costs at most that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines.models.embedders import EmbeddingModel, embedding_model
from pipelines.stage import Context, Counts, Window, apply_changes, touched
from transformations.changes import fold_changes, net_changes
from transformations.fingerprint import row_hash

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SOURCE, CACHE, TARGET = "silver.chunks", "gold.embeddings", "gold.chunk_index"


def run(context: Context, window: Window) -> Counts:
    """Counts: texts computed and cached (taken from the cache), rows insert, update, delete."""
    from pyspark.sql import functions as F

    lake, model = context.lake, embedding_model(context.settings)
    lake.ensure(CACHE)
    lake.ensure(TARGET)
    if window.since is None:
        chunks = lake.read(SOURCE, version=window.until)
        keys = chunks.select("chunk_id")
    else:
        feed = lake.read_changes(SOURCE, after=window.since, until=window.until)
        folded = fold_changes(feed, key="chunk_id").persist()
        chunks, keys = folded.where("_op = 'upsert'"), folded.select("chunk_id")
    counts = embed_missing(context, chunks.select("text_hash", "embed_text"), model=model)
    embedded = chunks.join(_cached(context, model), "text_hash", "left").withColumn(
        "vector",
        # An inner join would drop the chunk without a word.
        F.coalesce(
            "vector", F.raise_error(F.concat(F.lit("no embedding for text "), "text_hash")).cast("array<float>")
        ),
    )
    desired = embedded.withColumn("model", F.lit(model.label)).withColumn("row_hash", row_hash())
    current = touched(context, TARGET, keys, window=window, key="chunk_id")
    changes = net_changes(current, desired.select(*lake.spec(TARGET).columns), key="chunk_id", compare=["row_hash"])
    return {**counts, **apply_changes(context, TARGET, changes)}


def embed_missing(context: Context, texts: DataFrame, *, model: EmbeddingModel) -> dict[str, int]:
    """Embed on executors what the cache lacks of `texts` (text_hash, embed_text), a commit for each slice."""
    from pyspark.sql import functions as F

    settings = context.settings.embedding
    wanted = texts.dropDuplicates(["text_hash"])
    cached = _cached(context, model).select("text_hash")
    wanted = wanted.join(cached.withColumn("_is_cached", F.lit(True)), "text_hash", "left")
    missing = wanted.where("_is_cached IS NULL").select("text_hash", "embed_text").persist()
    try:
        found = wanted.agg(F.count("*").alias("wanted"), F.count("_is_cached").alias("cached")).first()
        assert found is not None
        computed = found["wanted"] - found["cached"]
        slices = ceil(computed / settings.commit_every)
        with context.progress.step("embed-chunks", total=computed) as step:
            for number in range(slices):
                part = missing.where(F.pmod(F.xxhash64("text_hash"), F.lit(slices)) == number)
                size = ceil(computed / slices)
                parallel = context.parallelism if size > settings.batch_size else 1
                vectors = part.repartition(parallel).mapInArrow(
                    embed_batches(model, batch_size=settings.batch_size), "text_hash string, vector array<float>"
                )
                identity = {
                    "model": model.name,
                    "revision": model.revision,
                    "instruction": model.instruction,
                    "_run_id": context.run_id,
                }
                rows = vectors.withColumns({name: F.lit(value) for name, value in identity.items()})
                context.lake.append(CACHE, rows.withColumn("dimension", F.lit(model.dimension)))
                step.advance(size)
        return {"computed": computed, "cached": found["cached"]}
    finally:
        missing.unpersist()


def _cached(context: Context, model: EmbeddingModel) -> DataFrame:
    from pyspark.sql import functions as F

    rows = context.lake.read(CACHE).where(
        (F.col("model") == model.name)
        & (F.col("revision") == model.revision)
        & (F.col("dimension") == model.dimension)
        & (F.col("instruction") == model.instruction)
    )
    # Two runs that were killed and resumed could have appended a text twice.
    return rows.select("text_hash", "vector").dropDuplicates(["text_hash"])


def embed_batches(
    model: EmbeddingModel, *, batch_size: int
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function for `mapInArrow`: (text_hash, embed_text) → (text_hash, vector). One thread a worker."""

    def embed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        embedder = None
        for batch in batches:
            if batch.num_rows == 0:
                continue
            embedder = embedder or model.load(threads=1)
            vectors = embedder.embed(batch.column("embed_text").to_pylist(), batch_size=batch_size)
            column = pa.ListArray.from_arrays(
                pa.array(range(0, vectors.size + 1, model.dimension), pa.int32()), pa.array(vectors.ravel())
            )
            yield pa.RecordBatch.from_arrays([batch.column("text_hash"), column], names=["text_hash", "vector"])

    return embed
