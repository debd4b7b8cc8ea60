"""The Python interface to one workspace: the main commands of lakeloop as calls."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from pyspark.sql import DataFrame

    from pipelines.answering.ask import Answer, Answerer
    from pipelines.answering.search import Searcher
    from pipelines.features.training_set import Lookup, TrainingSet
    from pipelines.flow.outcome import Outcome
    from pipelines.flow.stage import Context
    from pipelines.lakehouse.tables import Lakehouse
    from pipelines.operations.trace import Trace
    from pipelines.quality.quarantine import SetAside
    from pipelines.settings.sections import Settings
    from pipelines.stores import Hit
    from transformations.tables.filters import Filter


def open(path: str | Path | None = None, *, overrides: Mapping[str, Any] | None = None) -> Workspace:
    """The workspace of a lakeloop.yml. Only the settings are read yet.

    Args:
        path: the file, or the folder that it lies in; None: the nearest one, as for the command.
        overrides: settings that go before those of the file, such as {"index.name": "docs"}.

    Raises:
        ConfigurationError: there is no such file, or it is not valid.
    """
    import yaml

    from pipelines.settings.load import load_settings

    file = None if path is None else Path(path).expanduser()
    if file is not None and file.is_dir():
        file = file / "lakeloop.yml"
    given = [f"{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in (overrides or {}).items()]
    return Workspace(load_settings(file, overrides=given))


def sample(folder: str | Path) -> Workspace:
    """A small workspace of made documents, records and questions in `folder`; made if it is not there, in a minute.

    Raises:
        ConfigurationError: the folder holds something else.
    """
    from pipelines.demo.sample import sample as made

    return Workspace(made(Path(folder).expanduser()))


class Workspace:
    """A workspace: its tables, its index and its models.

    The first call that needs models or the index opens them. They stay open for later calls, of any thread; `close`, or
    the end of the program, closes them.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._opening = threading.Lock()
        self._searcher: Searcher | None = None
        self._answerer: Answerer | None = None
        self._stack = ExitStack()
        self._closing = weakref.finalize(self, self._stack.close)

    def __repr__(self) -> str:
        return f"lakeloop.Workspace({str(self.settings.root)!r})"

    @cached_property
    def _lake(self) -> Lakehouse:
        return self._context().lake

    def _context(self, *, force: bool = False) -> Context:
        """A context of its own for each call that reads or writes as a command does."""
        from pipelines.conductor.run import new_context

        return new_context(self.settings, force=force)

    @property
    def tables(self) -> Tables:
        """The tables that exist, by name, as in `tables["silver.documents"]`; the user's own tables too."""
        return Tables(self._lake)

    def search(self, query: str, *, k: int = 5, where: str | Filter | None = None) -> list[Hit]:
        """The `k` chunks nearest to `query`, best first. Needs no Spark if tables are folders.

        Args:
            where: a filter that chunks must pass, such as "format = rst and not path = a.md".

        Raises:
            ConfigurationError: there is no index yet, or the query or the filter cannot be understood.
        """
        from transformations.tables.filters import parse_filter

        kept = parse_filter(where) if isinstance(where, str) else where
        return self._open_searcher().search(query, k=k, where=kept)

    def ask(self, question: str) -> Answer:
        """An answer with its sources; the call is logged and traced, like every call.

        Raises:
            ConfigurationError: there is no index yet, the question is empty or too long, or the log cannot be written.
            ModelCallError: the language model or the judge failed; the call is logged with the error.
            NotLoggedError: there is an answer, but it could not be logged; the error has the answer.
        """
        from pipelines.answering.ask import Answerer

        searcher = self._open_searcher()
        with self._opening:
            if self._answerer is None:
                answerer = Answerer(self.settings, lake=self._lake, searcher=searcher)
                self._answerer = self._stack.enter_context(answerer)
        return self._answerer.answer(question)

    def run(self, *stages: str, force: bool = False) -> Outcome:
        """Run the stages that are due, in the order of the data flow: all of them, or only those that are named.

        Args:
            stages: names of commands, such as "ingest-documents".
            force: do what a limit would refuse, such as a mass delete.

        Raises:
            RefusedError: another run is going on in this workspace, or a limit refuses what the run would do.
            LakeloopError: a stage failed. Stages that do not read its tables were run all the same.
        """
        from pipelines.conductor.run import run_stages
        from pipelines.conductor.stages import STAGES, stage_named

        named = {stage_named(command).command for command in stages}
        chosen = [stage for stage in STAGES if not named or stage.command in named]
        return run_stages(self._context(force=force), stages=chosen)

    def status(self) -> dict[str, Any]:
        """How far each stage and the index are, and what is set aside, as in `lakeloop status --json`."""
        from pipelines.operations.status import describe

        return describe(self.settings)[0]

    def quarantine(self) -> list[SetAside]:
        """All that was set aside, each with its reason and the next step, as in `lakeloop quarantine`."""
        from pipelines.quality.quarantine import quarantined

        return quarantined(self._context())

    def trace(self, name: str) -> Trace:
        """From a chunk_id, a document_id, a path, or a record's key back to its file and its runs; print it.

        Raises:
            ConfigurationError: nothing of that name is or was in this workspace.
        """
        from pipelines.operations.trace import trace

        return trace(self._context(), name)

    def evaluate(self, *, k: int = 10) -> pd.DataFrame:
        """How well the search finds the labelled sections: one row a question and each of 1 to `k`.

        The columns are those of `pipelines.operations.evaluate.Measures`. The whole index is read.

        Raises:
            ConfigurationError: there is no index yet, or no question has a label.
        """
        import pandas as pd

        from pipelines.operations.evaluate import evaluate

        return pd.DataFrame(evaluate(self._lake, self._open_searcher(), k=k))

    def cut(self, name: str, *, labels: str, at: str, lookups: Sequence[Lookup]) -> TrainingSet:
        """A training set: each row of the table `labels` with the features that were known at its `at`.

        It is recorded in ops.training_sets, with the versions of the tables. See `pipelines.features.training_set.cut`.
        """
        from pipelines.features.training_set import cut

        return cut(self._context(), name=name, labels=labels, at=at, lookups=lookups)

    def recut(self, training_set_id: str) -> TrainingSet:
        """The same rows again, from the versions that were recorded.

        Raises:
            ConfigurationError: there is no such training set, or no longer one of its tables.
            ExpectationFailedError: the rows are not those that were recorded.
        """
        from pipelines.features.training_set import recut

        return recut(self._context(), training_set_id)

    def close(self) -> None:
        """Close the models and the index; the next call opens them again."""
        with self._opening:
            self._searcher = self._answerer = None
            self._stack.close()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_searcher(self) -> Searcher:
        from pipelines.answering.search import Searcher

        with self._opening:
            if self._searcher is None:
                self._searcher = Searcher(self.settings, lake=self._lake)
            return self._searcher


class Tables(Mapping[str, "Table"]):
    """The existing tables of a workspace by name: lakeloop's own, and any other Delta table beside them."""

    def __init__(self, lake: Lakehouse) -> None:
        self._lake = lake

    def __getitem__(self, name: str) -> Table:
        """One table.

        Raises:
            ConfigurationError: there is no table of that name; the text names those with a near name.
        """
        from transformations.errors import ConfigurationError

        if name not in self:
            raise ConfigurationError.unknown_name("table", name, self)
        return Table(name, self._lake)

    def get(self, name: str, default: Any = None) -> Any:
        """One table, or `default` if there is none of that name."""
        return Table(name, self._lake) if name in self else default

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or not self._lake.is_name(name):
            return False
        self._lake.refresh()
        return self._lake.columns(name) is not None

    def __iter__(self) -> Iterator[str]:
        self._lake.refresh()
        return iter(self._lake.existing())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<{len(self)} tables: {', '.join(self)}>"


@dataclass(frozen=True)
class Table:
    """One table of a workspace, as it is at each call."""

    name: str
    _lake: Lakehouse

    def __repr__(self) -> str:
        return f"<table {self.name}, version {self.version}>"

    @property
    def version(self) -> int:
        """The table's Delta version."""
        self._known()
        head = self._lake.head(self.name)
        assert head is not None
        return head.version

    @property
    def schema(self) -> pa.Schema:
        """The table's columns."""
        return self._known()

    def to_arrow(self, *, columns: list[str] | None = None, version: int | None = None) -> pa.Table:
        """The rows in memory: all columns or some, now or as of an earlier version."""
        import pyarrow as pa

        schema = self._known()
        self._check(version)
        chosen = [_field(schema, name) for name in columns] if columns else list(schema)
        batches = self._lake.read_batches(self.name, columns=[field.name for field in chosen], version=version)
        return pa.Table.from_batches(batches, schema=pa.schema(chosen))

    def to_pandas(self, *, columns: list[str] | None = None, version: int | None = None) -> pd.DataFrame:
        """The same as a pandas DataFrame."""
        rows: pd.DataFrame = self.to_arrow(columns=columns, version=version).to_pandas()
        return rows

    def to_spark(self, *, version: int | None = None) -> DataFrame:
        """The table as a Spark DataFrame, in the active session, or in a new one with the settings' options."""
        self._known()
        self._check(version)
        return self._lake.read(self.name, version=version)

    def history(self) -> pd.DataFrame:
        """The commits that the table's log still has, newest first: version, at (UTC), operation, and its metrics."""
        import pandas as pd

        self._known()
        return pd.DataFrame(self._lake.history(self.name), columns=["version", "at", "operation", "metrics"])

    def changes(self, *, after: int = 0, until: int | None = None) -> pd.DataFrame:
        """The change feed of the versions (after, until]; until None: up to now.

        `_change_type` is insert, delete, update_preimage (the row as it was) or update_postimage (as it is then).

        Raises:
            ConfigurationError: the table keeps no change feed, or has no such version.
        """
        from transformations.errors import ConfigurationError

        self._known()
        if self._lake.properties(self.name).get("delta.enableChangeDataFeed") != "true":
            raise ConfigurationError(f"{self.name} keeps no change feed: its table property delta.enableChangeDataFeed")
        until = self.version if until is None else until
        self._check(after)
        self._check(until)
        few = self._lake.few_changes(self.name, after=after, until=until)
        feed = self._lake.read_changes(self.name, after=after, until=until).toArrow() if few is None else few
        rows: pd.DataFrame = feed.to_pandas()
        return rows.sort_values("_commit_version", ignore_index=True, kind="stable")

    def _check(self, version: int | None) -> None:
        from transformations.errors import ConfigurationError

        if version is not None and not 0 <= version <= self.version:
            raise ConfigurationError(f"{self.name} has no version {version}: its versions are 0 to {self.version}")

    def _known(self) -> pa.Schema:
        """The columns as they are now. After this call the lakehouse knows the table, even one of the user's own."""
        from pipelines.features.feature_tables import source_schema
        from pipelines.lakehouse.schemas import TABLES
        from transformations.errors import ConfigurationError

        self._lake.refresh()
        schema = source_schema(self._lake, self.name)
        if schema is None:
            raise ConfigurationError.unknown_name("table", self.name, self._lake.existing())
        if self.name not in TABLES:  # its columns may have become others since it was first told of
            self._lake.declare(self.name, replace(self._lake.spec(self.name), schema=schema))
        return schema


def _field(schema: pa.Schema, name: str) -> pa.Field:
    from transformations.errors import ConfigurationError

    if name not in schema.names:
        raise ConfigurationError.unknown_name("column", name, schema.names)
    return schema.field(name)
