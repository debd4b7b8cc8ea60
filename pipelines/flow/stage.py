"""The contract of a stage: what its module declares, what a look finds to do, and the context that it works in.

A stage reads the versions (since, until] of its sources and makes its targets equal to what a build from scratch would
give. How far it came is a row of ops.stage_state, written last: a crash before it replays the same versions, which
changes nothing that was already written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.flow.states import StageStates, State, TableMark
from pipelines.lakehouse.session import parallelism
from pipelines.lakehouse.table_log import is_same_history, unread_from
from pipelines.lakehouse.tables import Head, Lakehouse
from pipelines.progress import Progress
from pipelines.settings.sections import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Counts = Mapping[str, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Subject:
    """What one of several instances of a stage is for: a record source, an embedding model, a feature table.

    Attributes:
        kind: the word for it in what commands print, as in "source".
        name: stands for `*` in the tables that the stage declares.
        of: the thing itself.
        key: what the state of the stage is kept by; two subjects of one stage never share it.
        reads: the table that it is computed from, where its own definition says so; stands for `?` in the sources.
    """

    kind: str
    name: str
    of: Any = field(repr=False)
    key: str = ""
    reads: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.key or self.name)


@dataclass
class Context:
    """One run: the settings, the tables, an id that every written row carries, and where progress is shown.

    Attributes:
        force: do what a limit would refuse.
        retry: try dead letters now, before their next time has come.
        take_over: the workspace whose index is to become this one's.
        anew: this is a rebuild, which may replace a table.
        subject: what the stage at hand runs for; None for a stage of one instance.
        clock: gives the time now, with its zone.
        persisted: frames that the stage at hand computes once; they are let go when it ends.
        states: how far each stage has come, read once a run.
    """

    settings: Settings
    lake: Lakehouse
    run_id: str
    progress: Progress = field(default_factory=Progress)
    force: bool = False
    retry: bool = False
    take_over: str | None = None
    anew: bool = False
    subject: Subject | None = None
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(timezone.utc))
    persisted: list[DataFrame] = field(default_factory=list)
    states: StageStates = field(init=False)

    def __post_init__(self) -> None:
        self.states = StageStates(self.lake)

    @property
    def parallelism(self) -> int:
        """How many Python workers a step may use at once."""
        return parallelism(self.lake.spark)

    def for_subject(self, subject: Subject | None) -> Context:
        """The same run, for one subject of a stage."""
        if subject == self.subject:
            return self
        each = replace(self, subject=subject)
        each.states = self.states
        return each

    def about(self, kind: type[T]) -> T:
        """What the stage at hand runs for.

        Raises:
            TypeError: it runs for something else; a stage was called without its subject.
        """
        found = self.subject.of if self.subject else None
        if not isinstance(found, kind):
            raise TypeError(f"this run is for {found!r}, not for a {kind.__name__}")
        return found

    def now(self) -> datetime:
        return self.clock()


@dataclass(frozen=True)
class Versions:
    """Versions (since, until] of a table; `since` None: everything, to be compared with all that the target has."""

    since: int | None
    until: int
    table_id: str


@dataclass(frozen=True)
class Work:
    """What a look found to do.

    Attributes:
        versions: those of each source, in the order of the stage's `sources`.
        found: what the look hands on, so that the work neither lists nor reads it again.
    """

    versions: tuple[Versions, ...] = ()
    found: Any = None

    @property
    def first(self) -> Versions:
        """The versions of the source that drives the stage."""
        return self.versions[0]


@dataclass(frozen=True)
class Stage:
    """One edge of the data flow, as its module declares it.

    Attributes:
        command: its name on the command line; the module and the task key are the same words.
        help: one line for the command line and the docs.
        look: what there is to do for the context's subject, or None; needs no JVM where tables are folders.
        work: does it, and returns counts of what it did.
        sources: the tables whose versions drive it, the most telling one first; none where its source is no table.
        targets: the tables that it writes; the first is the one that it keeps equal.
        code_version: raise it when the same input gives other output: everything is then computed and compared again.
        decided_by: what else decides its output; where that says something else, everything is computed again.
        subjects: its instances, where there may be several.
        check: what must hold before any stage of a run begins; raises what is wrong.
        records: why its targets cannot be computed again, where they record what happened.
        names: further names by which `rebuild` knows it.
    """

    command: str
    help: str
    look: Callable[[Context], Work | None]
    work: Callable[[Context, Work], Counts]
    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    code_version: int = 1
    decided_by: Callable[[Context], str] = lambda context: ""
    subjects: Callable[[Context], Sequence[Subject]] | None = None
    check: Callable[[Context], None] | None = None
    records: str = ""
    names: tuple[str, ...] = ()

    def contexts(self, context: Context) -> list[Context]:
        """The context of each instance of the stage."""
        if self.subjects is None:
            return [context.for_subject(None)]
        return [context.for_subject(subject) for subject in self.subjects(context)]

    def sources_of(self, context: Context) -> tuple[str, ...]:
        """The tables that the context's instance reads."""
        return tuple(_table(pattern, context.subject) for pattern in self.sources)

    def targets_of(self, context: Context) -> tuple[str, ...]:
        """The tables that the context's instance writes."""
        return tuple(_table(pattern, context.subject) for pattern in self.targets)

    def definition(self, context: Context) -> str:
        """What decides the output beside the sources: the version of the code, and something of the settings."""
        return f"{self.code_version} {self.decided_by(context)}".rstrip()

    def state(self, context: Context) -> State | None:
        """How far the context's instance came; None before its first run."""
        return context.states.get(self.command, context.subject.key if context.subject else "")


def _table(pattern: str, subject: Subject | None) -> str:
    return pattern if subject is None else pattern.replace("*", subject.name).replace("?", subject.reads)


def moved(stage: Stage, context: Context) -> Work | None:
    """What the stage has not read of its sources, or None where it is up to date. Needs no JVM for folders.

    Everything is to be read where the stage is defined otherwise now, or where a source or target was put back, from a
    copy or by RESTORE: the same versions are other commits then.
    """
    lake, sources, targets = context.lake, stage.sources_of(context), stage.targets_of(context)
    heads = [lake.head(table) for table in sources]
    if heads[0] is None:
        return None
    state = stage.state(context)
    if state is not None and state.definition != stage.definition(context):
        state = None
    if state is None or (targets and lake.head(targets[0]) is None) or not _are_as_they_were(lake, state.targets):
        return everything(stage, context)
    read = {mark.table: mark for mark in state.sources}
    versions = tuple(_lacking(lake, t, head, read.get(t)) for t, head in zip(sources, heads, strict=True))
    if any(each.since != each.until for each in versions):
        return Work(versions)
    # Nothing will be read, so that nobody would meet what is missing.
    damage = lake.damage([sources[0], *targets[:1]], deeply=False)
    if damage is not None:
        raise damage
    return None


def everything(stage: Stage, context: Context) -> Work:
    """All that the stage's sources have now, to be compared with all that its targets have."""
    heads = [context.lake.head(table) for table in stage.sources_of(context)]
    return Work(tuple(Versions(None, head.version, head.table_id) if head else _NOT_THERE for head in heads))


def nothing_new(stage: Stage, context: Context) -> Work:
    """No version of any source: work for what failed before, and may succeed by now."""
    heads = [context.lake.ensure(table) for table in stage.sources_of(context)]
    return Work(tuple(Versions(head.version, head.version, head.table_id) for head in heads))


# A second source that nobody has made yet; making it empty changes nothing.
_NOT_THERE = Versions(None, 0, "")


def _lacking(lake: Lakehouse, table: str, head: Head | None, read: TableMark | None) -> Versions:
    if head is None:
        return replace(_NOT_THERE, since=0)
    now = Versions(None, head.version, head.table_id)
    if read is None or read.version is None or read.table_id != head.table_id:
        return now
    since = unread_from(lake, table, version=read.version, commit=read.commit, until=head.version)
    return replace(now, since=since)


def _are_as_they_were(lake: Lakehouse, marks: Sequence[TableMark]) -> bool:
    """Whether these tables are what a run left, with nothing but further commits."""
    for mark in marks:
        head = lake.head(mark.table)
        if head is None or mark.version is None or head.table_id != mark.table_id:
            return False
        if not is_same_history(lake, mark.table, version=mark.version, commit=mark.commit, until=head.version):
            return False
    return True
