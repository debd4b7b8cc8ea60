"""How far a source was read: a `Position`, which the commit of bronze carries that appended what was read.

So the records and the position are there together or not at all, and a crash between the two cannot be. Of a bronze
table that was put back, from a copy or by RESTORE, the commits say how far it has read. A log forgets its commits after
some weeks, so ops.stage_state has a copy (`Stage.position`), with the commit of bronze that it is of. Where nobody
knows what bronze holds, because its rows were replaced by somebody else's or its log has forgotten it, all is read
anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any

from pipelines.flow.stage import Context, Stage
from pipelines.flow.states import State
from pipelines.lakehouse.table_log import commit_id, commits
from pipelines.lakehouse.tables import Head
from pipelines.records.source import REWRITTEN, RecordSource

_NOTE = "ingest-records"
_REMEMBERED_FOR = timedelta(days=7)  # a log forgets after 30 by default


@dataclass(frozen=True)
class Position:
    """How far a source was read.

    Attributes:
        definition: what decides how it is read (`Stage.definition`); with another one, all is read anew.
        reading: the version of bronze from which on batches are counted: at which it was decided to read the source
            from its beginning, or that put bronze back.
        batch: the number of the last batch since then; 0: none was appended yet.
        read: what of the source was read last: a `files.Arrival` or a `delta_tables.TableRead`, as a mapping; None:
            nothing.
        said_at: the version of bronze whose commit says so; each process finds the same.
    """

    definition: str
    reading: int
    batch: int
    read: Mapping[str, Any] | None
    said_at: int = field(compare=False)

    @staticmethod
    def of(note: str | None, *, said_at: int) -> Position | None:
        """The position that a text of `note` holds; None if it is another text."""
        if note is None or _NOTE not in note:
            return None
        try:
            return Position(**json.loads(note)[_NOTE], said_at=said_at)
        except (ValueError, TypeError, KeyError):
            return None

    @property
    def note(self) -> str:
        return json.dumps({_NOTE: {name: value for name, value in asdict(self).items() if name != "said_at"}})

    def txn(self, source: RecordSource) -> tuple[str, int]:
        """The transaction of its batch.

        A process that was killed may still append it, and the next one comes to the same transaction, since it decides
        by the same version of bronze: the later of the two appends nothing.
        """
        return f"{_NOTE}-{source.name}-{self.reading}", self.batch

    def following(self, read: Mapping[str, Any]) -> Position:
        """The position of the next batch, which reads up to `read`."""
        return replace(self, batch=self.batch + 1, read=read)

    def anew(self) -> Position:
        """The position before the source is read from its beginning."""
        return replace(self, reading=self.said_at, batch=0, read=None)


def position_of(context: Context, source: RecordSource, stage: Stage) -> Position:
    """How far bronze has read the source, by its newest commit that says so."""
    head, definition = context.lake.head(source.bronze), stage.definition(context)
    if head is None:
        return Position(definition, 0, 0, None, 0)
    found = _said(context, source, stage.state(context), head=head)
    return found if found.definition == definition else replace(found.anew(), definition=definition)


def is_forgettable(context: Context, source: RecordSource, stage: Stage) -> bool:
    """Whether ops.stage_state must note anew how far the source was read, before bronze's log forgets what came since.

    That is so of a source that has long been quiet while its bronze table was maintained.
    """
    state, head = stage.state(context), context.lake.head(source.bronze)
    if state is None or head is None or context.now() - state.started_at < _REMEMBERED_FOR:
        return False
    return any(m.table == source.bronze and m.version != head.version for m in state.targets)


def _said(context: Context, source: RecordSource, state: State | None, *, head: Head) -> Position:
    """What the newest commit says that says something; after a RESTORE, of those up to the restored version.

    If none does, nothing was read, with the version at which this was found; it is no later one if bronze goes on.
    """
    lake, version, restored_at = context.lake, head.version, None
    known = _of_state(context, source, state, table_id=head.table_id)
    log = commits(lake, source.bronze, until=version)
    while known is None or known.said_at != version:
        commit = next(log, None)
        if commit is None:
            return _nothing_read(restored_at or max(version, 0))
        if (found := Position.of(commit.note, said_at=commit.version)) is not None:
            known = found
            break
        if commit.restores is not None:
            version, restored_at = commit.restores, restored_at or commit.version
            log = commits(lake, source.bronze, until=version)
        elif commit.replaces and commit.note != REWRITTEN:
            return _nothing_read(restored_at or commit.version)
        else:
            version = commit.version - 1
    # Delta remembers the transactions of commits that were taken back, so their numbers must not be used again.
    return known if restored_at is None else replace(known, reading=restored_at, batch=0, said_at=restored_at)


def _nothing_read(version: int) -> Position:
    return Position("", version, 0, None, version)


def _of_state(context: Context, source: RecordSource, state: State | None, *, table_id: str) -> Position | None:
    """The copy in ops.stage_state, if bronze still has the commit that it is of."""
    mark = next((m for m in state.targets if m.table == source.bronze), None) if state else None
    if state is None or mark is None or mark.version is None or mark.table_id != table_id:
        return None
    is_same = commit_id(context.lake, source.bronze, mark.version) in (mark.commit, None)
    return Position.of(state.position, said_at=mark.version) if is_same else None
