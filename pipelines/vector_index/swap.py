"""Points the alias at a shadow index that passed its gates, and back; each move happens at once."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.flow.stage import Context
from pipelines.lakehouse.selection import LastOf
from pipelines.models.embedders import embedding_model
from pipelines.quality.dead_letters import open_letters
from pipelines.stores import Manifest, Store
from pipelines.vector_index.audit import belongs
from pipelines.vector_index.places import forget_place
from pipelines.vector_index.state import IndexState, change, check_owner, physical_name, served, states
from pipelines.vector_index.sync import lacking, served_hashes
from transformations.errors import ConfigurationError, RefusedError
from transformations.index.fingerprint import fingerprint
from transformations.index.vectors import matrix_of
from transformations.metrics.retrieval import mean

SOURCE = "gold.chunk_index"
_K, _QUERIES, _MIN_RECALL = 10, 50, 0.95


@dataclass(frozen=True)
class Gate:
    """One condition of a swap, with what was found in words."""

    name: str
    is_passed: bool
    detail: str


def swap(context: Context) -> dict[str, Any]:
    """Let the alias serve the index of the settings' model; the old one is kept up to date for `swap_back`.

    Raises:
        ConfigurationError: there is no such index, or it is served already.
        RefusedError: a gate is not passed, and the swap was not forced. The alias did not move.
    """
    alias, model = context.settings.index.name, embedding_model(context.settings)
    name = physical_name(alias, model)
    target = next((state for state in states(context.lake, alias) if state.index_name == name), None)
    if target is None:
        raise ConfigurationError(
            f"swap: there is no index of {model.label} behind {alias!r} yet. Fill it beside the served one with: "
            "lakeloop run"
        )
    if target.role == "served":
        raise ConfigurationError(f"swap: {alias!r} serves the index of {model.label} already; nothing was done")
    gates = check_gates(context, target)
    failed = [gate for gate in gates if not gate.is_passed]
    if failed and not context.force:
        raise RefusedError(
            f"swap: {'; '.join(f'{gate.name}: {gate.detail}' for gate in failed)}. {alias!r} still serves what it did. "
            "Bring the new index up to date with: lakeloop run"
        )
    return _move(context, target) | {"gates": [vars(gate) for gate in gates]}


def swap_back(context: Context) -> dict[str, Any]:
    """Let the alias serve the index that it served before the last swap, at once.

    Raises:
        ConfigurationError: there is no such index, or it is gone from its store.
        RefusedError: the index belongs to another workspace by now.
    """
    alias = context.settings.index.name
    target = next((state for state in states(context.lake, alias) if state.role == "previous"), None)
    if target is None:
        raise ConfigurationError(f"swap: there is no index that {alias!r} served before; nothing was done")
    manifest = target.manifest(context.settings)
    check_owner(context.lake, manifest, state=target)
    if manifest is None:
        raise ConfigurationError(
            f"swap: the index {target.index_name} is not at {target.uri} any more; nothing was done"
        )
    return _move(context, target) | {"gates": []}


def finish(context: Context) -> dict[str, Any]:
    """Drop the indexes behind the alias that are not served, and those rows of gold.chunk_index that no index serves.

    Raises:
        ConfigurationError: there is nothing to drop.
        RefusedError: one of the indexes belongs to another workspace by now; nothing was dropped.
    """
    alias, lake = context.settings.index.name, context.lake
    keep = served(lake, alias)
    others = [state for state in states(lake, alias) if keep is None or state.index_name != keep.index_name]
    if keep is None:
        raise ConfigurationError(f"swap: behind {alias!r} is no index that is served; nothing was done")
    for state in others:
        with closing(state.place.open(context.settings)) as store:  # the place of the index, whatever is set now
            check_owner(lake, store.manifest(), state=state, is_writing=True)
    names = {state.index_name for state in others}
    # The rows go first: an index without its row is garbage, but a row without its index is an alias to nothing.
    kept = change(lake, lambda rows: [row for row in rows if row.index_name not in names])
    for state in others:
        with closing(state.place.open(context.settings)) as store:
            store.drop()
        forget_place(lake, state.place)
    own = {embedding_model(context.settings).label} - {state.model for state in others}  # its index may come next
    unused = _unused_models(context, used={state.model for state in kept} | own)
    if not others and not unused:
        raise ConfigurationError(f"swap: behind {alias!r} is no index that is not served; nothing was done")
    for label in unused:
        # If this model is used again later, its rows must be written again.
        context.states.forget("embed-chunks", [label])
        lake.delete(SOURCE, {"model": [label]})
    return {"serves": keep.index_name, "dropped": sorted(names)}


def _unused_models(context: Context, *, used: set[str]) -> list[str]:
    """Models whose rows no index needs, behind this alias or another; also those that a killed `finish` left."""
    models = context.lake.read_arrow(SOURCE, columns=["model"], which=LastOf(("model",), by="chunk_id"))["model"]
    return sorted({*models.to_pylist()} - used)


def _move(context: Context, target: IndexState) -> dict[str, Any]:
    alias = target.alias

    def move(rows: list[IndexState]) -> list[IndexState]:
        moved = []
        for row in rows:
            if row.alias == alias and row.index_name == target.index_name:
                row = replace(row, role="served", updated_at=context.now())
            elif row.alias == alias:
                row = replace(row, role="previous" if row.role == "served" else "shadow")
            moved.append(row)
        return moved

    before = served(context.lake, alias)
    change(context.lake, move)
    return {"alias": alias, "serves": target.index_name, "served_before": before.index_name if before else None}


def check_gates(context: Context, state: IndexState) -> list[Gate]:
    """Check that the index is complete, equals the table, and that its search finds what an exact search finds."""
    store = state.open(context.settings)
    try:
        manifest, head = store.manifest(), context.lake.head(SOURCE)
        check_owner(context.lake, manifest, state=state)
        if manifest is None or head is None:
            return [Gate("index", False, f"nothing at {state.uri}")]
        label = manifest.model_label
        lacks = lacking(context, manifest, head=head)
        is_current = lacks.since == lacks.until and belongs(context.lake, manifest, head=head)
        letters = open_letters(context.lake, model=label)
        missing = {row["chunk_id"] for row in letters if row["index_name"] == state.index_name}
        wanted = served_hashes(context, model=label, version=head.version, without=missing)
        held = [value for batch in store.ids_with_hashes() for value in batch.column("row_hash").to_pylist()]
        refused = len({row["chunk_id"] for row in letters if row["stage"] == "embed-chunks"})
        chunks = context.lake.count("silver.chunks") - refused
        recall = _recall(context, store, manifest)
        return [
            Gate("version", is_current, f"{manifest.version}, the table is at {head.version}"),
            Gate("chunks", len(wanted) == chunks - len(missing), f"{len(wanted)} of {chunks - len(missing)}"),
            Gate("rows", len(held) == len(wanted), f"{len(held)}, the table has {len(wanted)}"),
            Gate("fingerprint", fingerprint(held) == fingerprint(wanted) == manifest.fingerprint, manifest.fingerprint),
            Gate("dead letters", not letters, f"{len(letters)} open"),
            Gate(f"recall@{_K}", recall is None or recall >= _MIN_RECALL, f"{recall}, {_MIN_RECALL} is wanted"),
        ]
    finally:
        store.close()


def _recall(context: Context, store: Store, manifest: Manifest) -> float | None:
    """The share of the exact ten nearest that the index finds, with up to fifty rows of the table as queries.

    A hit counts by its score, not by its id, because of ties and vectors that occur several times. None without rows.
    """
    rows = context.lake.read_arrow(SOURCE, columns=["vector"], where={"model": manifest.model_label})
    if rows.num_rows == 0:
        return None
    vectors = matrix_of(rows["vector"], dimension=manifest.dimension)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen = np.random.default_rng(0).choice(len(vectors), size=min(_QUERIES, len(vectors)), replace=False)
    return mean(_found(store, vectors[place], vectors) for place in chosen)


def _found(store: Store, query: NDArray[np.float32], vectors: NDArray[np.float32]) -> float:
    k = min(_K, len(vectors))
    worst_exact = np.partition(vectors @ query, -k)[-k]
    hits = store.search(query, k=k)
    return sum(1 for hit in hits if hit.score >= worst_exact - 1e-4) / k
