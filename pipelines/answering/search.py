"""Finds the chunks of the index that are nearest to a query. No Spark and no JVM.

Measured on two busy cores over 3,050 chunks: 0.4 s to load the model and the index, then 26 ms a query (p50).
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines.lakehouse.opening import open_lakehouse
from pipelines.lakehouse.session import get_spark
from pipelines.lakehouse.tables import Lakehouse
from pipelines.models.embedders import Embeds, model_named
from pipelines.settings.sections import Settings
from pipelines.stores import Hit, Manifest, Store
from pipelines.vector_index.state import open_served
from transformations.errors import ConfigurationError
from transformations.tables.filters import Filter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# So long may a searcher go on with the index that its alias named before a swap.
_SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True, eq=False)
class _Opened:
    """An index with its model, as a pair. The store is closed with its last user: a thread may still search there."""

    key: tuple[str, str]
    embedder: Embeds
    store: Store

    def __post_init__(self) -> None:
        weakref.finalize(self, self.store.close).atexit = False


class Searcher:
    """Holds the embedding model and the index open for many queries, of many threads.

    A query is embedded by the model of the index that answers it, so that no query meets vectors of another model: not
    even while the alias moves from one to the other (the searcher follows within a second). Each query reads the state
    of the index that was last committed.

    Raises:
        ConfigurationError: there is no index yet.
    """

    def __init__(self, settings: Settings, *, lake: Lakehouse | None = None) -> None:
        self._settings = settings
        self._lake = lake or open_lakehouse(settings, spark=lambda: get_spark(settings))
        self._looking = threading.Lock()
        self._opened = self._look(None)

    def manifest(self) -> Manifest:
        """What the index equals now."""
        opened = self._current()  # held as long as its store is used: another thread may move on
        manifest = opened.store.manifest()
        if manifest is None:
            with self._looking:
                opened = self._opened = self._look(self._opened)
            manifest = opened.store.manifest()
            assert manifest is not None
        return manifest

    def search(self, query: str, *, k: int, where: Filter | None = None) -> list[Hit]:
        """The `k` chunks nearest to `query`, best first; `where` keeps those that pass it."""
        if not query.strip():
            raise ConfigurationError("the query is empty: say what to look for")
        _check_count(k)
        opened = self._current()
        (vector,) = opened.embedder.embed([query])
        return opened.store.search(vector, k=k, where=where)

    def search_vector(self, vector: Sequence[float], *, k: int, where: Filter | None = None) -> list[Hit]:
        """Like `search`, by a vector of the index's model."""
        import numpy as np

        _check_count(k)
        try:
            with np.errstate(over="ignore"):  # what becomes infinite is refused as that
                numbers = np.asarray(vector, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"the query's vector is no list of numbers ({error})") from None
        opened = self._current()
        return opened.store.search(numbers, k=k, where=where)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of the texts by the index's model: float32 [len(texts), dimension]."""
        return self._current().embedder.embed(texts)

    def rows(self) -> Iterator[pa.RecordBatch]:
        """All rows of the index, in no order."""
        opened = self._current()  # held until the last row is read
        yield from opened.store.rows()

    def _current(self) -> _Opened:
        """The served index with its model. One thread looks where the alias points, the others go on meanwhile."""
        if time.monotonic() - self._looked_at > _SECONDS_BETWEEN_LOOKS and self._looking.acquire(blocking=False):
            try:
                self._opened = self._look(self._opened)
            finally:
                self._looking.release()
        return self._opened

    def _look(self, before: _Opened | None) -> _Opened:
        """What the alias points at now: `before` itself, where it still does."""
        state, store, manifest = open_served(self._settings, self._lake)
        self._looked_at = time.monotonic()
        key = (state.index_name, state.uri)
        if before is not None and before.key == key:
            store.close()
            return before
        model = model_named(manifest.model)
        if model.label != manifest.model_label:
            store.close()
            raise ConfigurationError(
                f"the index {state.index_name} at {state.uri} holds vectors of {manifest.model_label}, but here is "
                f"{model.label}: their vectors cannot be compared. Build the index anew with: lakeloop run"
            )
        return _Opened(key, model.load(threads=os.cpu_count() or 1), store)


def _check_count(k: int) -> None:
    if k < 1:
        raise ConfigurationError(f"k is how many chunks to find, so 1 or more, but it is {k}")


def search(settings: Settings, query: str, *, k: int, where: Filter | None = None) -> list[Hit]:
    """The `k` chunks nearest to `query`; for more than one query, keep a `Searcher`."""
    return Searcher(settings).search(query, k=k, where=where)
