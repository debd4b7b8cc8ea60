"""Whether an index is this workspace's own, by its manifest.

Several workspaces may share a server, or a folder, and choose the same name. An index belongs to the workspace that its
manifest names: no other one reads, writes or drops it, whatever is forced.
"""

from __future__ import annotations

import hashlib

from pipelines.lakehouse.tables import Lakehouse
from pipelines.settings.sections import Settings
from pipelines.stores import Manifest

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
