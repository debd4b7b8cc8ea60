"""Ranked ids and the ids that should have been found in, measures of the search out.

The definitions are those of NIST's trec_eval (`success`, `recip_rank`, `recall`, `ndcg_cut`), with which the tests
compare. Ranks count from
1; an id that was retrieved twice counts at its first place.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from math import log2

_MARKS = re.compile(r"[`*]|(?<!\w)_+|_+(?!\w)")


def hit_at_k(ranked: Sequence[str], *, gold: Collection[str], k: int) -> bool:
    """Whether one of the first `k` ids is in `gold` (trec_eval: success_k).

    >>> hit_at_k(["a", "b"], gold={"b"}, k=1), hit_at_k(["a", "b"], gold={"b"}, k=2)
    (False, True)
    """
    return any(item in gold for item in ranked[:k])


def reciprocal_rank(ranked: Sequence[str], *, gold: Collection[str]) -> float:
    """1 / rank of the first id that is in `gold`, 0 if there is none (trec_eval: recip_rank).

    >>> reciprocal_rank(["a", "b"], gold={"b"})
    0.5
    """
    return next((1 / rank for rank, item in enumerate(ranked, start=1) if item in gold), 0.0)


def recall_at_k(ranked: Sequence[str], *, gold: Collection[str], k: int) -> float:
    """The share of `gold` that is among the first `k` ids (trec_eval: recall_k); 0 if `gold` is empty.

    >>> recall_at_k(["a", "b", "c"], gold={"b", "z"}, k=2)
    0.5
    """
    return len({*ranked[:k]} & {*gold}) / len(gold) if gold else 0.0


def ndcg_at_k(ranked: Sequence[str], *, gold: Collection[str], k: int) -> float:
    """How high the ids of `gold` are among the first `k`: 1 if all of them come first (trec_eval: ndcg_cut_k).

    An id at rank r counts 1 / log2(r + 1); the sum is divided by the greatest possible one. 0 if `gold` is empty.

    >>> ndcg_at_k(["a", "b"], gold={"a"}, k=2), round(ndcg_at_k(["b", "a"], gold={"a"}, k=2), 3)
    (1.0, 0.631)
    """
    firsts = [*dict.fromkeys(ranked)][:k]
    gained = sum(1 / log2(rank + 1) for rank, item in enumerate(firsts, start=1) if item in gold)
    best = sum(1 / log2(rank + 1) for rank in range(1, min(k, len(gold)) + 1))
    return gained / best if best else 0.0


def mean(values: Iterable[float]) -> float | None:
    """The mean of `values`, one for each question; None if there are none. MRR is the mean of the reciprocal ranks.

    >>> mean([1.0, 0.5]), mean([])
    (0.75, None)
    """
    found = list(values)
    return sum(found) / len(found) if found else None


def is_in_section(path: str, heading_path: Sequence[str], *, gold_path: str, gold_heading: str) -> bool:
    """Whether a chunk stands in the gold section: in its file, below its heading. Subsections belong to the section.

    Headings are compared without Markdown's marks, blanks and case: formats write them differently.

    >>> is_in_section("a.md", ["Guide", "The `k` option"], gold_path="a.md", gold_heading="The k option")
    True
    """
    wanted = _plain(gold_heading)
    return path == gold_path and any(_plain(heading) == wanted for heading in heading_path)


def _plain(heading: str) -> str:
    return " ".join(_MARKS.sub("", heading.replace("\\", "")).split()).casefold()
