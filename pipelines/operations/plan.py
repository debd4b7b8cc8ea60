"""The landing folder and the tables in; what the next run would do to documents, chunks and embeddings, out.

Nothing is written and no Spark is started: what is new is parsed (within the limits of a run) and cut here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow.compute as pc

from pipelines.documents.delivery import Delivery, arrivals, delivery_of, refuse_mass_delete
from pipelines.documents.describe import PersonalData, searched
from pipelines.documents.parser_process import Limits, ParserProcess
from pipelines.flow.stage import Context
from pipelines.flow.states import STAGE_RUNS
from pipelines.models.embedders import chunk_limits, embedding_model, text_reader
from pipelines.settings.sections import Settings
from pipelines.vector_index.state import served
from pipelines.vector_index.sync import refuse_mass_delete as refuse_index_delete
from transformations.errors import RefusedError
from transformations.text.chunks import Chunk, chunk_id, chunk_markdown
from transformations.text.language import detect_language

# Before any run here has told: what the default model does on two cores.
_TEXTS_PER_SECOND = 30.0


@dataclass(frozen=True)
class DocumentPlan:
    """One document: "+" new, "~" changed, "-" gone, "!" will be refused; chunks that come and go; texts to embed."""

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
        documents: those that would change.
        embed, cached: texts to be embedded by the settings' model, and texts whose vector is there already.
        tokens: of the texts to be embedded.
        seconds: that embedding would take, at the pace of earlier runs.
        refused_by: the limits that the run would not pass without --force.
    """

    documents: tuple[DocumentPlan, ...]
    model: str
    embed: int
    cached: int
    tokens: int
    seconds: float
    refused_by: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(context: Context) -> Plan:
    """Compare the landing folder with the tables, and what would be served with the embedding cache."""
    with ParserProcess(Limits.of(context.settings.parse)) as parser:
        return _plan(context, parser)


def _plan(context: Context, parser: ParserProcess) -> Plan:
    lake, settings = context.lake, context.settings
    delivery = delivery_of(context)
    chunks = lake.read_arrow("silver.chunks", columns=["chunk_id", "document_id", "text_hash", "token_count"])
    held: dict[str, dict[str, dict[str, Any]]] = {}
    for row in chunks.to_pylist():
        held.setdefault(row["document_id"], {})[row["chunk_id"]] = row
    texts = {row["text_hash"]: row["token_count"] for rows in held.values() for row in rows.values()}
    vectors = _cached(context)
    documents, gone_ids = [], set()
    wanted_elsewhere: dict[str, int] = {}
    gone_texts, new_texts_of = Counter[str](), Counter[str]()
    for last in delivery.gone:
        key = last.document_id
        gone_ids.add(key)
        gone_texts.update(row["text_hash"] for row in held.get(key, {}).values())
        documents.append(DocumentPlan(last.path, "-", chunks_removed=len(held.get(key, {}))))
    for row in arrivals(delivery, settings.ingest, now=context.now):
        if row is None:
            continue
        before = held.get(row["document_id"], {})
        gone_ids.add(row["document_id"])
        cut, reason = _cut(row, parser, settings=settings)
        if cut is None:
            documents.append(DocumentPlan(row["path"], "!", chunks_removed=len(before), reason=reason))
            continue
        ids = {chunk_id(row["document_id"], text_hash=c.text_hash, occurrence=c.occurrence) for c in cut}
        new_texts = {c.text_hash: c.token_count for c in cut}
        if not before:
            new_texts_of.update(c.text_hash for c in cut)
        fresh = {key for key in new_texts if key not in vectors and key not in wanted_elsewhere}
        wanted_elsewhere |= new_texts
        known = delivery.known.get(row["path"])
        documents.append(
            DocumentPlan(
                row["path"],
                "+" if known is None or known.op == "delete" else "~",
                chunks_added=len(ids - before.keys()),
                chunks_removed=len(before.keys() - ids),
                to_embed=len(fresh),
            )
        )
    staying = {r["text_hash"] for key, rows in held.items() if key not in gone_ids for r in rows.values()}
    texts |= wanted_elsewhere
    wanted = staying | wanted_elsewhere.keys()
    missing = wanted - vectors
    return Plan(
        documents=tuple(sorted(documents, key=lambda d: d.path)),
        model=embedding_model(settings).label,
        embed=len(missing),
        cached=len(wanted) - len(missing),
        tokens=sum(texts[key] or 0 for key in missing),
        seconds=round(len(missing) / _pace(context), 1),
        refused_by=tuple(
            _refusals(context, documents, delivery, moved=(gone_texts & new_texts_of).total(), embed=len(missing))
        ),
    )


def _cut(row: dict[str, Any], parser: ParserProcess, *, settings: Settings) -> tuple[list[Chunk] | None, str]:
    if row["_rescued"] is not None:
        return None, str(row["_rescued"])
    document = parser.parse(row["content"] or b"", path=row["path"])
    if document.error is not None or not (document.text or "").strip():
        return None, document.error or "is_not_empty: there is no text"
    refine = settings.refine
    if refine.languages and refine.other_languages == "quarantine":
        language = detect_language(document.text).code
        if language not in refine.languages:
            return None, f"is_in_language: {language}"
    parsed = {"title": None, "text": document.text, "metadata": None}
    told = searched(parsed, PersonalData.of(refine))
    if refine.pii == "quarantine" and told["pii_spans"]:
        return None, f"has_no_personal_data: {len(told['pii_spans'])} places"
    max_tokens, max_characters = chunk_limits(settings)
    count_tokens = text_reader(embedding_model(settings)).count_tokens
    chunks = chunk_markdown(
        told["text"], max_tokens=max_tokens, max_characters=max_characters, count_tokens=count_tokens
    )
    return chunks, ""


def _cached(context: Context) -> set[str]:
    model = embedding_model(context.settings)
    where = {"model": model.name, "revision": model.revision, "instruction": model.instruction}
    rows = context.lake.read_arrow("gold.embeddings", columns=["text_hash", "dimension"], where=where)
    return set(rows.filter(pc.equal(rows["dimension"], model.dimension))["text_hash"].to_pylist())


def _pace(context: Context) -> float:
    """Texts a second of the last runs that embedded something."""
    runs = context.lake.read_arrow(STAGE_RUNS, columns=["counts", "seconds"], where={"stage": "embed-chunks"})
    told = [(dict(run["counts"]).get("computed", 0), run["seconds"]) for run in runs.to_pylist()]
    told = [(computed, seconds) for computed, seconds in told if computed >= 100 and seconds][-3:]
    return sum(c for c, _ in told) / sum(s for _, s in told) if told else _TEXTS_PER_SECOND


def _refusals(
    context: Context, documents: list[DocumentPlan], delivery: Delivery, *, moved: int, embed: int
) -> list[str]:
    """What the limits of the stages would say, asked of the stages themselves."""
    found = []
    try:
        refuse_mass_delete(context, delivery)
    except RefusedError as error:
        found.append(str(error))
    state = served(context.lake, context.settings.index.name)
    vanished = sum(d.chunks_removed for d in documents if d.op in "-!")
    try:
        name = context.settings.index.name
        rows = (state.rows or 0) if state else 0
        refuse_index_delete(context, name, deletes=vanished, rows=rows, moved=lambda: moved)
    except RefusedError as error:
        found.append(str(error))
    limit = context.settings.embedding.max_texts
    if limit is not None and embed > limit and not context.force:
        found.append(f"embed-chunks: {embed} texts would be embedded, embedding.max_texts allows {limit}.")
    return found


def render(plan: Plan) -> str:
    """The plan as text: a line a document, then the sums."""
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
    lines += [f"WOULD BE REFUSED: {reason}" for reason in plan.refused_by]
    return "\n".join(lines)
