"""Decides by an index's manifest whether the index belongs to this workspace.

Several workspaces may share a server or a folder, and choose the same name. An index belongs to the workspace that its
manifest names: no other workspace reads, writes or drops it, even with --force.
"""

from __future__ import annotations

import hashlib

from pipelines.lakehouse.tables import Lakehouse
from pipelines.settings.sections import Settings
from pipelines.stores import Manifest

_SOURCE, _STATE = "gold.chunk_index", "ops.index_state"


def workspace_id(lake: Lakehouse) -> str:
    """The identity of ops.index_state, which stands for the workspace; "" before its first sync."""
    head = lake.head(_STATE)
    return "" if head is None else head.table_id


def options_hash(settings: Settings) -> str:
    """A hash that changes when `index.options` change."""
    given = sorted(settings.index.options.items())
    return hashlib.sha256(repr(given).encode()).hexdigest()[:16]


def is_foreign(lake: Lakehouse, manifest: Manifest) -> bool:
    """Whether another workspace wrote the index. If this workspace lost its own state, its table identifies it."""
    return is_foreign_to(identity(lake), manifest)


def identity(lake: Lakehouse) -> tuple[str, str]:
    """The identities by which this workspace knows its indexes: its own, and that of its table gold.chunk_index."""
    head = lake.head(_SOURCE)
    return workspace_id(lake), head.table_id if head else ""


def is_foreign_to(identity: tuple[str, str], manifest: Manifest) -> bool:
    """Whether an index belongs to another workspace than the one with this `identity`."""
    workspace, table_id = identity
    return manifest.workspace not in ("", workspace) and (not table_id or manifest.source_id != table_id)
