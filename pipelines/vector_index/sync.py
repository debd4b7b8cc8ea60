"""Writes changes to one index, from the lease to the record of the run: the part that a sync and a repair share.

docs/vector-index.md has the protocol.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pyarrow as pa

from pipelines.flow.stage import Context, Counts, Versions
from pipelines.lakehouse.schemas import INDEX_SCHEMA
from pipelines.lakehouse.session import has_executors
from pipelines.lakehouse.table_log import commit_id, unread_from
from pipelines.lakehouse.tables import Head
from pipelines.models.embedders import EmbeddingModel
from pipelines.quality.dead_letters import Failure, open_letters, report
from pipelines.stores import Manifest, Store, open_store
from pipelines.vector_index.changes import Changes
from pipelines.vector_index.lease import Lease, writing
from pipelines.vector_index.owner import options_hash, workspace_id
from pipelines.vector_index.places import places
from pipelines.vector_index.state import (
    IndexState,
    all_states,
    check_owner,
    physical_name,
    register,
    states,
)
from pipelines.vector_index.writer import IndexWriter, write_on_executors
from transformations.errors import ConfigurationError, RefusedError
from transformations.index.fingerprint import fingerprint

log = logging.getLogger(__name__)
COMMAND, SOURCE, RUNS = "sync-index", "gold.chunk_index", "ops.index_runs"
# Up to this many deletes are an ordinary edit, whatever share of the index they are.
_FEW_ROWS = 10


def lacking(context: Context, manifest: Manifest | None, *, head: Head) -> Versions:
    """The versions of the table that an index with this manifest lacks; all (`since` None) if that cannot be known."""
    everything = Versions(None, head.version, head.table_id)
    # An index that Databricks fills itself knows only the name of its table, so its `source_id` is "".
    if manifest is None or manifest.source_id not in ("", head.table_id):
        return everything
    commit = manifest.commit or None
    since = unread_from(context.lake, SOURCE, version=manifest.version, commit=commit, until=head.version)
    return replace(everything, since=since)


class IndexSync:
    """Writes to the index of one model, from the lease to the record of the run.

    Args:
        model: the embedding model of the index.
        versions: the versions whose changes are written; the manifest will name `until`.
        command: the command, for the record.
    """

    def __init__(self, context: Context, model: EmbeddingModel, versions: Versions, *, command: str) -> None:
        self.context, self.model, self.versions, self.command = context, model, versions, command
        name = physical_name(context.settings.index.name, self.model)
        self.store: Store = open_store(context.settings, dimension=self.model.dimension, name=name)
        try:
            # Before `register` records the place as this workspace's, so that the next try is refused, too.
            refuse_unfinished(context, self.store, name=name)
            self.state = register(context.lake, context.settings, self.model)
        except BaseException:
            self.store.close()
            raise
        self.letters = open_letters(context.lake, stage=COMMAND, index_name=self.state.index_name)
        self.seconds: dict[str, float] = {}
        self.started_at, self.start = context.now(), time.monotonic()

    def run(self, find: Callable[[IndexSync, Manifest | None, bool], Changes]) -> Counts:
        """Apply the changes that `find` returns, and commit.

        Args:
            find: gets this object, the index's manifest, and whether the last writing came to its end.
        """
        try:
            before = self._manifest_of_ours()
            with writing(self.context, self.state.index_name, at_least=before.fence if before else 0) as lease:
                manifest = self._manifest_of_ours()  # the last holder of the lease may have moved it
                with self._timed("compare"):
                    changes = find(self, manifest, lease.was_clean)
                try:
                    return self._apply(changes, manifest, lease=lease)
                finally:
                    self.context.frames.release_all()
        finally:
            self.store.close()

    def _manifest_of_ours(self) -> Manifest | None:
        manifest = self.store.manifest()
        if manifest is not None:
            # The state as the table has it now: the last lease is part of what makes an index ours.
            state = next(
                s for s in states(self.context.lake, self.state.alias) if s.index_name == self.state.index_name
            )
            check_source(self.context, manifest, state=state, model=self.model)
        return manifest

    def _apply(self, changes: Changes, manifest: Manifest | None, *, lease: Lease) -> Counts:
        context = self.context
        rows_before = manifest.rows if manifest else changes.held
        refuse_mass_delete(
            context, self.state.index_name, deletes=changes.vanished, rows=rows_before, moved=changes.moved
        )
        writer = IndexWriter(
            self.store,
            dimension=self.model.dimension,
            check=lease.check,
            patience=context.settings.index.patience_seconds,
        )
        writer.delete(changes.doubled)
        # New rows before deletes: if the store has no atomic commit, a reader finds a document twice rather than never.
        with self._timed("upsert"), context.progress.step(COMMAND, total=changes.upserts or None) as step:
            if changes.upserts and self._is_distributed(changes):
                lease.check()
                self._upsert_on_executors(changes, writer)
            elif changes.upserts:
                schema, are_new = INDEX_SCHEMA, changes.mode == "everything"
                for written in writer.upsert(changes.batches(), schema=schema, are_new=are_new):
                    step.advance(written)
        with self._timed("delete"):
            # The old version of a refused row is deleted too: it would be found for a text that is no longer there.
            writer.delete([*changes.deleted_ids(), *writer.refused])
        with self._timed("letters"):
            set_aside = self._report(writer, changes)
        with self._timed("commit"):
            lease.check()
            after = self._manifest(changes, manifest, fence=lease.fence, refused=writer.refused)
            self.store.commit(after, expected=manifest)
        lease.release(after)
        counts = {
            "upserts": writer.written,
            "deletes": changes.deletes,
            "skipped": changes.skipped,
            "set_aside": set_aside,
            "rows": after.rows,
        }
        self._record(changes, counts, writer=writer, fence=lease.fence)
        return counts

    def _is_distributed(self, changes: Changes) -> bool:
        """Whether executors write: the store takes several writers, and Spark's executors are not in this process."""
        if self.store.capabilities["several_writers"].support != "yes" or changes.frame is None:
            return False
        return has_executors(changes.frame.sparkSession)

    def _upsert_on_executors(self, changes: Changes, writer: IndexWriter) -> None:
        assert changes.frame is not None
        write = write_on_executors(self.context.settings, name=self.state.index_name, dimension=self.model.dimension)
        rows = changes.frame.select(*INDEX_SCHEMA.names).repartition(self.context.parallelism)
        for row in rows.mapInArrow(write, "chunk_id string, reason string").collect():
            if row["chunk_id"] is not None:
                writer.refused[row["chunk_id"]] = row["reason"]
            else:
                written, size = row["reason"].split()
                writer.written, writer.size = writer.written + int(written), writer.size + int(size)

    def _report(self, writer: IndexWriter, changes: Changes) -> int:
        if not writer.refused and not self.letters:
            return 0
        failures = [
            Failure(
                stage=COMMAND,
                model=self.model.label,
                index_name=self.state.index_name,
                chunk_id=chunk_id,
                error=error,
                version=self.versions.until,
            )
            for chunk_id, error in writer.refused.items()
        ]
        resolved = changes.judged([row["chunk_id"] for row in self.letters]) - writer.refused.keys()
        return report(self.context, failures, resolved=resolved, known=self.letters)

    def _manifest(self, changes: Changes, before: Manifest | None, *, fence: int, refused: dict[str, str]) -> Manifest:
        """The index's next manifest. If all changes are known and were applied, its fingerprint follows from the last
        one; else it is computed from the table."""
        context, model = self.context, self.model
        if changes.is_exact and before is not None and before.fingerprint and not self.letters and not refused:
            added, removed = changes.hashes()
            value = fingerprint(added, since=before.fingerprint, without=removed)
            rows = before.rows + len(added) - len(removed)
        else:
            letters = open_letters(context.lake, stage=COMMAND, index_name=self.state.index_name)
            missing = {row["chunk_id"] for row in letters}
            hashes = served_hashes(context, model=model.label, version=self.versions.until, without=missing)
            value, rows = fingerprint(hashes), len(hashes)
        return Manifest(
            source_table=source_name(context),
            source_id=self.versions.table_id,
            version=self.versions.until,
            fingerprint=value,
            model=model.name,
            revision=model.revision,
            dimension=model.dimension,
            instruction=model.instruction,
            rows=rows,
            fence=fence,
            workspace=workspace_id(context.lake),
            place=str(context.settings.root),
            commit=commit_id(context.lake, SOURCE, self.versions.until) or "",
            options=options_hash(context.settings),
        )

    def _record(self, changes: Changes, counts: Counts, *, writer: IndexWriter, fence: int) -> None:
        """Append one row to ops.index_runs."""
        embedded = _embedded_by(self.context)
        lag_versions = None if self.versions.since is None else self.versions.until - self.versions.since
        row = {
            "run_id": self.context.run_id,
            "index_name": self.state.index_name,
            "command": self.command,
            "mode": changes.mode,
            "from_version": self.versions.since,
            "to_version": self.versions.until,
            "inserted": changes.inserts,
            "updated": changes.upserts - changes.inserts,
            "deleted": counts["deletes"],
            "skipped": counts["skipped"],
            **embedded,
            "set_aside": counts["set_aside"],
            "rows": counts["rows"],
            "bytes": writer.size,
            "lag_versions": lag_versions,
            "lag_seconds": changes.lag_seconds(self.started_at),
            "fence": fence,
            "stage_seconds": list(self.seconds.items()),
            "started_at": self.started_at,
            "seconds": time.monotonic() - self.start,
        }
        self.context.lake.append_arrow(RUNS, [row])

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[step] = time.monotonic() - start


def source_name(context: Context) -> str:
    """The name of the table in a manifest."""
    settings = context.settings
    return (
        f"{settings.catalog}.{settings.schema_prefix}{SOURCE}" if settings.catalog else settings.schema_prefix + SOURCE
    )


def check_source(context: Context, manifest: Manifest, *, state: IndexState, model: EmbeddingModel) -> None:
    """Check that a writer of this table and model may write to an existing index.

    Raises:
        RefusedError: the index belongs to another workspace.
        ConfigurationError: it was made from another table, or holds vectors of another model.
    """
    check_owner(context.lake, manifest, state=state, is_writing=True, take_over=context.take_over)
    if manifest.source_table != source_name(context):
        raise ConfigurationError(
            f"sync-index: the index at {state.uri} was made by the table {manifest.source_table}, not "
            f"by {source_name(context)}. Nothing was changed. Give this table an index of its own with index.name."
        )
    if manifest.model_label != model.label:
        raise ConfigurationError(
            f"sync-index: the index at {state.uri} holds vectors of {manifest.model_label}, not of "
            f"{model.label}. An index never holds two models. Nothing was changed."
        )


def refuse_unfinished(context: Context, store: Store, *, name: str) -> None:
    """Raises RefusedError if the place has rows without a manifest, and this workspace never wrote there."""
    uri = context.settings.index_uri
    known = [*places(context.lake), *(state.place for state in all_states(context.lake))]
    is_known = (name, context.settings.index.store, uri) in {place.address for place in known}
    if is_known or context.take_over is not None or store.manifest() is not None or not has_rows(store):
        return
    raise RefusedError(
        f"sync-index: at {uri} is an index {name} that was never finished, and this workspace did not begin it: "
        "another one may be filling it now. Nothing was changed. Give this workspace another index.name or index.uri; "
        "if the other is no more: lakeloop sync-index --take-over unfinished"
    )


def has_rows(store: Store) -> bool:
    """Whether the store has rows, committed or not."""
    return any(batch.num_rows for batch in store.ids_with_hashes())


def refuse_mass_delete(
    context: Context, name: str, *, deletes: int, rows: int, moved: Callable[[], int] = lambda: 0
) -> None:
    """Raises RefusedError if too large a share of an index would vanish, unless the run is forced.

    Args:
        moved: gives how many of the deleted rows have a text that new rows have too; called only if the share is too
            large without it.
    """
    limit = context.settings.index.max_delete_ratio

    def is_allowed(deletes: int) -> bool:
        return deletes <= _FEW_ROWS or deletes <= limit * rows

    if context.force or is_allowed(deletes) or is_allowed(deletes := deletes - moved()):
        return
    raise RefusedError(
        f"sync-index: {deletes} of {rows} rows would leave the index {name} for good, more than "
        f"index.max_delete_ratio {limit:g} allows. The index was not touched. See what is gone with: lakeloop plan; if "
        "it is right, run again with --force."
    )


def served_hashes(context: Context, *, model: str, version: int, without: set[str]) -> list[str]:
    """The row hashes that an index of `model` holds at a version of the table, without the chunk_ids in `without`."""
    rows = pa.Table.from_batches(
        context.lake.read_batches(SOURCE, columns=["chunk_id", "row_hash"], where={"model": model}, version=version),
        schema=pa.schema([("chunk_id", pa.string()), ("row_hash", pa.string())]),
    )
    pairs = zip(rows["chunk_id"].to_pylist(), rows["row_hash"].to_pylist(), strict=True)
    return [row_hash for chunk_id, row_hash in pairs if chunk_id not in without]


def _embedded_by(context: Context) -> dict[str, int]:
    """How many texts embed-chunks computed in this run, and how many it found in its cache."""
    runs = context.states.of_stage("embed-chunks")
    own_runs = [state.counts for state in runs if state.run_id == context.run_id]
    return {
        "embedded": sum(counts.get("computed", 0) for counts in own_runs),
        "cache_hits": sum(counts.get("cached", 0) for counts in own_runs),
    }
