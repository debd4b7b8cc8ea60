"""Says what the stages of documents would do besides what the lines of a plan tell, and what an index would lose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from pipelines.flow.stage import Context, Stage, Work
from pipelines.gold import embed_chunks
from pipelines.index import sync_index
from pipelines.models.embedders import EmbeddingModel
from pipelines.silver import chunk_documents, refine_documents
from pipelines.stores import Manifest
from pipelines.vector_index.state import physical_name, states
from pipelines.vector_index.sync import SOURCE, refuse_mass_delete
from transformations.errors import LakeloopError, RefusedError
from transformations.text.printable import printable_line

# The rows of silver.chunks of one document: chunk_id → row.
_Held: TypeAlias = Mapping[str, Mapping[str, Any]]
_REFINE, _SYNC = refine_documents.STAGE, sync_index.STAGE
# What a stage does if it reads all rows of its source.
_OF_ALL = {
    refine_documents.STAGE.command: "all documents are refined anew",
    chunk_documents.STAGE.command: "all documents are cut anew",
    embed_chunks.STAGE.command: "all chunks are looked up in the cache, and embedded if it lacks them",
}

# Up to this many documents are named in one sentence.
_SHOWN = 5


class Cut(NamedTuple):
    """A chunk that a document would have: the hash of its text, and that of its row by label of the model."""

    text_hash: str
    row_hashes: Mapping[str, str]


class _Row(NamedTuple):
    document_id: str
    text_hash: str
    row_hash: str | None = None
    path: str = ""


@dataclass(frozen=True)
class Found:
    """What the looks of the stages gave: sentences for `Plan.also_due`, and messages of limits that refuse the run."""

    due: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def of_documents(context: Context, refine: Work | None, *, is_told: bool) -> Iterator[str]:
    """A sentence for each stage from refine-documents to embed-chunks that finds work.

    Args:
        refine: the work that refine-documents has found.
        is_told: whether the lines of the plan tell what refine-documents has not read yet.
    """
    if refine is not None and not is_told and (sentence := _sentence(_REFINE, context, refine)):
        yield sentence
    if refine is not None and refine.found:
        yield (
            f"{_REFINE.command}: {len(refine.found)} documents that were refused for a limit of parsing are tried "
            "again, because the limit was raised"
        )
    for stage in (chunk_documents.STAGE, embed_chunks.STAGE):
        for each in stage.contexts(context):
            work = stage.look(each)
            if work is not None:
                yield _sentence(stage, each, work) or f"{_name(stage, each)}: refused texts are tried again"


def of_indexes(context: Context, planned: Mapping[str, Mapping[str, Cut]], held: Mapping[str, _Held]) -> Found:
    """What sync-index has to do for each index, and whether its limit on deletes refuses what the index would lose.

    Args:
        planned: document_id → chunk_id → the chunk, for each document of the plan; no chunks if nothing is left of it.
        held: document_id → the rows of silver.chunks.
    """
    found, lake = Found(), context.lake
    if lake.head(chunk_documents.SOURCE) is not None:  # chunks of a document that is gone go next
        alive = set(lake.read_arrow(chunk_documents.SOURCE, columns=["document_id"])["document_id"].to_pylist())
        held = {document: rows for document, rows in held.items() if document in alive}
    for each in _SYNC.contexts(context):
        try:
            _of_index(each, planned, held, found)
        except RefusedError as error:
            found.refused.append(str(error))
        except LakeloopError as error:
            found.due.append(f"{_name(_SYNC, each)}: the index cannot be looked at now: {error}")
    return found


def _of_index(each: Context, planned: Mapping[str, Mapping[str, Cut]], held: Mapping[str, _Held], found: Found) -> None:
    head = each.lake.head(SOURCE)
    if head is None:
        return
    model, work = each.about(EmbeddingModel), _SYNC.look(each)
    name = physical_name(each.settings.index.name, model)
    state = next((s for s in states(each.lake, each.settings.index.name) if s.index_name == name), None)
    manifest = None if state is None else state.manifest(each.settings)
    if work is not None:
        found.due.append(f"{_name(_SYNC, each)}: {_of_sync(work, manifest)}")
    if manifest is None:
        return
    since = head.version if work is None or work.first.since is None else work.first.since
    now = _rows(each, model, version=None)
    before: dict[str, _Row] | None = now
    if since != head.version:
        try:
            before = _rows(each, model, version=since)
        except Exception:  # delta-rs fails in many ways if files of an older version are gone
            before = None
    if before is None:
        found.due.append(
            f"{_name(_SYNC, each)}: how many rows the index loses is not known, because version {since} of {SOURCE} "
            "cannot be read any more"
        )
        before = now
    after = _after(now, planned, held if each.lake.head(chunk_documents.TARGET) else None, model=model.label)
    gone, moved = _vanishing(before, after)
    untold = [row for row in gone if row.document_id not in planned]
    if untold:
        paths = sorted({row.path for row in untold})
        more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
        shown = ", ".join(printable_line(path, width=60) for path in paths[:_SHOWN])
        found.due.append(f"{_name(_SYNC, each)}: {len(untold)} rows would leave the index, of {shown}{more}")
    refuse_mass_delete(each, name, deletes=len(gone), rows=manifest.rows, moved=lambda: moved)


def _rows(context: Context, model: EmbeddingModel, *, version: int | None) -> dict[str, _Row]:
    """The rows of the model in gold.chunk_index, by chunk_id; at a version, if given."""
    columns = ["chunk_id", "document_id", "text_hash", "row_hash", "path"]
    found: dict[str, _Row] = {}
    for batch in context.lake.read_batches(SOURCE, columns=columns, where={"model": model.label}, version=version):
        keys, *values = (batch.column(name).to_pylist() for name in columns)
        found.update(zip(keys, map(_Row, *values), strict=True))
    return found


def _after(
    now: Mapping[str, _Row], planned: Mapping[str, Mapping[str, Cut]], held: Mapping[str, _Held] | None, *, model: str
) -> dict[str, _Row]:
    """The rows that the table will have once the stages have run; `held` None: silver.chunks does not tell."""
    after = {key: row for key, row in now.items() if row.document_id not in planned}
    if held is not None:
        stays = {key for rows in held.values() for key in rows}
        after = {key: row for key, row in after.items() if key in stays}
        for document, rows in held.items():
            if document not in planned:
                new = ((key, row["text_hash"]) for key, row in rows.items() if key not in now)
                after |= {key: _Row(document, text_hash) for key, text_hash in new}
    for document, chunks in planned.items():
        after |= {key: _Row(document, cut.text_hash, cut.row_hashes.get(model)) for key, cut in chunks.items()}
    return after


def _vanishing(before: Mapping[str, _Row], after: Mapping[str, _Row]) -> tuple[list[_Row], int]:
    """The rows whose deletes the limit counts (see `Changes.vanished`), and how many of them are only moved."""
    written = {key: row for key, row in after.items() if key not in before or before[key].row_hash != row.row_hash}
    kept = {row.document_id for row in written.values()}
    gone = [row for key, row in before.items() if key not in after and row.document_id not in kept]
    new = Counter(row.text_hash for key, row in written.items() if key not in before)
    return gone, (Counter(row.text_hash for row in gone) & new).total()


def _sentence(stage: Stage, context: Context, work: Work) -> str | None:
    """What the stage reads, and why; None if it has read all versions of its sources."""
    if work.first.since is None:
        return f"{_name(stage, context)}: {_OF_ALL[stage.command]}, because {_why(stage, context)}"
    tables = zip(stage.sources_of(context), work.versions, strict=True)
    unread = [table for table, versions in tables if versions.since != versions.until]
    if not unread:
        return None
    return f"{_name(stage, context)}: it has not read the last changes of {' and '.join(unread)} yet"


def _why(stage: Stage, context: Context) -> str:
    """Why `moved` reads everything."""
    state, targets = stage.state(context), stage.targets_of(context)
    if state is None:
        return "no run of it is recorded"
    if state.definition != stage.definition(context):
        code, _, _ = state.definition.partition(" ")
        return "its settings changed" if code == str(stage.code_version) else "its code changed"
    if context.lake.head(targets[0]) is None:
        return f"{targets[0]} is missing"
    return "a table that it reads or writes was put back"


def _of_sync(work: Work, manifest: Manifest | None) -> str:
    if manifest is None:
        return "the index is built, because it is not there yet"
    if work.first.since is None:
        return (
            f"the index is compared with all rows of {SOURCE}, because the history since its version cannot be used; "
            "how many rows it loses by that is not known"
        )
    if work.first.since == work.first.until:
        return "the index is opened anew, because its options changed"
    return f"the index lacks the last changes of {SOURCE}"


def _name(stage: Stage, context: Context) -> str:
    return stage.command if context.subject is None else f"{stage.command} ({context.subject.name})"
