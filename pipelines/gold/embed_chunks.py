"""embed-chunks: embeds each new text into gold.embeddings, and writes each chunk's row of gold.chunk_index.

gold.embeddings is a cache by text: a text that was embedded once is never embedded again, even if it moves to another
chunk or document. It is committed about every `embedding.commit_seconds`, before anything else is written, so that a
kill costs no more work of the model than that. A text that the model refuses becomes a dead letter; the others go on.
"""

from __future__ import annotations

import logging
import os
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
    is_light,
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
# If the model refuses this many texts in a row, the fault is not in the texts: the stage fails.
_POISON_IN_A_ROW = 8
# Texts per call of the model. More are faster, since it sorts them by length; but if one is refused, the others are
# embedded a second time.
_TEXTS_PER_CALL = 256
# The texts are embedded in portions, whose unit is this many model batches (of `embedding.batch_size` texts). The first
# portion assumes this slow model; a later one follows the pace measured before, and is at most this factor larger.
_CALLS_AT_ONCE, _SLOW_TEXTS_PER_SECOND, _FASTER = 8, 25, 16
# Bytes of an embedded row besides its vector.
_BYTES_BESIDE = 200


def look(context: Context) -> Work | None:
    """The versions of silver.chunks that were not read yet, or no new version but dead letters to try again by now."""
    letters = open_letters(context.lake, stage=COMMAND, model=context.about(EmbeddingModel).label)
    return moved(STAGE, context) or (nothing_new(STAGE, context) if is_overdue(context, letters) else None)


def work(context: Context, due: Work) -> Counts:
    """Embed the changed chunks for one model.

    Counts: texts computed and cached (found in the cache), chunks set_aside, rows insert, update, delete.

    Raises:
        RefusedError: more texts than `embedding.max_texts` would be embedded.
    """
    lake, model, versions = context.lake, context.about(EmbeddingModel), due.first
    lake.create(CACHE)
    lake.create(TARGET)
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
        if versions.since is not None:  # else all chunks were tried, and letters of deleted chunks are resolved too
            resolved = [row["chunk_id"] for row in to_pylist(where_in(keys, "chunk_id", resolved))]
    set_aside = report(context, failures, resolved=resolved, known=letters) if failures or letters else 0
    return {**counts, "set_aside": set_aside, **rows}


def _changes(context: Context, current: Rows, desired: Rows, *, model: EmbeddingModel, versions: Versions) -> Rows:
    compare = ["row_hash"]
    if versions.since is None:  # a row that was altered by hand may have kept its hash
        if isinstance(current, pa.Table) and isinstance(desired, pa.Table):
            current, desired = _as_it_is(current), _as_it_is(desired)
        else:
            from pyspark.sql import functions as F

            is_of = F.struct(row_hash(), "vector")
            current, desired = (as_frame(context, rows).withColumn("_is", is_of) for rows in (current, desired))
        compare += ["_is"]
    changes = differences(context, current, desired, key="chunk_id", compare=compare)
    # A delete has only `chunk_id`; the key of the table also has the model.
    columns = [*context.lake.spec(TARGET).columns, "_op"]
    return selected(with_values(without(changes, ["_is", "model"]), model=model.label), columns)


def _as_it_is(rows: pa.Table) -> pa.Table:
    """Add `_is`, what the row holds: the hash of its columns, and the bytes of its vector."""
    import numpy as np

    hashes = [row_hash_of(row) for row in rows.select(ROW_FIELDS).to_pylist()]
    vectors = [
        None if vector is None else (np.asarray(vector.values, dtype="<f4") + np.float32(0)).tobytes()
        for chunk in rows["vector"].chunks
        for vector in (each if each.is_valid else None for each in chunk)
    ]
    held = [None if of is None else row_hash.encode() + of for row_hash, of in zip(hashes, vectors, strict=True)]
    return rows.append_column("_is", pa.array(held, pa.large_binary()))


def _served(context: Context, chunks: Rows, refused: Collection[str], *, model: EmbeddingModel) -> Rows:
    """The chunks whose text was not refused, with `vector` and `row_hash`.

    A text that has no vector and was not refused is an error; an inner join would drop its chunks silently.
    """
    if isinstance(chunks, pa.Table) and not _are_held(chunks.num_rows, model):
        chunks = as_frame(context, chunks)
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
    """Embed those of `texts` (text_hash, embed_text) that the cache lacks, on executors if they are many.

    Each portion is committed, so that a kill costs about `embedding.commit_seconds` of the model's work at most.

    Returns:
        The counts `computed` and `cached`, and the refused texts: text_hash → reason.

    Raises:
        RefusedError: the cache lacks more texts than `embedding.max_texts`, and `force` is not set.
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
                context, _portion(missing, range(done, stop), units=units, unit_size=unit), model=model, size=size
            )
            step.advance(size)
            due = (stop - done) * settings.commit_seconds / (time.monotonic() - start)
            done, at_once = stop, max(1, int(min(due, _FASTER * at_once)))
    return {"computed": computed - len(refused), "cached": cached}, refused


def _portion(texts: Rows, which: range, *, units: int, unit_size: int) -> Rows:
    """The units `which` (of `units`) of the texts; a unit has `unit_size` texts, in a frame only about that many."""
    if isinstance(texts, pa.Table):
        return texts.slice(which.start * unit_size, len(which) * unit_size)
    from pyspark.sql import functions as F

    return texts.where(F.pmod(F.xxhash64("text_hash"), F.lit(units)).between(which.start, which.stop - 1))


def _missing(context: Context, texts: Rows, *, model: EmbeddingModel) -> tuple[Rows, int, int]:
    """The texts that the cache lacks, without repetition; how many these are; and how many texts the cache has."""
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
    """Embed and commit one portion of about `size` texts. Returns the refused ones: text_hash → reason."""
    # In this process the model has all cores, on executors each worker has one.
    threads = (os.cpu_count() or 1) if is_light(texts) else 1
    embed = embed_batches(model, batch_size=context.settings.embedding.batch_size, threads=threads)
    are_held = _are_held(size, model)
    embedded = mapped(context, texts if are_held else as_frame(context, texts), embed, _EMBEDDED)
    if are_held:  # an append without Spark takes seconds less, and a Connect session would read the cache's new rows
        embedded = as_table(embedded)
    embedded = kept(context, embedded)  # used twice below: to write the vectors, and to find the refused texts
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


def _are_held(rows: int, model: EmbeddingModel) -> bool:
    """Whether this process should hold so many rows with vectors of the model."""
    return rows * (4 * model.dimension + _BYTES_BESIDE) <= FEW_BYTES


def _cached(context: Context, texts: Rows, *, model: EmbeddingModel, columns: list[str]) -> Rows:
    """The cache's rows of this model for `texts`; with other texts too, if `texts` are many."""
    rows = few_of(context, CACHE, texts, key="text_hash")
    for name, value in (("model", model.name), ("revision", model.revision), ("instruction", model.instruction)):
        rows = where_in(rows, name, [value])
    return selected(where_in(rows, "dimension", [model.dimension]), columns)


def _vectors(context: Context, texts: Rows, *, model: EmbeddingModel) -> Rows:
    """text_hash and vector, one row per text: the cache may have a text twice, after runs that were killed."""
    cached = _cached(context, texts, model=model, columns=["text_hash", "vector"])
    if isinstance(cached, pa.Table) and len(pc.unique(cached["text_hash"])) == cached.num_rows:
        return cached
    from pyspark.sql import functions as F

    # Of several vectors of a text, always the same one.
    first = F.min_by("vector", F.xxhash64("vector")).alias("vector")
    return as_frame(context, cached).groupBy("text_hash").agg(first)


def embed_batches(
    model: EmbeddingModel, *, batch_size: int, threads: int = 1
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function for `mapInArrow`: (text_hash, embed_text) → (text_hash, vector, error), with `threads` of each worker.

    Either `vector` or `error` is null. A vector with a norm that is zero or not finite is an error.

    Raises:
        Exception: the model's own, if it refuses 8 texts in a row.
    """

    def embed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import numpy as np

        embedder = None
        for batch in batches:
            if batch.num_rows == 0:
                continue
            embedder = embedder or model.load(threads=threads)
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
    """Ranges of places in `texts`, each with the vectors of its texts, or for a single text with the error it raised.

    If a call fails, its texts are tried in halves, down to single texts.

    Raises:
        ConfigurationError: the model's vectors do not have the dimension `dimension`.
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
