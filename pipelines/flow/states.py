"""How far each stage has come: ops.stage_state, one row for each instance of each stage, read once per run.

ops.stage_runs is only the log of what ran. It does not decide what is due, so that an idle run takes as long after
many runs as after one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from pipelines.lakehouse.statements import is_conflict
from pipelines.lakehouse.table_log import commit_id, is_same_history
from pipelines.lakehouse.tables import Lakehouse
from transformations.errors import RefusedError

STAGE_RUNS, STAGE_STATE = "ops.stage_runs", "ops.stage_state"
_TRIES = 20


@dataclass(frozen=True)
class TableMark:
    """What a table was at a moment: its version, and the id of that version's commit (see `table_log.commit_id`)."""

    table: str
    table_id: str | None
    version: int | None
    commit: str | None


@dataclass(frozen=True)
class State:
    """What the last run of a stage for one subject had read, and what it left in its targets.

    Attributes:
        definition: what decided its output besides its sources (`Stage.definition`).
        sources: how far each source was read.
        targets: what each target was when the run ended.
        position: how far it has read what is no table of the lakehouse, in a form of its own (`Stage.position`).
    """

    stage: str
    subject: str
    definition: str
    sources: tuple[TableMark, ...]
    targets: tuple[TableMark, ...]
    position: str | None
    run_id: str
    started_at: datetime
    counts: Mapping[str, int]


class StageStates:
    """All rows of ops.stage_state, read when the first one is asked for."""

    def __init__(self, lake: Lakehouse) -> None:
        self._lake = lake
        self._rows: dict[tuple[str, str], State] | None = None

    def get(self, stage: str, subject: str = "") -> State | None:
        """The state of one instance of a stage; None before its first run."""
        return self._all().get((stage, subject))

    def of_stage(self, stage: str) -> list[State]:
        """The states of all instances of a stage, ordered by the start of their last run."""
        found = [state for state in self._all().values() if state.stage == stage]
        return sorted(found, key=lambda state: state.started_at)

    def put(self, state: State) -> None:
        """Write one state; it replaces the earlier one of the same stage and subject.

        Raises:
            RefusedError: other processes changed the table in each of 20 attempts; so for `forget`.
        """
        row = {**asdict(state), "counts": list(state.counts.items()), "_op": "update"}
        schema = self._lake.spec(STAGE_STATE).schema.append(pa.field("_op", pa.string()))
        self._write(lambda: self._lake.merge_arrow(STAGE_STATE, pa.Table.from_pylist([row], schema=schema)))
        if self._rows is not None:
            self._rows[(state.stage, state.subject)] = state

    def forget(self, stage: str, subjects: Collection[str]) -> None:
        """Delete the states of a stage for these subjects: its next run reads everything."""
        self._write(lambda: self._lake.delete(STAGE_STATE, {"stage": [stage], "subject": [*subjects]}))
        self._rows = None

    @staticmethod
    def _write(change: Callable[[], object]) -> None:
        # Tasks of one job may run side by side on a cluster; each writes rows of its own.
        for _ in range(_TRIES):
            try:
                change()
                return
            except Exception as error:
                if not is_conflict(error):
                    raise
        raise RefusedError(f"{STAGE_STATE} is being changed by others all the time. Run again: nothing is lost.")

    def reload(self) -> None:
        """Let the next call read the table again: another process may have written it."""
        self._rows = None
        self._lake.refresh()

    def _all(self) -> dict[tuple[str, str], State]:
        if self._rows is None:
            rows = [_state(row) for row in self._lake.read_arrow(STAGE_STATE).to_pylist()]
            self._rows = {(state.stage, state.subject): state for state in rows}
            for mark in (mark for state in rows for mark in (*state.sources, *state.targets)):
                if mark.table_id and mark.version is not None and mark.commit and self._lake.is_declared(mark.table):
                    self._lake.recall(mark.table, table_id=mark.table_id, version=mark.version, commit=mark.commit)
        return self._rows


def mark_now(lake: Lakehouse, table: str) -> TableMark | None:
    """The mark of a table as it is now; None if it does not exist."""
    head = lake.head(table)
    return None if head is None else TableMark(table, head.table_id, head.version, commit_id(lake, table, head.version))


def are_as_they_were(lake: Lakehouse, marks: Iterable[TableMark]) -> bool:
    """Whether each table still has the commit of its mark, and only ordinary commits after it."""
    for mark in marks:
        head = lake.head(mark.table)
        if head is None or mark.version is None or head.table_id != mark.table_id:
            return False
        if not is_same_history(lake, mark.table, version=mark.version, commit=mark.commit, until=head.version):
            return False
    return True


def _state(row: dict[str, Any]) -> State:
    marks = {name: tuple(TableMark(**mark) for mark in row[name] or ()) for name in ("sources", "targets")}
    return State(**{**row, **marks, "counts": dict(row["counts"] or ())})
