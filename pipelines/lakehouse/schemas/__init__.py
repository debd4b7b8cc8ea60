"""The columns of every table of lakeloop's own, by name: what `Lakehouse.ensure` creates and every stage writes.

One module a schema. Grain and keys are in docs/tables.md. Tables whose columns are the user's own (records, features)
are told to the lakehouse by `Lakehouse.declare`.
"""

from __future__ import annotations

from pipelines.lakehouse.schemas import bronze, gold, inference, monitoring, ops, silver
from pipelines.lakehouse.schemas.spec import Role, TableSpec

__all__ = ["INDEX_SCHEMA", "TABLES", "Role", "TableSpec"]

TABLES: dict[str, TableSpec] = {
    **bronze.TABLES,
    **silver.TABLES,
    **gold.TABLES,
    **inference.TABLES,
    **monitoring.TABLES,
    **ops.TABLES,
}
# What an index holds of a row.
INDEX_SCHEMA = TABLES["gold.chunk_index"].content
