"""measure-documents: bronze.documents → silver.sizes, as a contributor would write a stage."""

import pyarrow as pa

from pipelines.flow.stage import Context, Counts, Stage, Work, moved
from pipelines.lakehouse.schemas.spec import LONG, STRING, table_spec

SOURCE, TARGET = "bronze.documents", "silver.sizes"
SPEC = table_spec("current", ("path", STRING), ("bytes", LONG), ("_run_id", STRING), key="path")


def look(context: Context) -> Work | None:
    """What arrived since."""
    context.lake.declare(TARGET, SPEC)
    return moved(STAGE, context)


def work(context: Context, due: Work) -> Counts:
    """Counts: documents insert, update, delete."""
    lake, last = context.lake, {}
    arrivals = lake.read_arrow(SOURCE, columns=["path", "op", "size", "_ingested_at"])
    for row in arrivals.sort_by("_ingested_at").to_pylist():
        last[row["path"]] = row["size"] if row["op"] == "upsert" else None
    held = {row["path"]: row["bytes"] for row in lake.read_arrow(TARGET).to_pylist()}
    new = {path: size for path, size in last.items() if size is not None and size != held.get(path)}
    op = {path: "update" if path in held else "insert" for path in new}
    op |= {path: "delete" for path in held if last.get(path) is None}
    changes = [{"path": p, "bytes": last.get(p), "_run_id": context.run_id, "_op": of} for p, of in op.items()]
    lake.merge_arrow(TARGET, pa.Table.from_pylist(changes, schema=SPEC.schema.append(pa.field("_op", STRING))))
    return {kind: list(op.values()).count(kind) for kind in ("insert", "update", "delete")}


STAGE = Stage(
    "measure-documents",
    "bronze.documents → silver.sizes.",
    look,
    work,
    sources=(SOURCE,),
    targets=(TARGET,),
)
