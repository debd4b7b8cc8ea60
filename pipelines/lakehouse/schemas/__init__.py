"""The columns of lakeloop's own tables, by name of the table: `Lakehouse.ensure` creates them, the stages write them.

One module per schema. Grain and keys are in docs/tables.md. Tables whose columns the user defines (records, features)
are added with `Lakehouse.declare`.
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
# The columns of a row that an index holds.
INDEX_SCHEMA = TABLES["gold.chunk_index"].content
