"""Keeps ops.index_state: the indexes behind one name, which of them readers get, and who may write.

Readers ask for an alias (`index.name` in the settings). Behind it is one index for each model: the served one, a shadow
that is being filled for the next model, and the previous one, to which a swap can go back. Every change of the table is
one compare-and-set of the whole table, so an alias moves at once and a lease has one holder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pipelines.flow.lock import this_process
from pipelines.flow.stage import Context, Subject
from pipelines.lakehouse.tables import Lakehouse
from pipelines.models.embedders import EmbeddingModel, embedding_model, model_named
from pipelines.settings.sections import Settings
from pipelines.stores import Manifest, Store, open_store
from pipelines.vector_index.owner import is_foreign
from pipelines.vector_index.places import Place, kept, note, told
from transformations.errors import ConfigurationError, RefusedError

TABLE = "ops.index_state"
Role = Literal["served", "shadow", "previous"]
_TRIES = 20


@dataclass(frozen=True)
class IndexState:
    """One row: an index, its role behind its alias, its lease, and a copy of its manifest's version.

    Attributes:
        model: the label of the model of its vectors.
        model_name: the setting that named this model.
        is_clean: whether the last writing came to its end.
        fence: number of the last lease.
    """

    index_name: str
    alias: str
    role: Role
    store: str
    uri: str
    model_name: str
    model: str
    dimension: int
    source_table: str | None = None
    source_id: str | None = None
    version: int | None = None
    fingerprint: str | None = None
    rows: int | None = None
    is_clean: bool = False
    fence: int = 0
    lease_holder: str | None = None
    lease_until: datetime | None = None
    updated_at: datetime | None = None

    @property
    def place(self) -> Place:
        return Place(self.index_name, self.alias, self.store, self.uri, self.model_name, self.dimension)

    @property
    def has_its_model(self) -> bool:
        """Whether `model_name` still means the same model: a new revision of that name cannot update this index."""
        return model_named(self.model_name).label == self.model

    def open(self, settings: Settings) -> Store:
        """The store of this index; nothing is connected yet."""
        return open_store(settings, dimension=self.dimension, name=self.index_name)

    def manifest(self, settings: Settings) -> Manifest | None:
        """What this index equals. Its store is closed at once, since some can be open in one process only."""
        store = self.open(settings)
        try:
            return store.manifest()
        finally:
            store.close()


def index_models(context: Context) -> list[Subject]:
    """The embedding models that need an index: those of the indexes in use, then that of the settings."""
    settings = context.settings
    own = embedding_model(settings)
    held = states(context.lake, settings.index.name)
    others = [s.model_name for s in held if s.role != "shadow" and s.model_name != own.name and s.has_its_model]
    models = [*(model_named(name) for name in dict.fromkeys(others)), own]
    return [Subject("model", model.name, model, key=model.label) for model in models]


def physical_name(alias: str, model: EmbeddingModel) -> str:
    """The name of the index of one model behind an alias; models never share an index."""
    return f"{alias}_{hashlib.sha256(model.label.encode()).hexdigest()[:8]}"


def states(lake: Lakehouse, alias: str) -> list[IndexState]:
    """All indexes behind `alias`, the served one first."""
    rows = [_state(lake, row) for row in lake.read_arrow(TABLE, where={"alias": alias}).to_pylist()]
    return sorted(rows, key=lambda s: (s.role != "served", s.index_name))


def all_states(lake: Lakehouse) -> list[IndexState]:
    """All indexes behind all names."""
    return [_state(lake, row) for row in lake.read_arrow(TABLE).to_pylist()]


def _state(lake: Lakehouse, row: dict[str, Any]) -> IndexState:
    return IndexState(**{**row, "uri": told(lake.settings, row["uri"])})


def served(lake: Lakehouse, alias: str) -> IndexState | None:
    """The index that readers of `alias` get."""
    return next((state for state in states(lake, alias) if state.role == "served"), None)


def open_served(settings: Settings, lake: Lakehouse) -> tuple[IndexState, Store, Manifest]:
    """The served index behind the settings' alias: its state, its open store and its manifest.

    Raises:
        ConfigurationError: there is no index of that name, or the alias points at an index that is gone.
        RefusedError: the index belongs to another workspace.
    """
    alias = settings.index.name
    state = served(lake, alias)
    if state is None:
        raise ConfigurationError(
            f"there is no index {alias!r} at {settings.index_uri} yet. Build it with: lakeloop run"
        )
    store = state.open(settings)
    manifest = store.manifest()
    if manifest is None:
        raise ConfigurationError(
            f"the alias {alias!r} points at the index {state.index_name!r}, which is not at {settings.index_uri}. "
            "Build it anew from its table, which embeds nothing, with: lakeloop sync-index"
        )
    check_owner(lake, manifest, state=state)
    return state, store, manifest


def change(lake: Lakehouse, update: Callable[[list[IndexState]], list[IndexState]]) -> list[IndexState]:
    """Replace the table's rows by `update(rows)`; if another writer was quicker, try again with the new rows.

    Raises:
        RefusedError: other writers were quicker in twenty tries.
    """
    for _ in range(_TRIES):
        version = lake.ensure(TABLE).version
        before = all_states(lake)
        after = update(list(before))
        rows = [asdict(state) | {"uri": kept(lake.settings, state.uri)} for state in after]
        if after == before or lake.replace_if_unchanged(TABLE, rows, version=version):
            return after
    raise RefusedError(f"{TABLE} is being changed by others all the time; nothing was done. Run again.")


def register(lake: Lakehouse, settings: Settings, model: EmbeddingModel) -> IndexState:
    """The state of `model`'s index behind the settings' alias, recorded if it is new: the first index is served, every
    later one is a shadow."""
    alias = settings.index.name
    name, store, uri = physical_name(alias, model), settings.index.store, settings.index_uri
    known = next((state for state in states(lake, alias) if state.index_name == name), None)
    # Recorded before anything is written there, because forget looks into every place that was ever written.
    note(lake, [*([known.place] if known else []), Place(name, alias, store, uri, model.name, model.dimension)])
    if known is not None and (known.store, known.uri) == (store, uri):
        return known

    def add(rows: list[IndexState]) -> list[IndexState]:
        others = [row for row in rows if row.index_name != name]
        is_served = any(row.alias == alias and row.role == "served" for row in others)
        row = next((row for row in rows if row.index_name == name), None)
        if row is None:
            row = IndexState(
                name, alias, "shadow" if is_served else "served", store, uri, model.name, model.label, model.dimension
            )
        # In another place it is a new index, of which nothing is known yet.
        elsewhere = replace(row, store=store, uri=uri, is_clean=False)
        return [*others, replace(elsewhere, source_id=None, version=None, fingerprint=None, rows=None)]

    return next(state for state in change(lake, add) if state.index_name == name)


def holder(run_id: str) -> str:
    """The name of a lease's holder: the run, the machine and the process."""
    return f"{run_id} {this_process()}"


def updated(states: Sequence[IndexState], name: str, /, **values: object) -> list[IndexState]:
    """`states` with other values for the index `name`."""
    return [replace(s, **values) if s.index_name == name else s for s in states]  # type: ignore[arg-type]


def foreign(manifest: Manifest, *, state: IndexState, root: Path) -> RefusedError:
    """The error that names the workspace to which the index belongs."""
    return RefusedError(
        f"the index {state.index_name} at {state.uri} belongs to the workspace {manifest.workspace} in "
        f"{manifest.place or 'an unknown folder'}, not to this one in {root}. Nothing was read or "
        "changed, and --force does not help. Give this workspace an index of its own: another index.name, or another "
        "index.uri. If that workspace is no more, take its index over: lakeloop sync-index --take-over "
        f"{manifest.workspace}"
    )


def check_owner(
    lake: Lakehouse,
    manifest: Manifest | None,
    *,
    state: IndexState,
    is_writing: bool = False,
    take_over: str | None = None,
) -> None:
    """Raises RefusedError, with the other workspace's name, if the index belongs to another workspace.

    A copy of a workspace has the same identity as the original. So more is checked for a writer: if the index was last
    written from another folder, this workspace must know the lease under which it was written.

    Args:
        take_over: the workspace whose index shall become this one's; the user has asked for it.
    """
    if manifest is None or (take_over is not None and take_over == manifest.workspace):
        return
    is_elsewhere = manifest.place not in ("", str(lake.settings.root))
    if is_foreign(lake, manifest) or (is_writing and is_elsewhere and manifest.fence > state.fence):
        raise foreign(manifest, state=state, root=lake.settings.root)
