"""embed-chunks: each new text gets a vector in gold.embeddings, and each chunk its row to serve in gold.chunk_index.

gold.embeddings is a cache by text: what was embedded once is never embedded again, wherever the text moves. It is
committed every `embedding.commit_seconds`, before anything else is written, so that a kill costs at most that.
A text that the model refuses becomes a dead letter; the rest goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from math import ceil
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.flow.changed_rows import apply_changes, changed, differences, few_of, stamped, touched
from pipelines.flow.rows import (
    Rows,
    as_frame,
    as_table,
    kept,
    mapped,
    selected,
    to_pylist,
    where_in,
    where_null,
    where_some,
    with_values,
    without,
)
from pipelines.flow.stage import Context, Counts, Stage, Versions, Work, moved, nothing_new
from pipelines.lakehouse.delta_folder import FEW_BYTES
from pipelines.models.embedders import EmbeddingModel, Embeds
from pipelines.quality.dead_letters import Failure, is_overdue, open_letters, report, to_retry
from pipelines.vector_index.state import index_models
from transformations.errors import ConfigurationError, RefusedError
from transformations.index.fingerprint import ROW_FIELDS, row_hash, row_hash_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)
COMMAND, SOURCE, CACHE, TARGET = "embed-chunks", "silver.chunks", "gold.embeddings", "gold.chunk_index"
# So many texts refused in a row, and none accepted in between: it is not the texts.
_POISON_IN_A_ROW = 8
# A model sorts the texts of a call by length; a text that it refuses costs the others of its call a second time.
_TEXTS_PER_CALL = 256
# Portions are of so many calls, or some times that: the first as if the model were slow, a later one as the pace was.
_CALLS_AT_ONCE, _SLOW_TEXTS_PER_SECOND, _FASTER = 8, 25, 16
# What the hash of a text and what stands beside it weigh.
_BYTES_BESIDE = 200


def look(context: Context) -> Work | None:
    """The chunks that changed since, and the texts that the model refused once and that may be tried again by now."""
    letters = open_letters(context.lake, stage=COMMAND, model=context.about(EmbeddingModel).label)
    return moved(STAGE, context) or (nothing_new(STAGE, context) if is_overdue(context, letters) else None)


def work(context: Context, due: Work) -> Counts:
    """Counts: texts computed and cached (taken from the cache), set_aside, rows insert, update, delete."""
    lake, model, versions = context.lake, context.about(EmbeddingModel), due.first
    lake.ensure(CACHE)
    lake.ensure(TARGET)
    letters = open_letters(lake, stage=COMMAND, model=model.label)
    chunks, keys = changed(context, SOURCE, versions=versions, key="chunk_id", also=to_retry(context, letters))
    chunks, keys = kept(context, chunks), kept(context, keys)
    counts, refused = embed_missing(context, selected(chunks, ["text_hash", "embed_text"]), model=model)
    served = _served(context, with_values(chunks, model=model.label), refused, model=model)
    desired = selected(stamped(context, served, versions=versions), lake.spec(TARGET).columns)
    current = where_in(touched(context, TARGET, keys, versions=versions, key="chunk_id"), "model", [model.label])
    rows = apply_changes(context, TARGET, _changes(context, current, desired, model=model, versions=versions))
    failures = []
    if refused:
        poisoned = where_in(selected(chunks, ["chunk_id", "document_id", "text_hash"]), "text_hash", refused)
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
            for row in to_pylist(poisoned)
        ]
    resolved: list[str] = []
    if letters:
        resolved = [row["chunk_id"] for row in letters]
        if versions.since is not None:  # else everything was judged, also what is there no longer
            resolved = [row["chunk_id"] for row in to_pylist(where_in(keys, "chunk_id", resolved))]
    set_aside = report(context, failures, resolved=resolved, known=letters) if failures or letters else 0
    return {**counts, "set_aside": set_aside, **rows}


def _changes(context: Context, current: Rows, desired: Rows, *, model: EmbeddingModel, versions: Versions) -> Rows:
    compare = ["row_hash"]
    if versions.since is None:  # a row that was altered by hand may have kept its hash
        current, desired = (as_frame(context, rows).withColumn("_said", row_hash()) for rows in (current, desired))
        compare += ["_said", "vector"]
    changes = differences(context, current, desired, key="chunk_id", compare=compare)
    # What is deleted has its key alone; the table's key has the model, too.
    columns = [*context.lake.spec(TARGET).columns, "_op"]
    return selected(with_values(without(changes, ["_said", "model"]), model=model.label), columns)


def _served(context: Context, chunks: Rows, refused: Collection[str], *, model: EmbeddingModel) -> Rows:
    """The chunks that have a vector, with it and their hash. An inner join would drop the others without a word."""
    if not isinstance(chunks, pa.Table):
        from pyspark.sql import functions as F

        lacks = F.raise_error(F.concat(F.lit("no embedding for text "), "text_hash")).cast("array<float>")
        vector = F.coalesce("vector", F.when(~F.col("text_hash").isin(list(refused)), lacks))
        embedded = chunks.join(_vectors(context, chunks, model=model), "text_hash", "left").withColumn("vector", vector)
        return embedded.where("vector IS NOT NULL").withColumn("row_hash", row_hash())
    vectors = as_table(_vectors(context, chunks, model=model))
    places = pc.index_in(chunks["text_hash"], vectors["text_hash"].combine_chunks())
    lacking = set(chunks.filter(pc.is_null(places))["text_hash"].to_pylist()) - {*refused}
    if lacking:
        raise RuntimeError(f"no embedding for text {min(lacking)}")
    served = chunks.append_column("vector", vectors["vector"].take(places)).filter(pc.is_valid(places))
    hashes = [row_hash_of(row) for row in served.select(ROW_FIELDS).to_pylist()]
    return served.append_column("row_hash", pa.array(hashes, pa.string()))


def embed_missing(context: Context, texts: Rows, *, model: EmbeddingModel) -> tuple[dict[str, int], dict[str, str]]:
    """Embed what the cache lacks of `texts` (text_hash, embed_text), on executors where they are many.

    Each portion is committed, so that a kill costs at most some `embedding.commit_seconds` of the model's work.

    Returns:
        How many texts were computed and found in the cache, and the refused ones with their reason.

    Raises:
        RefusedError: more texts than `embedding.max_texts`.
    """
    settings = context.settings.embedding
    missing, computed, cached = _missing(context, texts, model=model)
    if settings.max_texts is not None and computed > settings.max_texts and not context.force:
        raise RefusedError(
            f"embed-chunks: {computed} texts would be embedded, embedding.max_texts allows {settings.max_texts}. "
            "Nothing was embedded. See what is new with: lakeloop plan; if it is right, run again with --force."
        )
    refused: dict[str, str] = {}
    unit = settings.batch_size * _CALLS_AT_ONCE
    units = ceil(computed / unit)
    done, at_once = 0, max(1, int(min(_SLOW_TEXTS_PER_SECOND * settings.commit_seconds / unit, units)))
    with context.progress.step("embed-chunks", total=computed) as step:
        while done < units:
            start, stop = time.monotonic(), min(done + at_once, units)
            size = min(unit * (stop - done), computed)
            refused |= _embed(
                context, _portion(missing, range(done, stop), of=units, unit=unit), model=model, size=size
            )
            step.advance(size)
            due = (stop - done) * settings.commit_seconds / (time.monotonic() - start)
            done, at_once = stop, max(1, int(min(due, _FASTER * at_once)))
    return {"computed": computed - len(refused), "cached": cached}, refused


def _portion(texts: Rows, which: range, *, of: int, unit: int) -> Rows:
    """Some of the `of` units of the texts, each some `unit` of them."""
    if isinstance(texts, pa.Table):
        return texts.slice(which.start * unit, len(which) * unit)
    from pyspark.sql import functions as F

    return texts.where(F.pmod(F.xxhash64("text_hash"), F.lit(of)).between(which.start, which.stop - 1))


def _missing(context: Context, texts: Rows, *, model: EmbeddingModel) -> tuple[Rows, int, int]:
    """The texts that the cache lacks, each once; how many these are, and how many it has."""
    if isinstance(texts, pa.Table):
        held = _cached(context, texts, model=model, columns=["text_hash"])
        if isinstance(held, pa.Table):
            unique = texts.take(pc.index_in(pc.unique(texts["text_hash"]), texts["text_hash"].combine_chunks()))
            missing = unique.filter(pc.invert(pc.is_in(unique["text_hash"], held["text_hash"].combine_chunks())))
            return missing, missing.num_rows, unique.num_rows - missing.num_rows
    from pyspark.sql import functions as F

    wanted = as_frame(context, texts).dropDuplicates(["text_hash"])
    cached = as_frame(context, _cached(context, wanted, model=model, columns=["text_hash"])).distinct()
    wanted = wanted.join(cached.withColumn("_is_cached", F.lit(True)), "text_hash", "left")
    found = wanted.agg(F.count("*").alias("wanted"), F.count("_is_cached").alias("cached")).first()
    assert found is not None
    missing = kept(context, wanted.where("_is_cached IS NULL").select("text_hash", "embed_text"))
    return missing, found["wanted"] - found["cached"], found["cached"]


_EMBEDDED = pa.schema([("text_hash", pa.string()), ("vector", pa.list_(pa.float32())), ("error", pa.string())])


def _embed(context: Context, texts: Rows, *, model: EmbeddingModel, size: int) -> dict[str, str]:
    """Embed and commit one portion of some `size` texts. Returns the refused ones with their reason."""
    embedded = mapped(context, texts, embed_batches(model, batch_size=context.settings.embedding.batch_size), _EMBEDDED)
    if context.lake.is_local and size * (4 * model.dimension + _BYTES_BESIDE) <= FEW_BYTES:
        embedded = as_table(embedded)  # appended without Spark: that takes seconds less
    embedded = kept(context, embedded)  # written, then read for what was refused: not to be computed twice
    rows = with_values(
        where_null(embedded, "error"),
        model=model.name,
        revision=model.revision,
        instruction=model.instruction,
        dimension=model.dimension,
        _run_id=context.run_id,
    )
    rows = selected(rows, context.lake.spec(CACHE).columns)
    if isinstance(rows, pa.Table):
        context.lake.append_arrow(CACHE, rows.cast(context.lake.spec(CACHE).schema))
    else:
        context.lake.append(CACHE, rows)
    return {row["text_hash"]: row["error"] for row in to_pylist(where_some(embedded, "error"))}


def _cached(context: Context, texts: Rows, *, model: EmbeddingModel, columns: list[str]) -> Rows:
    """The cache's rows for `texts` (and others, where those are many)."""
    rows = few_of(context, CACHE, texts, key="text_hash")
    for name, value in (("model", model.name), ("revision", model.revision), ("instruction", model.instruction)):
        rows = where_in(rows, name, [value])
    return selected(where_in(rows, "dimension", [model.dimension]), columns)


def _vectors(context: Context, texts: Rows, *, model: EmbeddingModel) -> Rows:
    """text_hash → vector, each once: two runs that were killed and resumed could have appended a text twice."""
    cached = _cached(context, texts, model=model, columns=["text_hash", "vector"])
    if isinstance(cached, pa.Table) and len(pc.unique(cached["text_hash"])) == cached.num_rows:
        return cached
    from pyspark.sql import functions as F

    # Always the same one of them.
    first = F.min_by("vector", F.xxhash64("vector")).alias("vector")
    return as_frame(context, cached).groupBy("text_hash").agg(first)


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
