"""Keeps ops.dead_letters: the items that a stage could not apply.

A letter is open until its item is applied or no longer wanted. The rest of a run goes on without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pyarrow as pa

from pipelines.flow.stage import Context
from pipelines.lakehouse.tables import Lakehouse

TABLE = "ops.dead_letters"
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(minutes=5), timedelta(days=1)
# After this many tries, almost a day of pauses has passed.
_MOST_ATTEMPTS = 9


@dataclass(frozen=True)
class Failure:
    """One item that failed. `index_name` is "" if it failed before any index."""

    stage: str
    model: str
    chunk_id: str
    error: str
    index_name: str = ""
    document_id: str | None = None
    text_hash: str | None = None
    version: int | None = None

    @property
    def letter_id(self) -> str:
        place = "\x1f".join((self.stage, self.index_name, self.model, self.chunk_id))
        return hashlib.sha256(place.encode()).hexdigest()[:32]


def open_letters(lake: Lakehouse, *, stage: str | None = None, **where: str) -> list[dict[str, Any]]:
    """The open letters, of one stage if it is given, and with the values of further columns (model, index_name)."""
    wanted = {"resolved_at": None, **({"stage": stage} if stage else {}), **where}
    rows: list[dict[str, Any]] = lake.read_arrow(TABLE, where=wanted).to_pylist()
    return rows


def to_retry(context: Context, letters: Iterable[Mapping[str, Any]]) -> list[str]:
    """The chunk_ids of the letters whose next try is due; of all letters if the run retries everything."""
    now = context.now()
    return [letter["chunk_id"] for letter in letters if context.retry or letter["next_retry_at"] <= now]


def is_overdue(context: Context, letters: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a run with nothing else to do should try one of the letters again."""
    return bool(to_retry(context, (letter for letter in letters if not waits_for_work(letter))))


def waits_for_work(letter: Mapping[str, Any]) -> bool:
    """Whether only `lakeloop replay`, or a run that has other work, tries the letter again.

    A model that gave no answer may give one later, so its letters are retried, but only nine times. A row that an index
    has refused waits from the start: a sync with nothing else to do would only send the same row again.
    """
    return bool(letter["index_name"]) or (letter["attempts"] or 0) >= _MOST_ATTEMPTS


def report(
    context: Context, failures: Iterable[Failure], *, resolved: Collection[str] = (), known: Iterable[Mapping[str, Any]]
) -> int:
    """Write letters for `failures`, close those of `known` with a chunk_id in `resolved`. Returns how many failed."""
    before = {row["letter_id"]: dict(row) for row in known}
    now = context.now()
    rows: dict[str, dict[str, Any]] = {}
    for failure in failures:
        old = before.get(failure.letter_id)
        attempts = (old["attempts"] if old else 0) + 1
        rows[failure.letter_id] = {
            "letter_id": failure.letter_id,
            "stage": failure.stage,
            "index_name": failure.index_name,
            "model": failure.model,
            "chunk_id": failure.chunk_id,
            "document_id": failure.document_id,
            "text_hash": failure.text_hash,
            "error": failure.error,
            "attempts": attempts,
            "next_retry_at": now + min(_FIRST_PAUSE * 2 ** (attempts - 1), _LONGEST_PAUSE),
            "first_version": old["first_version"] if old else failure.version,
            "failed_at": now,
            "resolved_at": None,
            "_run_id": context.run_id,
        }
    failed = len(rows)
    for letter_id, old in before.items():
        if letter_id not in rows and old["chunk_id"] in resolved:
            rows[letter_id] = {**old, "resolved_at": now, "_run_id": context.run_id}
    if rows:
        spec = context.lake.spec(TABLE)
        changes = pa.Table.from_pylist(list(rows.values()), schema=spec.schema)
        context.lake.merge_arrow(TABLE, changes.append_column("_op", pa.array(["update"] * len(rows), pa.string())))
    return failed
