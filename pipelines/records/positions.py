"""How far a source was read: a `Position`, which the commit of bronze carries that appended what was read.

So the records and the position are there together or not at all, and a crash between the two cannot be. A log forgets
its commits after some weeks, so ops.stage_state has a copy (`Stage.position`), with the commit of bronze that it is of:
what bronze has after that commit counts first. A bronze table that was put back from a copy says by itself how far it
has read. After a RESTORE or a repair of bronze it is not known what is left, and all is read anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipelines.flow.stage import Context, Stage
from pipelines.lakehouse.table_log import commit_id, commits, takes_back
from pipelines.lakehouse.tables import Head
from pipelines.records.source import RecordSource

_NOTE = "ingest-records"


@dataclass(frozen=True)
class Position:
    """How far a source was read.

    Attributes:
        definition: what decides how it is read (`Stage.definition`); with another one, all is read anew.
        reading: the version of bronze before the source was read from its beginning.
        batch: the number of the last batch since then, from 1.
        read: what of the source was read last: a `files.Arrival` or a `delta_tables.TableRead`, as a mapping.
    """

    definition: str
    reading: int
    batch: int
    read: Mapping[str, Any]

    @staticmethod
    def of(note: str | None) -> Position | None:
        """The position that a text of `note` holds; None if it is another text."""
        if note is None or _NOTE not in note:
            return None
        try:
            return Position(**json.loads(note)[_NOTE])
        except (ValueError, TypeError, KeyError):
            return None

    @property
    def note(self) -> str:
        return json.dumps({_NOTE: asdict(self)})

    def txn(self, source: RecordSource) -> tuple[str, int]:
        """The transaction of its batch: a process that was killed may still append it, and then not twice."""
        return f"{_NOTE}-{source.name}-{self.reading}", self.batch


def following(position: Position | None, read: Mapping[str, Any], *, definition: str, bronze: Head) -> Position:
    """The position of the next batch, which has read up to `read`.

    Args:
        position: that of the batch before it; None if it is the first one of a reading.
        bronze: what the bronze table is now.
    """
    if position is None:
        return Position(definition, bronze.version, 1, read)
    return replace(position, batch=position.batch + 1, read=read)


def position_of(context: Context, source: RecordSource, stage: Stage) -> Position | None:
    """How far bronze has read the source; None if all must be read: nothing was, or it is not known what is left."""
    lake, state = context.lake, stage.state(context)
    head = lake.head(source.bronze)
    if head is None:
        return None
    noted, known = -1, None
    for mark in state.targets if state else ():
        if mark.table == source.bronze and mark.table_id == head.table_id and mark.version is not None:
            is_there = mark.version <= head.version
            if is_there and commit_id(lake, source.bronze, mark.version) in (mark.commit, None):
                noted, known = mark.version, Position.of(state.position if state else None)
    for commit in reversed(commits(lake, source.bronze, after=noted, until=head.version)):
        if takes_back(commit):
            return None
        if (found := Position.of(commit.note)) is not None:
            known = found
            break
    return known if known is not None and known.definition == stage.definition(context) else None
