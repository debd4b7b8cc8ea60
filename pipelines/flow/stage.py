"""The contract of a stage: what its module declares, what a look finds to do, and the context that it works in.

A stage reads the versions (since, until] of its sources and makes its targets equal to what a build from scratch would
give. How far it came is a row of ops.stage_state, written last: a crash before it replays the same versions, which
changes nothing that was already written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, TypeVar

from pipelines.flow.states import StageStates, State, TableMark, are_as_they_were
from pipelines.lakehouse.held_frames import HeldFrames
from pipelines.lakehouse.session import parallelism
from pipelines.lakehouse.table_log import unread_from
from pipelines.lakehouse.tables import Head, Lakehouse
from pipelines.progress import Progress
from pipelines.settings.sections import Settings

Counts = Mapping[str, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Subject:
    """What one of several instances of a stage is for: a record source, an embedding model, a feature table.

    Attributes:
        kind: the word for it in what commands print, such as "source".
        name: replaces `*` in the tables that the stage declares.
        of: the source, model or feature table itself.
        key: identifies it in ops.stage_state; two subjects of one stage never share a key. Default: the name.
        reads: the table that it is computed from, if its own definition names one; replaces `?` in the sources.
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
        force: do it although a limit would refuse it.
        retry: try dead letters now, before their next attempt is due.
        take_over: the workspace whose index this workspace is to take over.
        anew: this is a rebuild, which may replace a table.
        maintain_now: maintain the tables although it is not due.
        subject: what the current stage runs for; None for a stage with one instance.
        is_stopping: whether the run was told to stop: a stage then ends after the batch that it is at.
        clock: returns the time now, with its zone.
        frames: frames that the current stage holds; they are released when it ends.
        states: how far each stage has come, read once per run.
    """

    settings: Settings
    lake: Lakehouse
    run_id: str
    progress: Progress = field(default_factory=Progress)
    force: bool = False
    retry: bool = False
    take_over: str | None = None
    anew: bool = False
    maintain_now: bool = False
    subject: Subject | None = None
    is_stopping: Callable[[], bool] = field(default=lambda: False)
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(timezone.utc))
    frames: HeldFrames = field(default_factory=HeldFrames)
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
        """The thing that the current stage runs for (`subject.of`), which must be a `kind`.

        Raises:
            TypeError: it is something else, or the stage was called without a subject.
        """
        found = self.subject.of if self.subject else None
        if not isinstance(found, kind):
            raise TypeError(f"this run is for {found!r}, not for a {kind.__name__}")
        return found

    def now(self) -> datetime:
        return self.clock()


@dataclass(frozen=True)
class Versions:
    """Versions (since, until] of a table; `since` None: all rows at `until`, to be compared with the whole target."""

    since: int | None
    until: int
    table_id: str


@dataclass(frozen=True)
class Work:
    """The work that `Stage.look` found.

    Attributes:
        versions: the versions to read of each source, in the order of the stage's `sources`.
        found: what the look passes on, so that the work does not list or read it again.
    """

    versions: tuple[Versions, ...] = ()
    found: Any = None

    @property
    def first(self) -> Versions:
        """The versions of the stage's first source, the one that drives it."""
        return self.versions[0]


@dataclass(frozen=True)
class Stage:
    """One edge of the data flow, as its module declares it.

    Attributes:
        command: its name on the command line; the module and the task key are the same words.
        help: one line for the command line and the docs.
        look: finds what is to be done for the context's subject, or None; needs no JVM if the tables are folders.
        work: does it, and returns counts of what it did.
        sources: the tables whose versions drive it, the main one first; empty if its source is not a table.
        targets: the tables that it writes; the first is the one that it keeps equal to a build from scratch.
        code_version: increase it if the same input now gives other output; everything is then computed and compared
            again.
        decided_by: a text of the settings that decide its output; if it changes, everything is computed again.
        subjects: lists its instances, if there may be several.
        position: how far it has read a source that is no table of the lakehouse, as a text for `State.position`.
        check: checks what must hold before any stage of a run begins, and raises an error if it does not.
        records: why its targets cannot be computed again, if they record what happened; else "".
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
    position: Callable[[Context], str | None] = lambda context: None
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
        """What decides the output besides the sources: the version of the code, and the settings of `decided_by`."""
        return f"{self.code_version} {self.decided_by(context)}".rstrip()

    def state(self, context: Context) -> State | None:
        """How far the context's instance has come; None before its first run."""
        return context.states.get(self.command, context.subject.key if context.subject else "")


def _table(pattern: str, subject: Subject | None) -> str:
    return pattern if subject is None else pattern.replace("*", subject.name).replace("?", subject.reads)


def moved(stage: Stage, context: Context) -> Work | None:
    """What the stage has not yet read of its sources, or None if it is up to date. Needs no JVM if tables are folders.

    Everything is read if the definition of the stage has changed, or its target is missing or was put back (from a
    copy, or by RESTORE). All of a source is read if that source was put back: its version numbers are then other
    commits.
    """
    lake, sources, targets = context.lake, stage.sources_of(context), stage.targets_of(context)
    state = stage.state(context)  # first: it knows the tables' identities, which a catalog is then not asked for
    lake.look_at([*sources, *targets])
    heads = [lake.head(table) for table in sources]
    if heads[0] is None:
        return None
    if state is not None and state.definition != stage.definition(context):
        state = None
    if state is None or (targets and lake.head(targets[0]) is None) or not are_as_they_were(lake, state.targets):
        return everything(stage, context)
    read = {mark.table: mark for mark in state.sources}
    versions = tuple(_lacking(lake, t, head, read.get(t)) for t, head in zip(sources, heads, strict=True))
    if any(each.since != each.until for each in versions):
        return Work(versions)
    # Nothing will be read, so nothing else would notice missing files.
    damage = lake.damage([*sources, *targets], deeply=False)
    if damage is not None:
        raise damage
    return None


def everything(stage: Stage, context: Context) -> Work:
    """All rows that the stage's sources have now, to be compared with all rows of its targets."""
    heads = [context.lake.head(table) for table in stage.sources_of(context)]
    return Work(tuple(Versions(None, head.version, head.table_id) if head else _NOT_THERE for head in heads))


def nothing_new(stage: Stage, context: Context) -> Work:
    """Work without a new version of any source: what failed before is tried again."""
    heads = [context.lake.ensure(table) for table in stage.sources_of(context)]
    return Work(tuple(Versions(head.version, head.version, head.table_id) for head in heads))


# The versions of a further source that does not exist yet. If it is created empty later, nothing changes.
_NOT_THERE = Versions(None, 0, "")


def _lacking(lake: Lakehouse, table: str, head: Head | None, read: TableMark | None) -> Versions:
    if head is None:
        return replace(_NOT_THERE, since=0)
    now = Versions(None, head.version, head.table_id)
    if read is None or read.version is None or read.table_id != head.table_id:
        return now
    since = unread_from(lake, table, version=read.version, commit=read.commit, until=head.version)
    return replace(now, since=since)
