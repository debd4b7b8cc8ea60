"""One system, one corpus and one state in; each scenario's steps on a copy of the same base state, measured, out."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.sync import embedder
from benchmarks.sync.check import Exactness, compare, held_texts
from benchmarks.sync.corpus import Corpus
from benchmarks.sync.systems import Outcome, System
from benchmarks.sync.writes import Mark, count_versions, mark, writes_since

# Two looks at a file within that of each other can be one instant to a file system.
_COARSEST_CLOCK_SECONDS = 2.1


@dataclass(frozen=True)
class Row:
    """What one scenario cost one system, and what the index then was.

    Attributes:
        embedded: texts, over all processes of the scenario.
        upserted, deleted, commits: of the sink, over the same.
        exit: the exit codes of the processes, "killed" for one that was.
        seconds: the work of the last process; start_seconds: its start, apart.
        note: what the numbers do not say.
    """

    system: str
    scenario: str
    chunks: int
    embedded: int
    upserted: int
    deleted: int
    commits: int
    exactness: Exactness
    exit: str
    start_seconds: float | None
    seconds: float | None
    wall_seconds: float
    note: str = ""
    error: str = ""
    round: int = 0


@dataclass
class Trial:
    """The place in which one system goes through the scenarios."""

    system: System
    root: Path
    chunks: int
    outcomes: list[Outcome] = field(default_factory=list)
    base_versions: int = 0

    def __post_init__(self) -> None:
        self.root = self.root / self.system.name
        self.corpus = Corpus(self.root / "folder", chunks=self.chunks)
        self.state, self._base, self.counter = self.root / "state", self.root / "base", self.root / "counter"
        self._mark: Mark = mark(Path())

    def prepare(self) -> None:
        """The corpus, and the state after a first sync, which is every step's base.

        Raises:
            RuntimeError: that sync failed, or its index is not exact: no scenario would mean anything.
        """
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        self.corpus.create()
        time.sleep(_COARSEST_CLOCK_SECONDS)
        self.reset(is_empty=True)
        outcome = self.sync()
        found = self.check()
        if outcome.exit != 0 or not found.is_exact:
            raise RuntimeError(
                f"{self.system.name}: the first sync ended with {outcome.exit}, the index: {found}.\n{outcome.error}"
            )
        self.base_versions = count_versions(self.system.table)
        _copy(self.state, self._base)

    def reset(self, *, is_empty: bool = False) -> None:
        """Corpus, state and counts as before any step (`is_empty`: before the first sync)."""
        self.corpus.restore()
        shutil.rmtree(self.state, ignore_errors=True)
        if is_empty:
            self.state.mkdir()
            self.system.prepare(self.corpus.folder, self.state)
        else:
            _copy(self._base, self.state)
        self.begin()

    def begin(self) -> None:
        """Count from here on."""
        self.counter.unlink(missing_ok=True)
        self.outcomes.clear()
        self._mark = mark(self.system.table)

    def sync(
        self,
        stub: Mapping[str, str] | None = None,
        *,
        is_new_model: bool = False,
        kill_when: Callable[[], bool] | None = None,
    ) -> Outcome:
        """One sync, with the variables of `stub` for the embedder."""
        outcome = self.system.sync(self.variables(stub), is_new_model=is_new_model, kill_when=kill_when)
        self.outcomes.append(outcome)
        return outcome

    def variables(self, stub: Mapping[str, str] | None = None) -> dict[str, str]:
        return {embedder.COUNTER: str(self.counter), **(stub or {})}

    def embedded(self, *, event: str = "end") -> int:
        return embedder.embedded(self.counter, event=event)

    def check(
        self,
        chunks: Iterable[str] | None = None,
        *,
        optional: Iterable[str] = (),
        model: str = embedder.DEFAULT_MODEL,
    ) -> Exactness:
        """The index as its readers see it, against the folder (or `chunks`)."""
        wanted = self.corpus.texts() if chunks is None else chunks
        return compare(
            self.system.table,
            wanted,
            columns=self.system.columns,
            version=self.system.tag,
            optional=optional,
            model=model,
        )

    def searchable(self) -> set[str]:
        """The texts that a reader can find."""
        return held_texts(self.system.table, columns=self.system.columns, version=self.system.tag)

    @property
    def mark(self) -> Mark:
        return self._mark

    def row(self, scenario: str, exactness: Exactness | None = None, *, note: str = "") -> Row:
        """What happened since `reset` or `begin`."""
        writes = writes_since(self.system.table, self._mark)
        last = self.outcomes[-1]
        return Row(
            system=self.system.name,
            scenario=scenario,
            chunks=self.chunks,
            embedded=self.embedded(),
            upserted=writes.upserted,
            deleted=writes.deleted,
            commits=writes.commits,
            exactness=exactness or self.check(),
            exit=" then ".join("killed" if o.exit is None else str(o.exit) for o in self.outcomes),
            start_seconds=last.start_seconds,
            seconds=last.seconds,
            wall_seconds=last.wall_seconds,
            note=note,
            error=" | ".join(o.error for o in self.outcomes if o.error)[-2000:],
        )


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", "--reflink=auto", source, target], check=True)
