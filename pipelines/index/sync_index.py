"""sync-index: brings the changes of gold.chunk_index to the vector index.

How far the index has come is read from its own manifest, so that a lost or restored index is noticed. If the manifest
does not fit the table, or the history that it needs is gone, ids and hashes are compared instead and only the
difference is written. docs/vector-index.md has the protocol and what it promises.
"""

from __future__ import annotations

from dataclasses import replace

from pipelines.flow.stage import Context, Counts, Stage, Work
from pipelines.models.embedders import EmbeddingModel, embedding_model
from pipelines.quality.dead_letters import to_retry
from pipelines.stores import Manifest, open_store
from pipelines.vector_index.changes import Changes, changes_since, difference, everything
from pipelines.vector_index.owner import options_hash
from pipelines.vector_index.state import (
    IndexState,
    index_models,
    physical_name,
    states,
)
from pipelines.vector_index.sync import COMMAND, SOURCE, IndexSync, check_source, has_rows, lacking


def look(context: Context) -> Work | None:
    """The versions of the table that the index lacks; None if it has all of them. Needs no JVM."""
    head = context.lake.head(SOURCE)
    if head is None:
        return None
    model = context.about(EmbeddingModel)
    name = physical_name(context.settings.index.name, model)
    held = {state.index_name: state for state in states(context.lake, context.settings.index.name)}
    state = held.get(name) or IndexState(
        name, "", "shadow", "", context.settings.index_uri, model.name, model.label, model.dimension
    )
    manifest = state.manifest(context.settings)
    if manifest is not None:
        check_source(context, manifest, state=state, model=model)
    versions = lacking(context, manifest, head=head)
    is_known = name in held and manifest is not None and manifest.options in ("", options_hash(context.settings))
    return None if is_known and versions.since == versions.until else Work((versions,))


def work(context: Context, due: Work) -> Counts:
    """Write the changes to the index.

    Returns:
        Counts: upserts, deletes, skipped (nothing that is served changed) and set_aside of the index, and the rows that
        it then has.

    Raises:
        RefusedError: a mass delete, another writer has the lease, or the index belongs to another workspace.
        ConfigurationError: the index belongs to another table or was written by a newer lakeloop.
    """
    return IndexSync(context, context.about(EmbeddingModel), due.first, command=COMMAND).run(_since_the_manifest)


def _since_the_manifest(sync: IndexSync, manifest: Manifest | None, is_clean: bool) -> Changes:
    context, model = sync.context, sync.model.label
    # Another host may have written since `look`: now that this run holds the lease, what the index lacks is read again.
    now = lacking(context, manifest, head=context.lake.ensure(SOURCE))
    # If `look` chose a comparison (`since` None), it stays one: the history that is needed may be gone.
    sync.versions = now if sync.versions.since is not None else replace(now, since=None)
    if sync.versions.since is not None and manifest is not None:
        also = to_retry(context, sync.letters)
        return changes_since(context, sync.versions, model=model, is_clean=is_clean, also=also)
    if not has_rows(sync.store):
        return everything(context, sync.versions, model=model)
    return difference(context, sync.store, sync.versions, model=model)


def _check(context: Context) -> None:
    """Open the store once, so that a wrong option or a missing library shows before an hour of embedding."""
    open_store(context.settings, dimension=embedding_model(context.settings).dimension).close()


STAGE = Stage(
    COMMAND,
    "gold.chunk_index → the vector index, equal to it.",
    look,
    work,
    sources=(SOURCE,),
    subjects=index_models,
    check=_check,
    names=("index",),
)
