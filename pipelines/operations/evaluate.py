"""Evaluates the search: the labelled questions of a workspace and its index in, measures of each question out.

Reads tables and the index, writes nothing, and needs no Spark if tables are folders. The index is read once, batch by
batch: for the chunks of the labelled sections, and for an exact search that the index's own is compared with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.answering.search import Searcher
from pipelines.inference.answer_questions import LABELS, REQUESTS
from pipelines.lakehouse.tables import Lakehouse
from transformations.errors import ConfigurationError
from transformations.metrics.retrieval import hit_at_k, is_in_section, ndcg_at_k, recall_at_k, reciprocal_rank

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Two searches of the same vectors add up in another order.
_SAME_SCORE = 1e-5


@dataclass(frozen=True)
class Question:
    """A question, and the section that answers it; without `heading`, the whole file."""

    question: str
    path: str
    heading: str | None


@dataclass(frozen=True)
class Measures(Question):
    """How the first `k` chunks that were found for a question compare with its section, and with an exact search.

    Attributes:
        relevant: how many chunks of the section the index has. If there are none, every measure is 0.
        hit, reciprocal_rank, recall, ndcg: as in transformations/metrics/retrieval.py, of the first `k`.
        score: the cosine similarity of the chunk at rank `k`; None if so many were not found.
        nearest: the share of the `k` nearest chunks, as an exact search finds them, that are among the first `k`.
    """

    k: int
    relevant: int
    hit: bool
    reciprocal_rank: float
    recall: float
    ndcg: float
    score: float | None
    nearest: float


def evaluate(lake: Lakehouse, searcher: Searcher, *, k: int) -> list[Measures]:
    """Measures of each labelled question at 1 to `k`.

    Raises:
        ConfigurationError: no question of this workspace has a label.
    """
    import numpy as np

    questions = labelled_questions(lake)
    if not questions:
        raise ConfigurationError(
            'evaluate: no question has a label. Ask some that have a "gold": lakeloop answer-questions --questions FILE'
        )
    queries = searcher.embed([each.question for each in questions])
    relevant: list[set[str]] = [set() for _ in questions]
    best = np.full((len(questions), k), -np.inf, dtype=np.float32)
    for batch in filter(len, searcher.rows()):  # a page of a served index may hold its manifest alone
        for each, ids in zip(questions, relevant, strict=True):
            ids.update(_chunks_of(batch, each))
        best = -np.sort(-np.hstack([best, _cosines(queries, batch)]), axis=1)[:, :k]
    measures = []
    for each, query, gold, scores in zip(questions, queries, relevant, best, strict=True):
        hits = searcher.search_vector(query, k=k)
        ranked, there = [hit.chunk_id for hit in hits], scores[np.isfinite(scores)]
        for n in range(1, k + 1):
            among = there[:n]
            near = sum(hit.score >= among[-1] - _SAME_SCORE for hit in hits[:n]) if len(among) else 0
            measures.append(
                Measures(
                    each.question,
                    each.path,
                    each.heading,
                    k=n,
                    relevant=len(gold),
                    hit=hit_at_k(ranked, gold=gold, k=n),
                    reciprocal_rank=reciprocal_rank(ranked[:n], gold=gold),
                    recall=recall_at_k(ranked, gold=gold, k=n),
                    ndcg=ndcg_at_k(ranked, gold=gold, k=n),
                    score=hits[n - 1].score if n <= len(hits) else None,
                    nearest=near / len(among) if len(among) else 0.0,
                )
            )
    return measures


def labelled_questions(lake: Lakehouse) -> list[Question]:
    """Each question that was asked and has a label, with its last label; one that was asked often comes once."""
    asked = lake.read_arrow(REQUESTS, columns=["request_id", "question"]).to_pylist()
    labels = lake.read_arrow(LABELS, columns=["request_id", "label", "label_source", "valid_from"])
    labels = labels.filter(pc.equal(labels["label_source"], "gold")).sort_by("valid_from").to_pylist()
    gold = {row["request_id"]: json.loads(row["label"]) for row in labels}
    found = [
        Question(row["question"], gold[row["request_id"]]["path"], gold[row["request_id"]].get("heading"))
        for row in sorted(asked, key=lambda row: str(row["question"]))
        if row["question"] and gold.get(row["request_id"], {}).get("path")
    ]
    return list(dict.fromkeys(found))


def _chunks_of(batch: pa.RecordBatch, question: Question) -> Iterable[str]:
    rows = batch.filter(pc.equal(batch.column("path"), question.path)).select(["chunk_id", "heading_path"]).to_pylist()
    for row in rows:
        if question.heading is None or is_in_section(
            question.path, row["heading_path"], gold_path=question.path, gold_heading=question.heading
        ):
            yield row["chunk_id"]


def _cosines(queries: NDArray[np.float32], batch: pa.RecordBatch) -> NDArray[np.float32]:
    """Questions × rows."""
    vectors = pc.list_flatten(batch.column("vector")).to_numpy(zero_copy_only=False)
    matrix = vectors.reshape(batch.num_rows, -1)
    found: NDArray[np.float32] = _unit(queries) @ _unit(matrix).T
    return found


def _unit(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    import numpy as np

    lengths: NDArray[np.float32] = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / lengths
