"""Predicts what the next run would do to documents, chunks and embeddings.

Nothing is written and no Spark is started. The files are compared with what refine-documents has read, so that a file
that was only ingested counts as new or changed, too. Those files are parsed (within the limits of a run), judged and
cut here, by the functions and rules of the stages. What else a stage would do, such as all documents anew after a
change of its settings, is not computed but named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from expectations.rules.rules import broken_by, refuses
from pipelines.documents.arrivals import SOURCE
from pipelines.documents.clusters import TABLE as DOCUMENTS
from pipelines.documents.clusters import clustered, few_clusters
from pipelines.documents.delivery import Delivery, arrivals, as_read, delivery_of, refuse_mass_delete
from pipelines.documents.describe import PersonalData, describe_batches, rules_of_documents
from pipelines.documents.parse import Limits, parse_batches
from pipelines.flow.stage import Context, Work
from pipelines.flow.states import STAGE_RUNS
from pipelines.lakehouse.selection import Newest
from pipelines.models.embedders import EmbeddingModel, embedding_model
from pipelines.operations.also_due import Cut, of_documents, of_indexes
from pipelines.silver import refine_documents
from pipelines.silver.chunk_documents import chunks_of, rules_of_chunks
from pipelines.vector_index.state import index_models
from transformations.errors import RefusedError
from transformations.index.fingerprint import row_hash_of
from transformations.text.near_duplicates import SIGNATURE_SCHEMA, signature_batches

# A document, its chunks, and why it would be refused ("": it would not be).
_Outcome: TypeAlias = tuple[dict[str, Any], list[dict[str, Any]], str]
# The pace of the default model on two cores, until a run here has measured it.
_TEXTS_PER_SECOND = 30.0
_RUNS_OF_PACE = 1000


@dataclass(frozen=True)
class DocumentPlan:
    """One document that would change.

    Attributes:
        op: "+" new, "~" changed, "-" gone, "!" would be refused.
        to_embed: its texts that are neither in the cache nor in a document before it.
        reason: why it would be refused; else "".
    """

    path: str
    op: Literal["+", "~", "-", "!"]
    chunks_added: int = 0
    chunks_removed: int = 0
    to_embed: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Plan:
    """What a run would do now.

    Attributes:
        documents: the documents that would change.
        model: the embedding model of the settings.
        embed: how many texts it would embed.
        cached: how many texts have a vector in the cache already.
        tokens: how many tokens the texts to embed have.
        seconds: how long embedding would take, at the pace of earlier runs.
        refused_by: the messages of the limits that would refuse the run without --force.
        also_due: what stages would do besides, one sentence each; it is in none of the numbers.
    """

    documents: tuple[DocumentPlan, ...]
    model: str
    embed: int
    cached: int
    tokens: int
    seconds: float
    refused_by: tuple[str, ...]
    also_due: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(context: Context) -> Plan:
    """Compare the landing folder with what refine-documents has read, and the texts that would be served with the
    embedding cache."""
    lake, settings = context.lake, context.settings
    delivery, refine = delivery_of(context), refine_documents.look(context)
    read = _read(context, delivery, refine)
    chunks = lake.read_arrow("silver.chunks", columns=["chunk_id", "document_id", "text_hash", "token_count"])
    held: dict[str, dict[str, dict[str, Any]]] = {}
    for row in chunks.to_pylist():
        held.setdefault(row["document_id"], {})[row["chunk_id"]] = row
    texts = {row["text_hash"]: row["token_count"] for rows in held.values() for row in rows.values()}
    vectors = _cached(context)
    documents, planned = list[DocumentPlan](), dict[str, dict[str, Cut]]()
    models = [subject.of for subject in index_models(context)]
    wanted_elsewhere: dict[str, int] = {}
    for last in read.gone:
        planned[last.document_id] = {}
        documents.append(DocumentPlan(last.path, "-", chunks_removed=len(held.get(last.document_id, {}))))
    for document, cut, reason in _served(context, read, _become(context, read)):
        before = held.get(document["document_id"], {})
        planned[document["document_id"]] = now = (
            {} if reason else {chunk["chunk_id"]: _row(chunk, models) for chunk in cut}
        )
        if reason:
            documents.append(DocumentPlan(document["path"], "!", chunks_removed=len(before), reason=reason))
            continue
        new_texts = {chunk["text_hash"]: chunk["token_count"] for chunk in cut}
        fresh = {key for key in new_texts if key not in vectors and key not in wanted_elsewhere}
        wanted_elsewhere |= new_texts
        known = read.known.get(document["path"])
        documents.append(
            DocumentPlan(
                document["path"],
                "+" if known is None or known.op == "delete" else "~",
                chunks_added=len(now.keys() - before.keys()),
                chunks_removed=len(before.keys() - now.keys()),
                to_embed=len(fresh),
            )
        )
    staying = {r["text_hash"] for key, rows in held.items() if key not in planned for r in rows.values()}
    texts |= wanted_elsewhere
    wanted = staying | wanted_elsewhere.keys()
    missing = wanted - vectors
    indexes = of_indexes(context, planned, held)
    is_told = read is not delivery and bool(documents)
    return Plan(
        documents=tuple(sorted(documents, key=lambda d: d.path)),
        model=embedding_model(settings).label,
        embed=len(missing),
        cached=len(wanted) - len(missing),
        tokens=sum(texts[key] or 0 for key in missing),
        seconds=round(len(missing) / _pace(context), 1),
        refused_by=(*_refusals(context, delivery, embed=len(missing)), *indexes.refused),
        also_due=(*of_documents(context, refine, is_told=is_told), *indexes.due),
    )


def _read(context: Context, delivery: Delivery, refine: Work | None) -> Delivery:
    """The files of the delivery, compared with the arrivals that refine-documents has read.

    The delivery itself if it has read all of them, or if it would read all of them anew, or if its version is gone.
    """
    if refine is None or refine.first.since == refine.first.until:
        return delivery
    since = refine.first.since
    if since is None and refine_documents.STAGE.state(context) is not None:
        return delivery
    try:
        return as_read(context, delivery, version=since)
    except Exception:  # delta-rs fails in many ways if files of an older version are gone
        return delivery


def _row(chunk: Mapping[str, Any], models: list[EmbeddingModel]) -> Cut:
    return Cut(chunk["text_hash"], {model.label: row_hash_of({**chunk, "model": model.label}) for model in models})


def _become(context: Context, delivery: Delivery) -> Iterator[_Outcome]:
    """For each new or changed file, what it would become. Only the bytes of one file at a time are in memory."""
    refine, schema = context.settings.refine, context.lake.spec(SOURCE).schema
    rules, source = rules_of_documents(refine), context.settings.ingest.source
    describe = describe_batches(parse_batches(Limits.of(context.settings.parse)), personal_data=PersonalData.of(refine))

    def arriving() -> Iterator[pa.RecordBatch]:
        for row in arrivals(delivery, context.settings.ingest, now=context.now):
            if row is not None:
                yield pa.RecordBatch.from_pylist([{**row, "source": source}], schema=schema)

    for batch in describe(arriving()):
        for place, document in enumerate(batch.to_pylist()):
            broken = broken_by(document, [rule for rule in rules if refuses(rule)])
            if broken:
                yield document, [], _why(document, broken[0])
                continue
            yield document, _cut(context, batch.slice(place, 1)), ""


def _cut(context: Context, documents: pa.RecordBatch) -> list[dict[str, Any]]:
    """The chunks that documents would be cut into, without those that would be refused."""
    rules = [rule for rule in rules_of_chunks(context.settings) if refuses(rule)]
    chunks = (row for part in chunks_of(context.settings)(iter([documents])) for row in part.to_pylist())
    return [row for row in chunks if not broken_by(row, rules)]


def _served(context: Context, delivery: Delivery, become: Iterator[_Outcome]) -> Iterator[_Outcome]:
    """If one of near-equal documents is served: `become` with chunks for that one alone, and the stored documents that
    this changes.

    All new texts are in memory then. If the tables are in a catalog, near-duplicates are not compared.
    """
    refine, schema = context.settings.refine, context.lake.spec(DOCUMENTS).schema
    if refine.near_duplicates != "serve_one":
        yield from become
        return
    outcomes = list(become)
    columns = ["document_id", "text", "modified_at", "_ingested_at"]
    accepted = pa.Table.from_pylist(
        [{name: document[name] for name in columns} for document, _, reason in outcomes if not reason],
        schema=pa.schema([schema.field(name) for name in columns]),
    )
    sign = signature_batches(refine.near_duplicate_threshold)(iter(accepted.select(columns[:2]).to_batches()))
    changed = [document["document_id"] for document, _, _ in outcomes] + [last.document_id for last in delivery.gone]
    few = few_clusters(context, accepted, pa.Table.from_batches(sign, SIGNATURE_SCHEMA), changed=changed, most=None)
    concerned = None if few is None else context.lake.few_keys(DOCUMENTS, "document_id", few.others)
    if few is None or concerned is None:
        yield from outcomes
        return
    found = clustered(pa.concat_tables([accepted, concerned.select(columns)]), few.found, schema)
    is_served = dict(zip(found["document_id"].to_pylist(), found["is_representative"].to_pylist(), strict=True))
    for document, cut, reason in outcomes:
        yield document, cut if is_served.get(document["document_id"]) else [], reason
    for row in concerned.to_batches():
        for place, document in enumerate(row.to_pylist()):
            if document["is_representative"] != (now := is_served[document["document_id"]]):
                yield document, _cut(context, row.slice(place, 1)) if now else [], ""


def _why(document: Mapping[str, Any], rule: str) -> str:
    if document["reason"]:
        return str(document["reason"])
    details = {
        "is_in_language": document["language"],
        "has_no_personal_data": f"{len(document['pii_spans'] or ())} places",
    }
    return f"{rule}: {details[rule]}" if rule in details else rule


def _cached(context: Context) -> set[str]:
    model = embedding_model(context.settings)
    where = {"model": model.name, "revision": model.revision, "instruction": model.instruction}
    rows = context.lake.read_arrow("gold.embeddings", columns=["text_hash", "dimension"], where=where)
    return set(rows.filter(pc.equal(rows["dimension"], model.dimension))["text_hash"].to_pylist())


def _pace(context: Context) -> float:
    """Texts per second in the last three runs that embedded 100 texts or more, of the last thousand."""
    newest = Newest("started_at", most=_RUNS_OF_PACE)
    runs = context.lake.read_arrow(
        STAGE_RUNS, columns=["counts", "seconds"], where={"stage": "embed-chunks"}, which=newest
    )
    paces = [(dict(run["counts"]).get("computed", 0), run["seconds"]) for run in runs.to_pylist()]
    paces = [(computed, seconds) for computed, seconds in paces if computed >= 100 and seconds][:3]
    return sum(c for c, _ in paces) / sum(s for _, s in paces) if paces else _TEXTS_PER_SECOND


def _refusals(context: Context, delivery: Delivery, *, embed: int) -> Iterator[str]:
    """The messages with which the limits of ingest-documents and embed-chunks would refuse the run."""
    try:
        refuse_mass_delete(context, delivery)
    except RefusedError as error:
        yield str(error)
    limit = context.settings.embedding.max_texts
    if limit is not None and embed > limit and not context.force:
        yield f"embed-chunks: {embed} texts would be embedded, embedding.max_texts allows {limit}."


def render(plan: Plan) -> str:
    """The plan as text: one line for each document, then the sums, what else is due, and the refusals."""
    lines = [
        f"{d.op} {d.path}  "
        + (d.reason if d.op == "!" else f"+{d.chunks_added} -{d.chunks_removed} chunks, {d.to_embed} to embed")
        for d in plan.documents
    ]
    ops = [sum(d.op == op for d in plan.documents) for op in "+~-!"]
    lines.append(
        f"{ops[0]} new, {ops[1]} changed, {ops[2]} gone, {ops[3]} refused; {plan.embed} texts to embed with "
        f"{plan.model} ({plan.tokens} tokens, some {plan.seconds:.0f} s), {plan.cached} in the cache"
    )
    lines += [f"ALSO DUE: {sentence}" for sentence in plan.also_due]
    lines += [f"WOULD BE REFUSED: {reason}" for reason in plan.refused_by]
    return "\n".join(lines)
