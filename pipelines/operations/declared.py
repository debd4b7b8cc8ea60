"""The declared datasets of pipelines/declarative, brought up to date (or only checked) on this machine.

They are Delta folders in a schema of their own, `declared`, beside the tables of the stages, which have the same names.
What they were made of is noted beside their checkpoints, so that a run with nothing new starts no Spark.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.conductor.run import new_context
from pipelines.flow.lock import only_writer
from pipelines.flow.stage import Context
from pipelines.lakehouse import delta_folder
from pipelines.lakehouse.folders import FolderLakehouse
from pipelines.lakehouse.open_folder import open_folder
from pipelines.lakehouse.table_log import commit_id, commits, is_same_history
from pipelines.operations.connect_server import connect_server
from pipelines.operations.spark_pipelines import NO_RETRIES, SCHEMA, catalog_of, run_pipeline, specification
from pipelines.settings.pipeline import declarable
from pipelines.settings.sections import Settings
from pipelines.silver import chunk_documents, refine_documents, refine_records
from pipelines.storage.object_path import ObjectPath
from transformations.errors import EXIT_DONE, EXIT_NOTHING_TO_DO, EXIT_SET_ASIDE, ConfigurationError

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Datasets that only grow, each with those that read it as a stream: they are computed anew together.
_READERS = {
    "documents_parsed": ("documents_parsed", "documents_valid", "documents_refused", "chunks_cut"),
    "documents_valid": ("documents_valid", "chunks_cut"),
    "documents_refused": ("documents_refused",),
    "chunks_cut": ("chunks_cut",),
}
# To be raised where pipelines/declarative makes other rows of the same arrivals: all datasets are computed anew then.
_CODE_VERSION = 1
# Operations that change or remove rows. A stream passes over them, and the files that it has not read may be gone.
_CHANGES_ROWS = frozenset({"DELETE", "UPDATE", "MERGE"})
# The id and version of a table, and the id of that version's commit.
Mark = list[Any]
_VIEWS = ("documents", "documents_quarantine", "chunks", "chunks_quarantine")


@dataclass(frozen=True)
class Update:
    """What a run did to the datasets: name → rows now, and how many more than before. `is_new`: something was done."""

    rows: Mapping[str, int]
    added: Mapping[str, int]
    is_new: bool
    seconds: float

    def exit_code(self, *, detailed: bool = False) -> int:
        """0: done, or nothing new (3 if `detailed`); 6: done, and rows are set aside."""
        if not self.is_new:
            return EXIT_NOTHING_TO_DO if detailed else EXIT_DONE
        is_set_aside = any(rows for name, rows in self.rows.items() if name.endswith("_quarantine"))
        return EXIT_SET_ASIDE if is_set_aside else EXIT_DONE

    def to_json(self) -> dict[str, object]:
        datasets = {name: {"rows": rows, "added": self.added[name]} for name, rows in self.rows.items()}
        return {"changed": self.is_new, "datasets": datasets, "seconds": round(self.seconds, 1)}


@dataclass
class Made:
    """What the datasets were made of.

    Attributes:
        definitions: the settings and the code that decide them, by what they are of.
        read: the arrivals that they hold: table → its id and version, and the id of that version's commit.
        left: the same of each dataset, as the run left it.
        anew: the datasets that a run was told to compute anew, and has not finished.
    """

    definitions: dict[str, str] = field(default_factory=dict)
    read: dict[str, Mark] = field(default_factory=dict)
    left: dict[str, Mark] = field(default_factory=dict)
    anew: list[str] = field(default_factory=list)

    @classmethod
    def noted(cls, file: Path) -> Made:
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return cls()

    def note(self, file: Path) -> None:
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(vars(self), indent=1), encoding="utf-8")
        draft.replace(file)


def update_declared(
    settings: Settings,
    *,
    file: Path | None,
    overrides: Sequence[str] = (),
    full_refresh: Collection[str] = (),
    full_refresh_all: bool = False,
) -> Update:
    """Bring the declared datasets up to date with the arrivals in bronze. Needs no Spark if nothing has moved.

    Args:
        settings: those of `file` and `overrides`.
        file: the lakeloop.yml, which the definitions read for themselves.
        full_refresh: datasets that are emptied and computed from all arrivals, with those that read them.
        full_refresh_all: all of them.

    Raises:
        ConfigurationError: a dataset is unknown, or the settings are none for which datasets are made here.
        ExpectationFailedError: a row breaks a rule of level fail.
        RefusedError: another process is writing to this workspace.
        LakeloopError: the pipeline failed otherwise.
    """
    start = time.monotonic()
    file, known = _checked(settings, file), _known(settings)
    for name in full_refresh:
        if name not in known:
            raise ConfigurationError.unknown_name("dataset", name, known)
    asked = known if full_refresh_all else [*full_refresh]
    context = new_context(settings)
    with only_writer(settings):
        folder = _folder(settings)
        before, made, now = _rows(context), Made.noted(folder / "made.json"), _now(context)
        anew = _anew(context, before, asked=asked, made=made, now=now)
        if not asked and made == now and not anew and set(known) <= set(before):
            return Update(before, dict.fromkeys(before, 0), False, time.monotonic() - start)
        Made(now.definitions, made.read, made.left, anew).note(folder / "made.json")
        rest = [name for name in known if name not in anew]
        _run(context, folder, file=file, overrides=overrides, there=before, datasets=(anew, rest))
        after = _rows(context)
        _clean(context, after)
        Made(now.definitions, now.read, _left(context, after)).note(folder / "made.json")
    added = {name: rows - before.get(name, 0) for name, rows in after.items()}
    return Update(after, added, True, time.monotonic() - start)


def check_declared(settings: Settings, *, file: Path | None, overrides: Sequence[str] = ()) -> float:
    """Check the definitions, and how the datasets depend on each other; none is written. Returns the seconds it took.

    Raises:
        Exception: as `update_declared`.
    """
    start = time.monotonic()
    file = _checked(settings, file)
    context = new_context(settings)
    with only_writer(settings):
        _now(context)
        _run(context, _folder(settings), file=file, overrides=overrides, there=_rows(context), datasets=None)
    return time.monotonic() - start


def _checked(settings: Settings, file: Path | None) -> Path:
    """The file of the settings.

    Raises:
        ConfigurationError: there is none, or they are settings for which datasets are not made on this machine.
    """
    if file is None:
        raise ConfigurationError(
            "declared pipelines read their settings from a file, and there is no lakeloop.yml here: lakeloop init"
        )
    if settings.catalog is not None:
        raise ConfigurationError(
            f"the tables are in the catalog {settings.catalog}, whose platform runs declared pipelines itself: deploy "
            "the bundle, and start its pipeline (docs/deploy.md). Here they run over folders: leave catalog out."
        )
    if isinstance(settings.place(settings.lakehouse), ObjectPath):
        raise ConfigurationError(
            f"the lakehouse is {settings.lakehouse}, and declared pipelines do not run over object storage yet: they "
            "want a folder."
        )
    if _master(settings).startswith("sc://"):
        raise ConfigurationError(
            f"spark.master is {_master(settings)}, and declared pipelines start a Connect server of their own. Name "
            "the master of that: --set 'spark.master=local[2]'"
        )
    declarable(settings)
    return file


def _master(settings: Settings) -> str:
    return settings.spark.conf.get("spark.master", settings.spark.master)


def _folder(settings: Settings) -> Path:
    folder = settings.path(settings.checkpoints) / SCHEMA
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _now(context: Context) -> Made:
    """What datasets would be made of now. Tables of arrivals that do not exist yet are made, empty."""
    documents = f"{refine_documents.STAGE.definition(context)} {context.settings.parse.model_dump_json()}"
    definitions = {"documents": documents, "chunks": chunk_documents.STAGE.definition(context)}
    definitions["declared"] = str(_CODE_VERSION)
    sources = ["bronze.documents"]
    for each in refine_records.STAGE.contexts(context):
        (source,) = refine_records.STAGE.sources_of(each)
        definitions[source] = refine_records.STAGE.definition(each)
        sources.append(source)
    for source in sources:
        context.lake.ensure(source)
    read = {source: mark for source in sources if (mark := _mark(context, source)) is not None}
    return Made(definitions, read, _left(context, _rows(context)))


def _left(context: Context, names: Iterable[str]) -> dict[str, Mark]:
    return {name: mark for name in names if (mark := _mark(context, f"{SCHEMA}.{name}")) is not None}


def _mark(context: Context, table: str) -> Mark | None:
    folder = context.lake.folder(table)
    delta = None if folder is None else open_folder(folder)
    if delta is None:
        return None
    return [str(delta.metadata().id), delta.version(), commit_id(context.lake, table, delta.version())]


def _anew(context: Context, there: Collection[str], *, asked: Sequence[str], made: Made, now: Made) -> list[str]:
    """The datasets to compute anew, each with its readers: those that are asked for or were not finished; those that
    other settings, other code or another table of arrivals made; those whose table or checkpoint is gone, or whose rows
    were changed by others. All of them, if it is not known what they were made of.
    """
    settings = context.settings
    wanted, was = {*asked, *made.anew}, made.definitions
    if was.get("declared") != now.definitions["declared"]:
        wanted |= set(there)
    if was and was.get("documents") != now.definitions["documents"]:
        wanted.add("documents_parsed")
    if was and was.get("chunks") != now.definitions["chunks"]:
        wanted.add("chunks_cut")
    if _was_changed(context, "bronze.documents", made.read.get("bronze.documents"), now.read.get("bronze.documents")):
        wanted.add("documents_parsed")
    checkpoints = _folder(settings) / "_checkpoints" / "spark_catalog" / f"{settings.schema_prefix}{SCHEMA}"
    wanted |= {name for name in _READERS if (checkpoints / name).is_dir() != (name in there)}
    for name in set(_READERS) & set(there):
        if _was_changed(context, f"{SCHEMA}.{name}", made.left.get(name), now.left.get(name)):
            wanted.add(name)
    return sorted({reader for name in wanted for reader in _READERS.get(name, (name,))})


def _was_changed(context: Context, table: str, was: Mark | None, now: Mark | None) -> bool:
    """Whether more was done to a table than rows appended to it, so that a stream cannot go on where it was."""
    if was is None or now is None or was == now:
        return False
    (table_id, version, commit), until = was, now[1]
    if table_id != now[0] or not is_same_history(context.lake, table, version=version, commit=commit, until=until):
        return True
    done = list(takewhile(lambda each: each.version > version, commits(context.lake, table, until=until)))
    is_known = len(done) == until - version
    return not is_known or any(each.replaces or each.operation in _CHANGES_ROWS for each in done)


def _run(
    context: Context,
    folder: Path,
    *,
    file: Path,
    overrides: Sequence[str],
    there: Collection[str],
    datasets: tuple[Sequence[str], Sequence[str]] | None,
) -> None:
    """Run the pipeline for the datasets to compute anew, and the others; None: only check it."""
    settings, lake = context.settings, context.lake
    assert isinstance(lake, FolderLakehouse)
    spec = specification(settings, folder, file=file, overrides=overrides)
    tables = ["bronze.documents", *(f"bronze.records_{name}" for name in settings.records)]
    server = connect_server(
        settings,
        master=_master(settings),
        conf={} if NO_RETRIES in settings.spark.conf else {NO_RETRIES: "0"},
        statements=catalog_of(lake, [*tables, *(f"{SCHEMA}.{name}" for name in there)]),
        lock=folder / ".server.lock",
    )
    with context.progress.step(f"pipelines {'run' if datasets else 'dry-run'}") as step, server:
        run_pipeline(spec, step, datasets=datasets)


def _rows(context: Context) -> dict[str, int]:
    """The datasets that are there: name → rows."""
    return {n: table.count() for n in _known(context.settings) if (table := _table(context, n)) is not None}


def _known(settings: Settings) -> list[str]:
    of_records = (f"records_{name}{end}" for name in settings.records for end in ("", "_quarantine"))
    return [*_READERS, *_VIEWS, *of_records]


def rows_held(context: Context, document_ids: Collection[str]) -> int:
    """How many rows of these documents the declared datasets hold, in folders."""
    held = 0
    for name in (*_READERS, *_VIEWS):
        if (table := _table(context, name)) is not None:
            rows = pa.table(table.to_pyarrow_dataset().to_table(columns=["document_id"]))
            held += sum(document_id in document_ids for document_id in rows["document_id"].to_pylist())
    return held


def _clean(context: Context, names: Collection[str]) -> None:
    """Remove files that only older versions have: a view is written whole at each run."""
    for name in names:
        if (table := _table(context, name)) is not None:
            delta_folder.vacuum(table, hours=24 * context.settings.maintenance.keep_days)


def _table(context: Context, name: str) -> DeltaTable | None:
    folder = context.lake.folder(f"{SCHEMA}.{name}")
    return None if folder is None else open_folder(folder)
