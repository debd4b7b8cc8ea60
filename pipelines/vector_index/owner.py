"""A manifest and a workspace in; whether the index is this workspace's own, out.

Several workspaces may share a server, or a folder, and choose the same name. An index belongs to the workspace that its
manifest names: no other one reads, writes or drops it, whatever is forced.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.lakehouse.tables import Lakehouse
from pipelines.settings.sections import Settings
from pipelines.stores import Manifest
from transformations.errors import RefusedError

if TYPE_CHECKING:
    from pipelines.vector_index.state import IndexState

_SOURCE, _STATE = "gold.chunk_index", "ops.index_state"


def workspace_id(lake: Lakehouse) -> str:
    """The identity of the table that says which indexes a workspace has: a workspace has it from its first sync on."""
    head = lake.head(_STATE)
    return "" if head is None else head.table_id


def options_hash(settings: Settings) -> str:
    """Tells other `index.options` from these."""
    given = sorted(settings.index.options.items())
    return hashlib.sha256(repr(given).encode()).hexdigest()[:16]


def is_foreign(lake: Lakehouse, manifest: Manifest) -> bool:
    """Whether another workspace wrote the index. One that lost its own state is known by its table."""
    return is_foreign_to(identity(lake), manifest)


def identity(lake: Lakehouse) -> tuple[str, str]:
    """What tells this workspace's indexes from others: its own identity, and its table's."""
    head = lake.head(_SOURCE)
    return workspace_id(lake), head.table_id if head else ""


def is_foreign_to(identity: tuple[str, str], manifest: Manifest) -> bool:
    """Whether an index is not of the workspace with this `identity`."""
    workspace, table_id = identity
    return manifest.workspace not in ("", workspace) and (not table_id or manifest.source_id != table_id)


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
