"""maintain: combines small files of the tables, and removes files of older versions that nothing needs.

Every run adds files and versions. When ops.stage_runs has more than `maintenance.files` files, this is done for all
tables. No row changes, and readers of changes skip these commits. A version is kept as long as something needs it: a
stage or an index that is behind its table, or a training set that was cut from it.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import timedelta

from pipelines.features.feature_tables import declare, feature_table
from pipelines.flow.stage import Context, Counts, Stage, Versions, Work
from pipelines.flow.states import STAGE_RUNS, STAGE_STATE
from pipelines.lakehouse.schemas import Role
from pipelines.lakehouse.table_log import unread_from
from pipelines.lakehouse.tables import Head, Lakehouse
from pipelines.vector_index.state import all_states

log = logging.getLogger(__name__)
# All roles except "own": tables of the user are not changed.
_ROLES: tuple[Role, ...] = ("arrivals", "current", "history", "quarantine", "log", "state")
# A reader that has not run for this long is not considered: Delta's default has removed the log entries that it needs,
# so it must compare everything anyway.
_GIVEN_UP = timedelta(days=30)
SERVED = "gold.chunk_index"


@dataclass
class Needs:
    """Which readers need older versions of a table.

    Attributes:
        readers: reader of its changes → the version up to which it has read, and that version's commit, if noted.
        versions: reader of the table at an old version (a training set, an index) → that version.
        everything: readers of all its changes, from the first version on.
    """

    readers: dict[str, tuple[int, str | None]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    everything: list[str] = field(default_factory=list)

    def waiting(self, lake: Lakehouse, table: str, head: Head) -> list[str]:
        """The readers for which all versions are kept: those with unread changes, and those of `everything`."""
        unread = {
            reader: unread_from(lake, table, version=version, commit=commit, until=head.version)
            for reader, (version, commit) in self.readers.items()
        }
        # A reader that must read everything (None), as after the table was put back, needs no old version.
        behind = [reader for reader, since in unread.items() if since is not None and since < head.version]
        return [*behind, *self.everything]

    def older(self, head: Head) -> dict[str, int]:
        """Reader → the version older than `head` that it needs, although it may have no unread changes."""
        read = {reader: version for reader, (version, _) in self.readers.items()}
        return {who: version for who, version in {**read, **self.versions}.items() if version < head.version}


def look(context: Context) -> Work | None:
    """Due if ops.stage_runs, to which each working stage adds a file, has too many files, or if `maintain_now`."""
    most, head = context.settings.maintenance.files, context.lake.head(STAGE_RUNS)
    if head is None:
        return None
    if context.maintain_now or (most and context.lake.file_count(STAGE_RUNS) > most):
        return Work((Versions(None, head.version, head.table_id),))
    return None


def work(context: Context, due: Work) -> Counts:
    """Maintain all tables. Counts: tables, compacted (files combined), removed (files of older versions), kept, left.

    `kept` counts tables with old versions that something needs, `left` tables that failed; the log says why.
    """
    for name in context.settings.features:
        declare(context.lake, feature_table(name))
    heads = {table: context.lake.head(table) for table in context.lake.tables(*_ROLES)}
    counts = {"tables": 0, "compacted": 0, "removed": 0, "kept": 0, "left": 0}
    needs = _needs(context)
    with context.progress.step("maintain", total=len(heads)) as step:
        for table, head in heads.items():
            step.advance()
            if head is None:
                continue
            counts["tables"] += 1
            try:
                compacted, removed, is_kept = _put_in_order(context, table, head, needs[table])
            except Exception as error:  # an engine may raise anything; the other tables are maintained all the same
                log.warning("maintain: %s stays as it is: %s", table, error)
                counts["left"] += 1
                continue
            counts["compacted"] += compacted
            counts["removed"] += removed
            counts["kept"] += is_kept
    return counts


def _put_in_order(context: Context, table: str, head: Head, needs: Needs) -> tuple[int, int, bool]:
    """Maintain one table. Returns files combined, files removed, and whether old versions are kept for a reader."""
    lake = context.lake
    waiting, older = needs.waiting(lake, table, head), needs.older(head)
    # The current version is kept too: after the next commit it is the version that the readers have read.
    keep = {*older.values(), head.version} if needs.readers or needs.versions else set[int]()
    compacted = lake.compact(table)
    if waiting:
        log.info("maintain: all versions of %s are kept for %s", table, ", ".join(waiting))
        return compacted, 0, True
    if older:
        log.info("maintain: versions of %s are kept for %s", table, ", ".join(older))
    days = context.settings.maintenance.keep_days
    return compacted, lake.vacuum(table, days=days, keep=sorted(keep)), bool(older)


def _needs(context: Context) -> dict[str, Needs]:
    lake, needs, since = context.lake, defaultdict[str, Needs](Needs), context.now() - _GIVEN_UP
    for state in lake.read_arrow(STAGE_STATE).to_pylist():
        reader = " of ".join(filter(None, (state["stage"], state["subject"])))
        for mark in state["sources"] or ():
            if mark["version"] is not None and state["started_at"] > since:
                needs[mark["table"]].readers[reader] = mark["version"], mark["commit"]
    for index in all_states(lake):
        if index.version is None:
            continue
        needs[SERVED].versions[f"the index {index.index_name}"] = index.version
        if index.role != "previous" and index.updated_at is not None and index.updated_at > since:
            needs[SERVED].readers[f"the index {index.index_name}"] = index.version, None
    for row in lake.read_arrow("ops.training_sets").to_pylist():
        for table, version in row["versions"] or ():
            needs[table].versions[f"the training set {row['name']} {row['training_set_id'][:8]}"] = version
    if lake.head("inference.inference_log") is not None:
        needs["silver.chunks"].everything.append("monitor, which scores what was retrieved and is gone since")
    return needs


STAGE = Stage(
    "maintain",
    "Every table → itself in fewer files, without versions that nobody needs.",
    look,
    work,
    sources=(STAGE_RUNS,),
    records="it changes no row: lakeloop maintain puts the tables in order",
)
