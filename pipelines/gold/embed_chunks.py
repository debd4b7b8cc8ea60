"""embed-chunks: each new text gets a vector in gold.embeddings, and each chunk its row to serve in gold.chunk_index.

gold.embeddings is a cache by text: what was embedded once is never embedded again, wherever the text moves. It is
committed every `embedding.commit_every` texts, before anything else is written, so that a kill costs at most that.
A text that the model refuses becomes a dead letter; the rest goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines.flow.changed_rows import apply_changes, changed, few_of, stamped, touched
from pipelines.flow.stage import Context, Counts, Stage, Work, moved, nothing_new
from pipelines.models.embedders import EmbeddingModel, Embeds
from pipelines.quality.dead_letters import Failure, is_overdue, open_letters, report, to_retry
from pipelines.vector_index.state import index_models
from transformations.errors import ConfigurationError, RefusedError
from transformations.index.fingerprint import row_hash
from transformations.tables.changes import net_changes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)
COMMAND, SOURCE, CACHE, TARGET = "embed-chunks", "silver.chunks", "gold.embeddings", "gold.chunk_index"
# So many texts refused in a row, and none accepted in between: it is not the texts.
_POISON_IN_A_ROW = 8
# A model sorts the texts of a call by length; a text that it refuses costs the others of its call a second time.
_TEXTS_PER_CALL = 256


def look(context: Context) -> Work | None:
    """The chunks that changed since, and the texts that the model refused once and that may be tried again by now."""
    letters = open_letters(context.lake, stage=COMMAND, model=context.about(EmbeddingModel).label)
    return moved(STAGE, context) or (nothing_new(STAGE, context) if is_overdue(context, letters) else None)


def work(context: Context, due: Work) -> Counts:
    """Counts: texts computed and cached (taken from the cache), set_aside, rows insert, update, delete."""
    from pyspark.sql import functions as F

    lake, model, versions = context.lake, context.about(EmbeddingModel), due.first
    lake.ensure(CACHE)
    lake.ensure(TARGET)
    letters = open_letters(lake, stage=COMMAND, model=model.label)
    chunks, keys = changed(context, SOURCE, versions=versions, key="chunk_id", also=to_retry(context, letters))
    chunks, keys = chunks.persist(), keys.persist()
    try:
        counts, refused = embed_missing(context, chunks.select("text_hash", "embed_text"), model=model)
        embedded = chunks.join(_vectors(context, chunks, model=model), "text_hash", "left").withColumn(
            "vector",
            # An inner join would drop the chunk without a word.
            F.when(F.col("text_hash").isin(list(refused)), F.col("vector")).otherwise(
                F.coalesce(
                    "vector", F.raise_error(F.concat(F.lit("no embedding for text "), "text_hash")).cast("array<float>")
                )
            ),
        )
        desired = embedded.where("vector IS NOT NULL").withColumn("model", F.lit(model.label))
        desired = stamped(context, desired.withColumn("row_hash", row_hash()), versions=versions)
        desired = desired.select(*lake.spec(TARGET).columns)
        current = touched(context, TARGET, keys, versions=versions, key="chunk_id").where(F.col("model") == model.label)
        compare = ["row_hash"]
        if versions.since is None:  # a row that was altered by hand may have kept its hash
            current, desired = (rows.withColumn("_said", row_hash()) for rows in (current, desired))
            compare += ["_said", "vector"]
        changes = net_changes(current, desired, key="chunk_id", compare=compare).drop("_said")
        rows = apply_changes(context, TARGET, changes.withColumn("model", F.lit(model.label)))
        failures = []
        if refused:
            poisoned = chunks.where(F.col("text_hash").isin(list(refused)))
            failures = [
                Failure(
                    stage=COMMAND,
                    model=model.label,
                    chunk_id=row["chunk_id"],
                    document_id=row["document_id"],
                    text_hash=row["text_hash"],
                    error=refused[row["text_hash"]],
                    version=versions.until,
                )
                for row in poisoned.select("chunk_id", "document_id", "text_hash").collect()
            ]
        resolved: list[str] = []
        if letters:
            judged = keys.where(F.col("chunk_id").isin([row["chunk_id"] for row in letters]))
            resolved = [row["chunk_id"] for row in judged.collect()]
            if versions.since is None:  # everything was judged, also what is there no longer
                resolved = [row["chunk_id"] for row in letters]
        set_aside = report(context, failures, resolved=resolved, known=letters) if failures or letters else 0
        return {**counts, "set_aside": set_aside, **rows}
    finally:
        chunks.unpersist()
        keys.unpersist()


def embed_missing(
    context: Context, texts: DataFrame, *, model: EmbeddingModel
) -> tuple[dict[str, int], dict[str, str]]:
    """Embed on executors what the cache lacks of `texts` (text_hash, embed_text), a commit for each slice.

    Returns:
        How many texts were computed and found in the cache, and the refused ones with their reason.

    Raises:
        RefusedError: more texts than `embedding.max_texts`.
    """
    from pyspark.sql import functions as F

    settings = context.settings.embedding
    wanted = texts.dropDuplicates(["text_hash"])
    cached = _cached(context, wanted, model=model, columns=["text_hash"]).distinct()
    wanted = wanted.join(cached.withColumn("_is_cached", F.lit(True)), "text_hash", "left")
    missing = wanted.where("_is_cached IS NULL").select("text_hash", "embed_text").persist()
    refused: dict[str, str] = {}
    try:
        found = wanted.agg(F.count("*").alias("wanted"), F.count("_is_cached").alias("cached")).first()
        assert found is not None
        computed = found["wanted"] - found["cached"]
        if settings.max_texts is not None and computed > settings.max_texts and not context.force:
            raise RefusedError(
                f"embed-chunks: {computed} texts would be embedded, embedding.max_texts allows {settings.max_texts}. "
                "Nothing was embedded. See what is new with: lakeloop plan; if it is right, run again with --force."
            )
        slices = ceil(computed / settings.commit_every)
        with context.progress.step("embed-chunks", total=computed) as step:
            for number in range(slices):
                part = missing.where(F.pmod(F.xxhash64("text_hash"), F.lit(slices)) == number)
                refused |= _embed(context, part, model=model, size=ceil(computed / slices))
                step.advance(ceil(computed / slices))
        return {"computed": computed - len(refused), "cached": found["cached"]}, refused
    finally:
        missing.unpersist()


def _embed(context: Context, texts: DataFrame, *, model: EmbeddingModel, size: int) -> dict[str, str]:
    """Embed and commit one slice of some `size` texts. Returns the refused ones with their reason."""
    from pyspark.sql import functions as F

    batch_size = context.settings.embedding.batch_size
    parallel = context.parallelism if size > batch_size else 1
    embedded = texts.repartition(parallel).mapInArrow(
        embed_batches(model, batch_size=batch_size), "text_hash string, vector array<float>, error string"
    )
    embedded = embedded.persist()  # written, then read for what was refused: not to be computed twice
    try:
        identity = {
            "model": model.name,
            "revision": model.revision,
            "instruction": model.instruction,
            "_run_id": context.run_id,
        }
        rows = embedded.where("error IS NULL").withColumns({name: F.lit(value) for name, value in identity.items()})
        context.lake.append(CACHE, rows.withColumn("dimension", F.lit(model.dimension)))
        return {row["text_hash"]: row["error"] for row in embedded.where("error IS NOT NULL").collect()}
    finally:
        embedded.unpersist()


def _cached(context: Context, texts: DataFrame, *, model: EmbeddingModel, columns: list[str]) -> DataFrame:
    """The cache's rows for `texts` (and others, where those are many)."""
    from pyspark.sql import functions as F

    rows = few_of(context, CACHE, texts, key="text_hash")
    return rows.where(
        (F.col("model") == model.name)
        & (F.col("revision") == model.revision)
        & (F.col("dimension") == model.dimension)
        & (F.col("instruction") == model.instruction)
    ).select(*columns)


def _vectors(context: Context, texts: DataFrame, *, model: EmbeddingModel) -> DataFrame:
    from pyspark.sql import functions as F

    # Two runs that were killed and resumed could have appended a text twice.
    cached = _cached(context, texts, model=model, columns=["text_hash", "vector"])
    # Always the same one of them.
    return cached.groupBy("text_hash").agg(F.min_by("vector", F.xxhash64("vector")).alias("vector"))


def embed_batches(
    model: EmbeddingModel, *, batch_size: int
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function for `mapInArrow`: (text_hash, embed_text) → (text_hash, vector, error). One thread a worker."""

    def embed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import numpy as np

        embedder = None
        for batch in batches:
            if batch.num_rows == 0:
                continue
            embedder = embedder or model.load(threads=1)
            texts = batch.column("embed_text").to_pylist()
            vectors: list[object] = [None] * len(texts)
            errors: list[str | None] = [None] * len(texts)
            refused_in_a_row = 0
            for places, result in embed_all(embedder, texts, batch_size=batch_size, dimension=model.dimension):
                if isinstance(result, Exception):
                    refused_in_a_row += 1
                    if refused_in_a_row >= _POISON_IN_A_ROW:
                        raise result
                    errors[places[0]] = f"{type(result).__name__}: {str(result)[:300]}"
                    continue
                refused_in_a_row = 0
                norms = np.linalg.norm(result, axis=1)
                for place, vector, norm in zip(places, result, norms, strict=True):
                    if np.isfinite(norm) and norm > 0:
                        vectors[place] = vector
                    else:
                        errors[place] = f"the model gave a vector of norm {norm}"
            yield pa.RecordBatch.from_arrays(
                [batch.column("text_hash"), pa.array(vectors, pa.list_(pa.float32())), pa.array(errors, pa.string())],
                names=["text_hash", "vector", "error"],
            )

    return embed


def embed_all(
    embedder: Embeds, texts: Sequence[str], *, batch_size: int, dimension: int
) -> Iterator[tuple[range, NDArray[np.float32] | Exception]]:
    """The places of some texts with their vectors, or of one text with the error that it raises.

    What fails together is tried in halves, down to the one text that is to blame.
    """
    starts = range(0, len(texts), _TEXTS_PER_CALL)
    waiting = [range(start, min(start + _TEXTS_PER_CALL, len(texts))) for start in starts]
    while waiting:
        places = waiting.pop()
        try:
            vectors = embedder.embed([texts[place] for place in places], batch_size=batch_size)
        except Exception as error:
            if len(places) == 1:
                yield places, error
            else:
                half = len(places) // 2
                waiting += [places[half:], places[:half]]
            continue
        if vectors.shape != (len(places), dimension):
            raise ConfigurationError(
                f"the embedding model returned {vectors.shape} for {len(places)} texts; its dimension is {dimension}"
            )
        yield places, vectors


STAGE = Stage(
    COMMAND,
    "silver.chunks → gold.embeddings and gold.chunk_index.",
    look,
    work,
    sources=(SOURCE,),
    targets=(TARGET,),
    decided_by=lambda context: f"model={context.about(EmbeddingModel).label}",
    subjects=index_models,
    names=(CACHE,),
)
