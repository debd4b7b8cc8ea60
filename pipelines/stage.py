"""What every stage shares: the context it runs in, and how far its source had been read when it last succeeded.

A stage reads the versions (since, until] of its source table and makes its target equal to what a build from scratch
would give. How far it came is a row of ops.stage_runs, written last: a crash before it replays the same versions,
which changes nothing that was already written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from pipelines.delta_folder import FEW_BYTES
from pipelines.lakehouse import FEW_ROWS, Lakehouse
from pipelines.progress import Progress
from pipelines.settings import Settings
from pipelines.table_log import commit_id, is_same_history
from transformations.changes import fold_changes
from transformations.errors import LakeloopError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

log = logging.getLogger(__name__)
STAGE_RUNS = "ops.stage_runs"
Counts = Mapping[str, int]


@dataclass
class Context:
    """One run: the settings, the tables, an id that every written row carries, and where progress is shown.

    `force` lets pass what a limit refuses; `retry` tries dead letters now, whenever their next time was to be;
    `take_over` is a workspace whose index is to become this one's; `anew` is a rebuild, which may replace a table;
    `persisted` are frames that the stage at hand computes once and that go with it.
    """

    settings: Settings
    lake: Lakehouse
    run_id: str
    progress: Progress = field(default_factory=Progress)
    force: bool = False
    retry: bool = False
    take_over: str | None = None
    anew: bool = False
    persisted: list[DataFrame] = field(default_factory=list)

    @property
    def parallelism(self) -> int:
        """Python workers that a step may use at once."""
        return parallelism(self.lake.spark)

    def of_model(self, name: str) -> Context:
        """The same run for another embedding model."""
        embedding = self.settings.embedding.model_copy(update={"model": name})
        return replace(self, settings=self.settings.model_copy(update={"embedding": embedding}))

    def of_source(self, name: str) -> Context:
        """The same run with one source of records alone."""
        records = {name: self.settings.records[name]}
        return replace(self, settings=self.settings.model_copy(update={"records": records}))

    def without(self, names: Collection[str | None]) -> Context:
        """The same run without some sources of records."""
        records = {name: of for name, of in self.settings.records.items() if name not in names}
        return replace(self, settings=self.settings.model_copy(update={"records": records}))

    @staticmethod
    def now() -> datetime:
        return datetime.now(timezone.utc)


@dataclass(frozen=True)
class Stage:
    """One edge of the data flow.

    Attributes:
        command: its name on the command line; the module and the task key are the same words.
        source: the table whose versions drive it; "" for what is no table.
        target: the table that it keeps equal; "" for what is no table.
        module: where its `run(context, window)` is, and its own `due(context)` where the rule below is not its own.
        also: further tables that it writes, from the same source.
        definition: what else decides its output (settings, the version of the code); another one: everything anew.
        is_per_model: it runs once for each embedding model that an index needs.
        is_per_source: it runs once for each source of records, whose name stands for `*` in source and target.
    """

    command: str
    source: str
    target: str
    module: str
    definition: Callable[[Settings], str] = lambda settings: "1"
    is_per_model: bool = False
    is_per_source: bool = False
    also: tuple[str, ...] = ()

    def of_source(self, name: str) -> Stage:
        """The stage for one source of records."""
        also = tuple(table.replace("*", name) for table in self.also)
        return replace(self, source=self.source.replace("*", name), target=self.target.replace("*", name), also=also)


@dataclass(frozen=True)
class Window:
    """Versions (since, until] of the source; `since` None: everything, compared with all that the target has."""

    since: int | None
    until: int
    source_id: str


def due(stage: Stage, context: Context) -> Window | None:
    """What of the stage's source has not been read, or None where it is up to date. Needs no JVM for folders.

    Everything is due where source or target were put back, from a copy or by RESTORE, to what they were at some time:
    the same versions are other commits then.
    """
    lake = context.lake
    source = lake.head(stage.source)
    if source is None:
        return None
    target = lake.head(stage.target)
    last = None if target is None else last_run(stage, context, source_id=source.table_id, target_id=target.table_id)
    since = None if last is None else last["to_version"]
    if last is None or since is None or not _is_as_it_was(stage, lake, last, until=source.version):
        return Window(None, source.version, source.table_id)
    if since < source.version:
        return Window(since, source.version, source.table_id)
    # Nothing will be read, so that nobody would meet what is missing.
    found = lake.damage([stage.source, *([stage.target] if stage.target else [])], deeply=False)
    if found is not None:
        raise found
    return None


def last_run(stage: Stage, context: Context, *, source_id: str, target_id: str) -> dict[str, Any] | None:
    """The record of the stage's last run for its target; None where it was of another source or definition.

    The last one alone tells: what an earlier run brought about may have been undone by it.
    """
    columns = ["stage", "definition", "source_id", "target_id", "to_version", "source_commit", "targets", "started_at"]
    runs = context.lake.read_arrow(STAGE_RUNS, columns=columns)
    runs = runs.filter(pc.and_(pc.equal(runs["stage"], stage.command), pc.equal(runs["target_id"], target_id)))
    definition = stage.definition(context.settings)
    if stage.is_per_model:  # each model has a row of its own, told by its definition
        runs = runs.filter(pc.equal(runs["definition"], definition))
    rows: list[dict[str, Any]] = runs.sort_by("started_at").slice(max(runs.num_rows - 1, 0)).to_pylist()
    if not rows or (rows[0]["definition"], rows[0]["source_id"]) != (definition, source_id):
        return None
    return rows[0]


def read_until(stage: Stage, context: Context, *, source_id: str, target_id: str) -> int | None:
    """The version of its source up to which the stage, as it is defined now, has brought its target; None: none."""
    last = last_run(stage, context, source_id=source_id, target_id=target_id)
    version: int | None = None if last is None else last["to_version"]
    return version


def _is_as_it_was(stage: Stage, lake: Lakehouse, last: Mapping[str, Any], *, until: int) -> bool:
    """Whether source and targets are still those that a run left, with nothing but further commits."""
    since = last["to_version"]
    if not is_same_history(lake, stage.source, version=since, commit=last["source_commit"], until=until):
        return False
    for table, mark in last["targets"] or ():
        version, _, commit = mark.partition(" ")
        head = lake.head(table)
        if head is None or not is_same_history(
            lake, table, version=int(version), commit=commit or None, until=head.version
        ):
            return False
    return True


def run_stage(
    stage: Stage, context: Context, *, window: Window, work: Callable[[Context, Window], Counts]
) -> tuple[Counts, float]:
    """Do `work` over `window`, then record that the stage came so far. Returns its counts and seconds.

    Raises:
        DamagedTableError: it failed, and files of a table of its own, or of one that it read, are missing or broken.
    """
    try:
        return _run_stage(stage, context, window=window, work=work)
    except LakeloopError:
        raise
    except Exception as error:
        own = [table for table in (stage.source, stage.target, *stage.also) if table]
        found = context.lake.damage(own, named_in=str(error))
        if found is None:
            raise
        raise found from error


def _run_stage(
    stage: Stage, context: Context, *, window: Window, work: Callable[[Context, Window], Counts]
) -> tuple[Counts, float]:
    started_at, start = context.now(), time.monotonic()
    try:
        counts = _work(context, window, work)
    except Exception as error:
        if window.since is None or not is_lost_history(error):
            raise
        log.warning(
            "%s: the history of %s after version %s is gone; comparing everything",
            stage.command,
            stage.source,
            window.since,
        )
        window = Window(None, window.until, window.source_id)
        counts = _work(context, window, work)
    seconds = time.monotonic() - start
    if stage.source != STAGE_RUNS:  # recording what reads the records would make it due for ever
        record(stage, context, window, counts=counts, started_at=started_at, seconds=seconds)
    return counts, seconds


def record(
    stage: Stage, context: Context, window: Window, *, counts: Counts, started_at: datetime, seconds: float
) -> None:
    """One row of ops.stage_runs: how far the stage came, and what its targets are now."""
    lake = context.lake
    target = lake.ensure(stage.target) if stage.target else None
    heads = {table: lake.head(table) for table in (stage.target, *stage.also) if table}
    row = {
        "run_id": context.run_id,
        "stage": stage.command,
        "definition": stage.definition(context.settings),
        "source_id": window.source_id,
        "target_id": target.table_id if target else None,
        "from_version": window.since,
        "to_version": window.until,
        "source_commit": commit_id(lake, stage.source, window.until) if stage.source else None,
        "targets": [
            (table, f"{head.version} {commit_id(lake, table, head.version) or ''}")
            for table, head in heads.items()
            if head is not None
        ],
        "counts": list(counts.items()),
        "started_at": _after_the_last(lake, started_at),
        "seconds": seconds,
    }
    lake.append_arrow(STAGE_RUNS, [row])


def forget_runs(context: Context, command: str, *, definitions_like: str) -> None:
    """Record that nothing is left of what a stage did by the definitions with this end: it begins anew."""
    columns = ["stage", "definition", "source_id", "target_id"]
    runs = context.lake.read_arrow(STAGE_RUNS, columns=columns, where={"stage": command}).to_pylist()
    found = {tuple(run.values()): run for run in runs if run["definition"].endswith(definitions_like)}
    technical = {
        "run_id": context.run_id,
        "started_at": _after_the_last(context.lake, context.now()),
        "counts": [],
        "seconds": 0.0,
    }
    context.lake.append_arrow(STAGE_RUNS, [run | technical for run in found.values()])


def _after_the_last(lake: Lakehouse, now: datetime) -> datetime:
    """The last record is told by its instant, so that never goes back, whatever the clock does."""
    last = pc.max(lake.read_arrow(STAGE_RUNS, columns=["started_at"])["started_at"]).as_py()
    return max(now, last + timedelta(microseconds=1)) if last else now


def _work(context: Context, window: Window, work: Callable[[Context, Window], Counts]) -> Counts:
    try:
        return work(context, window)
    finally:
        while context.persisted:
            context.persisted.pop().unpersist()


# What Delta says where VACUUM, log retention or a re-created table took the versions away that a window names.
_LOST_HISTORY = (
    "DELTA_CHANGE_DATA_FILE_NOT_FOUND",
    "DELTA_FILE_NOT_FOUND",
    "DELTA_VERSION_NOT_FOUND",
    "DELTA_MISSING_CHANGE_DATA",
    "DELTA_TRUNCATED_TRANSACTION_LOG",
    "DELTA_LOG_FILE_NOT_FOUND",
    "DELTA_CHANGE_DATA_FEED_INCOMPATIBLE_SCHEMA_CHANGE",
    "VersionNotFoundException",
    "FAILED_READ_FILE.FILE_NOT_EXIST",
)


def is_lost_history(error: Exception) -> bool:
    """Whether Delta says that versions which were to be read are gone."""
    text = str(error)
    return any(sign in text for sign in _LOST_HISTORY)


def apply_changes(context: Context, table: str, changes: DataFrame) -> dict[str, int]:
    """Merge net changes into `table`; no commit where there are none. Returns rows by operation."""
    from pyspark.sql import functions as F

    changes = changes.persist()
    try:
        counts = {"insert": 0, "update": 0, "delete": 0}
        found = changes.groupBy("_op").agg(F.count("*").alias("rows"), _text_bytes(changes).alias("bytes")).collect()
        counts.update({row["_op"]: row["rows"] for row in found})
        if any(counts.values()):
            is_small = sum(row["bytes"] or 0 for row in found) <= FEW_BYTES
            context.lake.merge(table, changes, rows=sum(counts.values()) if is_small else None)
        return counts
    finally:
        changes.unpersist()


def changed(
    context: Context, table: str, *, window: Window, key: str, also: Sequence[str] = ()
) -> tuple[DataFrame, DataFrame]:
    """What a window of a keyed table says: the rows to apply, and the keys that are judged (the deleted ones, too).

    Args:
        also: keys whose rows are wanted although nothing says that they changed.
    """
    from pyspark.sql import functions as F

    if window.since is None:
        rows = context.lake.read(table, version=window.until)
        return rows, rows.select(key)
    if window.since < window.until:
        feed = context.lake.read_changes(table, after=window.since, until=window.until)
        folded = held_if_few(context, fold_changes(feed, key=key))
        rows, keys = folded.where("_op = 'upsert'").drop("_op"), folded.select(key)
        if not also:
            return rows, keys
        more = context.lake.read_keys(table, key, also).join(F.broadcast(keys), key, "left_anti")
        return rows.unionByName(more.select(*rows.columns)), keys.union(more.select(key))
    rows = context.lake.read_keys(table, key, also)
    return rows, rows.select(key)


def stamped(context: Context, rows: DataFrame, *, window: Window) -> DataFrame:
    """`rows` with the run that writes them, and the version of the source of which they say what they say."""
    from pyspark.sql import functions as F

    return rows.withColumns({"_run_id": F.lit(context.run_id), "_source_version": F.lit(window.until).cast("bigint")})


def held_if_few(context: Context, rows: DataFrame) -> DataFrame:
    """`rows` as a frame that holds them, where they are few: each later step then costs nothing but its own work."""
    from pyspark.sql import functions as F

    rows = rows.persist()
    first = rows.limit(FEW_ROWS + 1)
    # Few rows may still be more than this process should hold: only what has long texts is asked for their size.
    sized = first.agg(F.count("*"), _text_bytes(rows)).first() if "text" in rows.columns else None
    found = first.toArrow() if sized is None or (sized[0] <= FEW_ROWS and (sized[1] or 0) <= FEW_BYTES) else None
    if found is None or found.num_rows > FEW_ROWS:
        context.persisted.append(rows)
        return rows
    rows.unpersist()
    return context.lake.frame(found)


def _text_bytes(rows: DataFrame) -> Column:
    """The bytes of all texts of some rows: what they weigh, where they weigh much."""
    from pyspark.sql import functions as F
    from pyspark.sql import types as T

    texts = [f.name for f in rows.schema.fields if isinstance(f.dataType, T.StringType | T.BinaryType)]
    weights = [F.coalesce(F.octet_length(F.col(f"`{name}`")), F.lit(0)).cast("bigint") for name in texts]
    return F.sum(reduce(add, weights, F.lit(0).cast("bigint")))


def touched(context: Context, table: str, keys: DataFrame, *, window: Window, key: str) -> DataFrame:
    """The rows of `table` whose `key` is in `keys`; all rows where the window is everything."""
    from pyspark.sql import functions as F

    if window.since is None:
        return context.lake.read(table)
    return few_of(context, table, keys, key=key).join(F.broadcast(keys.select(key).distinct()), key, "left_semi")


def few_of(context: Context, table: str, keys: DataFrame, *, key: str) -> DataFrame:
    """The rows of `table` whose `key` is in `keys` where those are few, else all rows: a filter worth its cost."""
    values = [row[key] for row in keys.select(key).limit(FEW_ROWS + 1).collect()]
    return context.lake.read(table) if len(values) > FEW_ROWS else context.lake.read_keys(table, key, values)


def partitions(rows: DataFrame) -> DataFrame:
    """`rows` spread over as many partitions as may work at once: a small table is one file, so one partition."""
    return rows.repartition(parallelism(rows.sparkSession))


def parallelism(spark: SparkSession) -> int:
    """The number of partitions after a shuffle: 2 on a laptop, the cluster's elsewhere ("auto" counts as 200)."""
    setting = spark.conf.get("spark.sql.shuffle.partitions") or ""
    return int(setting) if setting.isdigit() else 200
