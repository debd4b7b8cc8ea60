"""Writes batches of rows to a store: it waits for a busy store, and finds the bad rows of a refused batch."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.settings.sections import Settings
from pipelines.stores import Store, StoreUnavailableError, open_store
from transformations.errors import LakeloopError
from transformations.index.vectors import deletable, refusals

log = logging.getLogger(__name__)
ROWS_PER_CALL = 20_000
_BYTES_PER_CALL = 128 * 1024 * 1024
# If this many single rows are refused in a row, the store itself may be the cause; a plain row then shows it.
_POISON_IN_A_ROW = 8
_LONGEST_WAIT = 30.0


class IndexWriter:
    """Writes to one store.

    Args:
        check: called before each call of the store; raises if the writer may no longer write.
        patience: seconds that a store may be unavailable before the writer gives up.

    Attributes:
        refused: chunk_id → why the row was not written.
        written: number of rows written.
        size: their bytes in Arrow.
        calls: number of calls of the store.
    """

    def __init__(
        self,
        store: Store,
        *,
        dimension: int,
        check: Callable[[], None] = lambda: None,
        patience: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store, self._dimension, self._check = store, dimension, check
        self._patience, self._sleep = patience, sleep
        self._failures = 0
        self.refused: dict[str, str] = {}
        self.written = self.size = self.calls = 0

    def upsert(self, batches: Iterable[pa.RecordBatch], *, schema: pa.Schema, are_new: bool = False) -> Iterator[int]:
        """Write the rows, some 20,000 in each call; yields after each call how many it wrote.

        Args:
            are_new: the index has none of these rows, as in `Store.upsert`.
        """
        for rows in _packed(batches, schema=schema):
            bad = refusals(rows, dimension=self._dimension, limits=self._store.limits)
            if bad:
                log.warning("%s rows cannot be in the index, as %s: %s", len(bad), *next(iter(bad.items())))
                self.refused |= bad
                rows = rows.filter(pc.invert(pc.is_in(rows["chunk_id"], pa.array(list(bad), pa.string()))))
            before = self.written
            if rows.num_rows:
                self._upsert(rows, are_new=are_new)
            yield self.written - before

    def delete(self, ids: Sequence[str]) -> None:
        """Delete by id, some 20,000 in each call. Ids that the store cannot hold are left out: it has none of them."""
        ids = deletable(ids, limits=self._store.limits)
        for start in range(0, len(ids), ROWS_PER_CALL):
            part = ids[start : start + ROWS_PER_CALL]
            self._patiently(lambda part=part: self._store.delete(part))  # type: ignore[misc]

    def _upsert(self, rows: pa.Table, *, are_new: bool = False) -> None:
        tries = iter([are_new])  # only the first try may say that rows are new: a call that failed may have stored them
        try:
            refused = self._patiently(lambda: self._store.upsert(rows, are_new=next(tries, False)))
        except LakeloopError:
            raise
        except Exception as error:
            if rows.num_rows > 1:
                log.warning("a batch of %s rows was refused (%s); trying its halves", rows.num_rows, _brief(error))
                half = rows.num_rows // 2
                self._upsert(rows.slice(0, half))
                self._upsert(rows.slice(half))
                return
            self._failures += 1
            if self._failures >= _POISON_IN_A_ROW:
                self._check_store(rows, error)
                self._failures = 0
            self.refused[rows["chunk_id"][0].as_py()] = _brief(error)
            return
        self._failures = 0
        self.refused |= refused
        self.written += rows.num_rows - len(refused)
        self.size += rows.nbytes

    def _check_store(self, refused: pa.Table, error: Exception) -> None:
        """Raises `error` if the store refuses a plain row too: then the store is the cause, and no row is.

        The plain row has the id of the refused row, which nobody else writes, and a vector that no text has. It is
        deleted at once; an older version of the refused row is deleted later anyway.
        """
        plain: dict[str, object] = dict.fromkeys(refused.column_names, "-")
        plain |= {"heading_path": [], "vector": [1.0] + [0.0] * (self._dimension - 1)}
        plain["chunk_id"] = chunk_id = refused["chunk_id"][0].as_py()
        rows = pa.Table.from_pylist([plain], schema=refused.schema)
        try:
            is_refused = bool(self._patiently(lambda: self._store.upsert(rows)))
        except LakeloopError:
            raise
        except Exception:
            is_refused = True
        if is_refused:
            raise error
        self.delete([chunk_id])
        log.warning("%s rows in a row were refused, and a plain one was not: it is the rows", _POISON_IN_A_ROW)

    def _patiently(self, call: Callable[[], object]) -> dict[str, str]:
        """Call, and call again while the store is unavailable: after the time that it asks for, or after ever longer
        pauses. What a store's own client waits counts, too, but never so that no second try is made."""
        waited, pause, tries = 0.0, 0.5, 0
        while True:
            tries += 1
            self._check()
            begun = time.monotonic()
            try:
                self.calls += 1
                answer = call()
                return dict(answer) if isinstance(answer, dict) else {}
            except StoreUnavailableError as error:
                waited += time.monotonic() - begun
                wait = min(error.retry_after or pause * random.uniform(0.75, 1.25), _LONGEST_WAIT)  # noqa: S311
                if wait > self._patience or (tries > 1 and waited + wait > self._patience):
                    raise
                log.warning("%s; trying again in %.1f s", error, wait)
                self._sleep(wait)
                waited, pause = waited + wait, min(pause * 2, _LONGEST_WAIT)


def write_on_executors(
    settings: Settings, *, name: str, dimension: int
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function for `mapInArrow`: rows → (chunk_id, reason) of refused rows; the last row of each partition has the
    counts, and a null chunk_id."""

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        store = open_store(settings, dimension=dimension, name=name)
        writer = IndexWriter(store, dimension=dimension, patience=settings.index.patience_seconds)
        from pipelines.lakehouse.schemas import INDEX_SCHEMA

        for _ in writer.upsert(batches, schema=INDEX_SCHEMA):
            pass
        store.close()
        ids = [*writer.refused, None]
        reasons = [*writer.refused.values(), f"{writer.written} {writer.size}"]
        yield pa.RecordBatch.from_pydict({"chunk_id": pa.array(ids, pa.string()), "reason": reasons})

    return write


def _packed(batches: Iterable[pa.RecordBatch], *, schema: pa.Schema) -> Iterator[pa.Table]:
    """Join batches to tables of one piece each: for many small pieces a store does much more work."""
    waiting: list[pa.RecordBatch] = []
    count = size = 0
    for batch in batches:
        for part in _portions(pa.Table.from_batches([batch]).select(schema.names).cast(schema)):
            waiting += part.to_batches()
            count, size = count + part.num_rows, size + part.nbytes
            while count >= ROWS_PER_CALL or (size >= _BYTES_PER_CALL and count):
                rows = pa.Table.from_batches(waiting, schema=schema)
                yield rows.slice(0, ROWS_PER_CALL).combine_chunks()
                rest = rows.slice(ROWS_PER_CALL)
                waiting, count, size = rest.to_batches(), rest.num_rows, rest.nbytes
    if count:
        yield pa.Table.from_batches(waiting, schema=schema).combine_chunks()


def _portions(rows: pa.Table) -> Iterator[pa.Table]:
    """`rows` in portions of at most `_BYTES_PER_CALL`, or of one row."""
    if rows.nbytes <= _BYTES_PER_CALL or rows.num_rows < 2:
        yield rows
        return
    half = rows.num_rows // 2
    yield from _portions(rows.slice(0, half))
    yield from _portions(rows.slice(half))


def _brief(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300] if text else ''}"
