"""refine-documents: bronze.documents → silver.documents (now), its history and its quarantine.

Every arrival is judged, also if its document has changed again since. A version of a document begins with its arrival
and ends with the next one: another text, a deletion, or a refused content. The history is written first;
silver.documents is made equal to the current rows of the history. Each write compares, so that a repeated run changes
nothing.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from pipelines.documents.arrivals import (
    HISTORY,
    SOURCE,
    arrivals_of,
    contents_of,
    first_of_content,
    of_last_arrivals,
    versions_said,
)
from pipelines.documents.clusters import COLUMNS as CLUSTER_COLUMNS
from pipelines.documents.clusters import with_clusters
from pipelines.documents.contents import KEY
from pipelines.documents.describe import DESCRIBED_SCHEMA, PersonalData, describe_batches, rules_of_documents
from pipelines.documents.parse import Limits, parse_batches
from pipelines.flow.changed_rows import apply_changes, differences, touched
from pipelines.flow.rows import Rows, as_frame, kept, mapped, row_count, selected, where_in, without
from pipelines.flow.stage import Context, Counts, Stage, Versions, Work, moved, nothing_new
from pipelines.lakehouse.open_folder import files_between
from pipelines.quality.split import Split
from transformations.tables import few_rows
from transformations.tables.history import VALIDITY, Replaced, history_changes

TARGET, QUARANTINE = "silver.documents", "silver.documents_quarantine"
SPLIT = Split(
    "refine-documents",
    SOURCE,
    TARGET,
    QUARANTINE,
    key="document_id",
    same=("content_hash", "reason"),
    scope="document_id",
)
# A document has a new version if one of these columns differs.
_COMPARE = ["title", "text", "format", "encoding", "metadata", "language", "language_confidence"]
_COMPARE += ["pii_spans", "content_hash"]


def look(context: Context) -> Work | None:
    """The arrivals that were not read yet, and the documents refused for a limit that was raised since (`found`)."""
    again = refused_for_limits(context)
    due = moved(STAGE, context) or (nothing_new(STAGE, context) if again else None)
    return None if due is None else replace(due, found=again)


def work(context: Context, due: Work) -> Counts:
    """Refine the arrivals. Counts: documents insert, update, delete, set_aside (refused now, and not repaired since).

    Raises:
        MissingDependencyError: a library that a parser, or the search for personal data, needs is not installed.
        ConfigurationError: `parse.memory_mb` is too small for a parser.
    """
    lake, versions = context.lake, due.first
    again: list[str] = refused_for_limits(context) if due.found is None else due.found
    rules = rules_of_documents(context.settings.refine)
    for table in (TARGET, HISTORY):
        lake.create(table)
    with context.progress.step("refine-documents"):
        arrivals = arrivals_of(context, versions, again=again)
        keys = kept(context, selected(arrivals, ["document_id"]))
        described = _described(context, first_of_content(arrivals), versions, again=again)
        judged = SPLIT.judge(context, described, rules=rules, versions=versions)
        refused = of_last_arrivals(context, judged.refused, arrivals) if judged.refused_rows else judged.refused
        count = row_count(refused) if judged.refused_rows else 0
        SPLIT.set_aside(context, refused, count=count, scope=keys, versions=versions)

        arrived = versions_said(context, arrivals, judged.valid)
        before = touched(context, HISTORY, keys, versions=versions, key="document_id")
        apply_changes(context, HISTORY, _history_changes(context, before, arrived, versions=versions))
        dated = touched(context, HISTORY, keys, versions=versions, key="document_id")
        desired = without(where_in(dated, "is_current", [True]), VALIDITY)
        current = touched(context, TARGET, keys, versions=versions, key="document_id")
        current, desired = with_clusters(context, current, desired, keys=keys, versions=versions)
        desired = selected(desired, lake.spec(TARGET).columns)
        compare = [*_COMPARE, *CLUSTER_COLUMNS]
        changes = differences(context, current, desired, key="document_id", compare=compare)
        return {**apply_changes(context, TARGET, changes), "set_aside": count}


def _described(context: Context, first: Rows, versions: Versions, *, again: list[str]) -> Rows:
    """The arrivals `first`, parsed and described. In folders, each worker reads the bytes from the table's files; in a
    catalog, Spark passes them on.
    """
    lake, files, are_few = context.lake, None, isinstance(first, pa.Table)
    if (folder := lake.folder(SOURCE)) is not None:
        files = files_between(folder, after=None if again else versions.since, until=versions.until)
    else:
        first = as_frame(context, first).join(contents_of(context, versions, again=again), list(KEY))
    parse = parse_batches(Limits.of(context.settings.parse), files=files)
    describe = describe_batches(parse, personal_data=PersonalData.of(context.settings.refine))
    described = mapped(context, first, describe, DESCRIBED_SCHEMA)
    return (
        described if isinstance(described, pa.Table) or not are_few else context.frames.few(described, DESCRIBED_SCHEMA)
    )


def _history_changes(context: Context, before: Rows, arrived: Rows, *, versions: Versions) -> Rows:
    key, order_by = ["document_id"], "_ingested_at"
    replaces: Replaced = "everything" if versions.since is None else "same instants"
    if isinstance(before, pa.Table) and isinstance(arrived, pa.Table):
        few = few_rows.history_changes(before, arrived, key=key, order_by=order_by, compare=_COMPARE, replaces=replaces)
        if few is not None:
            return few
    return history_changes(
        as_frame(context, before),
        as_frame(context, arrived),
        key=key,
        order_by=order_by,
        compare=_COMPARE,
        replaces=replaces,
    )


def refused_for_limits(context: Context) -> list[str]:
    """The ids of documents that were refused for a parsing limit which was raised since, sorted."""
    limits = Limits.of(context.settings.parse)
    rows = context.lake.read_arrow(QUARANTINE, columns=["document_id", "reason"], where={"replayed_at": None})
    refusals = zip(rows["document_id"].to_pylist(), rows["reason"].to_pylist(), strict=True)
    return sorted(document for document, reason in refusals if reason and limits.allow_more_than(reason))


STAGE = Stage(
    "refine-documents",
    "bronze.documents → silver.documents, its history and its quarantine.",
    look,
    work,
    sources=(SOURCE,),
    targets=(TARGET, HISTORY, QUARANTINE),
    code_version=6,
    decided_by=lambda context: (
        f"{context.settings.refine.model_dump_json(exclude={'near_duplicates'})} "
        f"clusters={context.settings.refine.near_duplicates != 'off'}"
    ),
)
