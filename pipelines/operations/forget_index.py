"""Removes the rows of documents from one place where an index was written at some time, or says why it cannot."""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.flow.stage import Context
from pipelines.stores import Manifest, Store
from pipelines.vector_index.lease import Lease, writing
from pipelines.vector_index.owner import is_foreign
from pipelines.vector_index.places import Place, forget_place, kept, places
from pipelines.vector_index.state import all_states
from pipelines.vector_index.sync import has_rows

log = logging.getLogger(__name__)
_DELETES_PER_CALL = 1000


@dataclass(frozen=True)
class Cleared:
    """The result for one place: how many rows were deleted, whether nothing of the documents is left, and a line of
    text that says so.
    """

    name: str
    rows: int
    is_cleared: bool
    line: str


def places_to_clear(context: Context) -> list[Place]:
    """The place of every index that this workspace ever wrote, those of the settings first."""
    found = {place.address: place for place in places(context.lake)}
    found |= {state.place.address: state.place for state in all_states(context.lake)}
    alias, here = context.settings.index.name, (context.settings.index.store, context.settings.index_uri)
    return sorted(found.values(), key=lambda p: (p.alias != alias, (p.store, p.uri) != here, p.address))


def clear_place(context: Context, place: Place, keys: Collection[str]) -> Cleared:
    """Delete the documents' rows from an index, and all its older states from its files. Raises no error of a store.

    An index that the stages keep up to date has lost the rows already; the others lose them here.
    """
    name = f"index {place.index_name} ({place.store}, {place.uri})"
    try:
        store = place.open(context.settings)
        try:
            return _clear(context, place, store, keys, name=name)
        finally:
            store.close()
    except Exception as error:  # whatever goes wrong with a store that is gone or outdated, the receipt says it
        log.warning("forget: %s was not cleared", name, exc_info=True)
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        return Cleared(place.index_name, 0, False, _not_cleared(context, place, keys, name=name, why=reason))


def _clear(context: Context, place: Place, store: Store, keys: Collection[str], *, name: str) -> Cleared:
    manifest = store.manifest()
    if manifest is None and not has_rows(store):
        return Cleared(place.index_name, 0, True, f"{name}: nothing, there is no index any more")
    own_places = {state.index_name: state.place.address for state in all_states(context.lake)}
    if manifest is None:
        if place.address in own_places.values():
            why = "its first filling never ended: run lakeloop sync-index, and forget again"
            return Cleared(place.index_name, 0, False, _not_cleared(context, place, keys, name=name, why=why))
        store.drop()
        forget_place(context.lake, place)
        return Cleared(place.index_name, 0, True, f"{name}: dropped, it was never finished and is not used")
    root = str(context.settings.root)
    # An index inside the workspace's folder moved with it. For one outside, a moved workspace looks like a copy.
    is_inside = kept(context.settings, place.uri) != place.uri
    is_elsewhere = manifest.place not in ("", root) and place.address not in own_places.values() and not is_inside
    if is_foreign(context.lake, manifest) or is_elsewhere:
        why = (
            f"it belongs to the workspace {manifest.workspace} in {manifest.place}: forget the document there, or "
            "remove the index where that workspace is no more"
        )
        return Cleared(place.index_name, 0, False, f"NOT CLEARED {name}: {why}")
    is_in_use = place.address in own_places.values()
    lease = writing(context, place.index_name, at_least=manifest.fence) if is_in_use else nullcontext()
    with lease as held:
        rows = _delete(store, manifest, keys, lease=held)
        remains = store.forget()
        if held:
            held.release(None)
    return Cleared(place.index_name, rows, True, f"{name}: {remains}")


def _delete(store: Store, manifest: Manifest, keys: Collection[str], *, lease: Lease | None) -> int:
    """Delete the documents' rows, also those that a sync wrote but did not commit. Returns how many."""
    fence = lease.fence if lease else manifest.fence
    wanted = pa.array(sorted(keys), pa.string())

    def of_documents() -> list[str]:
        found: list[str] = []
        for batch in store.rows():
            is_one = pc.is_in(batch["document_id"].cast(pa.string()), wanted)
            found += batch.filter(is_one)["chunk_id"].to_pylist()
        return found

    ids = of_documents()
    held = sum(batch.num_rows for batch in store.ids_with_hashes())
    if held != manifest.rows:
        # A sync that died left rows that readers do not see yet. Commit them, so that they can be read and deleted.
        shown = replace(manifest, fence=fence, fingerprint="", rows=held)
        store.commit(shown, expected=manifest)
        manifest, ids = shown, of_documents()
    if not ids:
        return 0
    if lease:
        lease.check()
    for start in range(0, len(ids), _DELETES_PER_CALL):
        store.delete(ids[start : start + _DELETES_PER_CALL])
    # Without a fingerprint: the index now equals no version of the table. The next sync computes it again.
    store.commit(replace(manifest, fence=fence, fingerprint="", rows=manifest.rows - len(ids)), expected=manifest)
    return len(ids)


def _not_cleared(context: Context, place: Place, keys: Collection[str], *, name: str, why: str) -> str:
    uri = kept(context.settings, place.uri)
    command = f"lakeloop forget {min(keys)} --only-index --set index.store={place.store} --set 'index.uri={uri}'"
    if place.store != context.settings.index.store:  # the settings' options are of another store; this one refuses them
        command += " --set 'index.options={}'"
    return f"NOT CLEARED {name}: {why}. It may hold the text. Clear it, with its index.secret set, by: {command}"
