"""Ranked ids and the ids that should have been found in, measures of the search out.

The definitions are those of NIST's trec_eval (`success`, `recip_rank`), with which the tests compare. Ranks count from
1; an id that was retrieved twice counts at its first place.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

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
