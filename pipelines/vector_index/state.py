"""Keeps ops.index_state: the indexes behind one name, which of them readers get, and who may write.

An alias (`index.name` in the settings) is what readers ask for. Behind it stand one index a model: the served one, a
shadow that is being filled for the next model, the previous one that a swap can go back to. Every change of the table
is one compare-and-set of all of it, so an alias moves at once and a lease has one holder.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

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
    """One row: an index, its role behind its alias, its lease, and a copy of its manifest's watermark.

    `model` is the label of the vectors that it holds, `model_name` the setting that gave it.
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
        """Whether `model_name` still means the same model: a new revision under the old name cannot keep it in step."""
        return model_named(self.model_name).label == self.model

    def open(self, settings: Settings) -> Store:
        """The store of this index; nothing is connected yet."""
        return open_store(settings, dimension=self.dimension, name=self.index_name)

    def manifest(self, settings: Settings) -> Manifest | None:
        """What this index equals. Its store is let go at once: some can be open in one process only."""
        store = self.open(settings)
        try:
            return store.manifest()
        finally:
            store.close()


def index_models(context: Context) -> list[Subject]:
    """The embedding models that an index needs: those in use, then the settings' own."""
    settings = context.settings
    own = embedding_model(settings)
    held = states(context.lake, settings.index.name)
    others = [s.model_name for s in held if s.role != "shadow" and s.model_name != own.name and s.has_its_model]
    models = [*(model_named(name) for name in dict.fromkeys(others)), own]
    return [Subject("model", model.name, model, key=model.label) for model in models]


def physical_name(alias: str, model: EmbeddingModel) -> str:
    """The index of one model behind an alias: models never share one."""
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
    """The index behind the settings' alias, with what it equals.

    Raises:
        ConfigurationError: no index of that name, or the alias points at an index that is gone.
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
    """Replace the table's rows by `update(rows)`, once more for each writer that was quicker.

    Raises:
        RefusedError: the table did not hold still for twenty tries.
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
    """The state of `model`'s index behind the settings' alias: a new one is its shadow, the first one is served."""
    alias = settings.index.name
    name, store, uri = physical_name(alias, model), settings.index.store, settings.index_uri
    known = next((state for state in states(lake, alias) if state.index_name == name), None)
    # Before anything is written there: what is forgotten later is sought in every place that was ever written.
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
        # In another place it is another index, of which nothing is known yet.
        elsewhere = replace(row, store=store, uri=uri, is_clean=False)
        return [*others, replace(elsewhere, source_id=None, version=None, fingerprint=None, rows=None)]

    return next(state for state in change(lake, add) if state.index_name == name)


def holder(run_id: str) -> str:
    """Who writes: the run, and the process by which another one on this machine can tell that it is dead."""
    return f"{run_id} {platform.node()} {os.getpid()}"


def is_alive(lease_holder: str) -> bool:
    """False only where the holder was a process of this machine that has ended."""
    *_, node, pid = lease_holder.split(" ")
    if node != platform.node():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def updated(states: Sequence[IndexState], name: str, /, **values: object) -> list[IndexState]:
    """`states` with other values for the index `name`."""
    return [replace(s, **values) if s.index_name == name else s for s in states]  # type: ignore[arg-type]


def foreign(manifest: Manifest, *, state: IndexState, root: Path) -> RefusedError:
    """The error that names whose the index is."""
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
    """Raises RefusedError, with its name, where the index belongs to another workspace.

    A copy of a workspace has its identity. So a writer asks for more: an index that was last written from another
    folder was written under a lease that this workspace knows of.

    Args:
        take_over: a workspace whose index is to become this one's, as its owner asked for.
    """
    if manifest is None or (take_over is not None and take_over == manifest.workspace):
        return
    is_elsewhere = manifest.place not in ("", str(lake.settings.root))
    if is_foreign(lake, manifest) or (is_writing and is_elsewhere and manifest.fence > state.fence):
        raise foreign(manifest, state=state, root=lake.settings.root)
