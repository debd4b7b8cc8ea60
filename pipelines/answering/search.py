"""`Searcher`: finds the chunks of the index that are nearest to a query. No Spark and no JVM if tables are folders.

Measured on two busy cores over 3,050 chunks: 0.4 s to load the model and the index, then 26 ms per query (p50).
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

# A searcher may use the old index for this long after a swap.
_SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True, eq=False)
class _Opened:
    """An open index and its model. The store is closed when no thread refers to this any more, and may search there."""

    key: tuple[str, str]
    embedder: Embeds
    store: Store

    def __post_init__(self) -> None:
        weakref.finalize(self, self.store.close).atexit = False


class Searcher:
    """Keeps the embedding model and the index open, for many queries from many threads.

    A query is always embedded by the model of the index that is searched, also while the alias moves to an index of
    another model; the searcher follows such a swap within about a second. Each query reads the last committed state of
    the index.

    Raises:
        ConfigurationError: there is no index yet, or its vectors are of another model than the one that is here.
    """

    def __init__(self, settings: Settings, *, lake: Lakehouse | None = None) -> None:
        self._settings = settings
        self._lake = lake or open_lakehouse(settings, spark=lambda: get_spark(settings))
        self._looking = threading.Lock()
        self._opened = self._look(None)

    def manifest(self) -> Manifest:
        """The manifest of the index now: which version of which table it equals, and its model."""
        opened = self._current()  # this reference keeps the store open, even if another thread moves on
        manifest = opened.store.manifest()
        if manifest is None:
            with self._looking:
                opened = self._opened = self._look(self._opened)
            manifest = opened.store.manifest()
            assert manifest is not None
        return manifest

    def search(self, query: str, *, k: int, where: Filter | None = None) -> list[Hit]:
        """The `k` chunks nearest to `query`, best first, of those that pass `where`.

        Raises:
            ConfigurationError: the query is empty, or `k` is less than 1.
        """
        if not query.strip():
            raise ConfigurationError("the query is empty: say what to look for")
        _check_count(k)
        opened = self._current()
        (vector,) = opened.embedder.embed([query])
        return opened.store.search(vector, k=k, where=where)

    def search_vector(self, vector: Sequence[float], *, k: int, where: Filter | None = None) -> list[Hit]:
        """Like `search`, with a vector of the index's model instead of a text."""
        import numpy as np

        _check_count(k)
        try:
            with np.errstate(over="ignore"):  # the store refuses infinite numbers
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
        opened = self._current()  # this reference keeps the store open until the last row is read
        yield from opened.store.rows()

    def _current(self) -> _Opened:
        """The served index with its model. One thread checks where the alias points; the others do not wait for it."""
        if time.monotonic() - self._looked_at > _SECONDS_BETWEEN_LOOKS and self._looking.acquire(blocking=False):
            try:
                self._opened = self._look(self._opened)
            finally:
                self._looking.release()
        return self._opened

    def _look(self, before: _Opened | None) -> _Opened:
        """The index that the alias points at now; `before` itself, if it still points there."""
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
