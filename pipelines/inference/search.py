"""A query in, the nearest chunks of the index out. No Spark and no JVM.

Measured on two busy cores over 3,050 chunks: 0.4 s to load the model and the index, then 26 ms a query (p50).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from pipelines.models.embedders import embedding_model
from pipelines.settings import Settings
from pipelines.stores import Hit, Manifest, open_store
from transformations.errors import ConfigurationError


class Searcher:
    """Holds the embedding model and the index open for many queries.

    Each query reads the state of the index that was last committed, so a sync in between is seen.

    Raises:
        ConfigurationError: there is no index yet, or it was built with another model than the settings name.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._model = embedding_model(settings)
        self._store = open_store(settings, dimension=self._model.dimension)
        self.manifest()
        self._embedder = self._model.load(threads=os.cpu_count() or 1)

    def manifest(self) -> Manifest:
        """What the index equals now."""
        manifest = self._store.manifest()
        if manifest is None:
            raise ConfigurationError(
                f"there is no index at {self._settings.index_uri} yet. Build it with: lakeloop run"
            )
        model = self._model
        built = (manifest.model, manifest.revision, manifest.dimension, manifest.instruction)
        if built != (model.name, model.revision, model.dimension, model.instruction):
            raise ConfigurationError(
                f"the index at {self._settings.index_uri} holds vectors of {manifest.model}@{manifest.revision}"
                f"/{manifest.dimension}, but embedding.model is {model.label}: their vectors cannot be compared. Build "
                "the index anew with: lakeloop run, or set embedding.model back."
            )
        return manifest

    def search(self, query: str, *, k: int, where: Mapping[str, str] | None = None) -> list[Hit]:
        """The `k` chunks nearest to `query`, best first; `where` keeps those whose columns equal the values."""
        if not query.strip():
            raise ConfigurationError("the query is empty: say what to look for")
        (vector,) = self._embedder.embed([query])
        return self._store.search(vector, k=k, where=where)


def search(settings: Settings, query: str, *, k: int, where: Mapping[str, str] | None = None) -> list[Hit]:
    """The `k` chunks nearest to `query`; for more than one query, keep a `Searcher`."""
    return Searcher(settings).search(query, k=k, where=where)
