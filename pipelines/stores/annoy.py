"""The store for Annoy: a forest over most rows, kept up to date by base, tail and tombstones (segments.py).

A search looks at three nodes for each row of the index, and so finds 0.99 of the ten nearest among 8,156 real chunks.
Annoy's own choice, the number of trees times the number of candidates, found 0.83 with fifty trees.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipelines.stores.capabilities import yes
from pipelines.stores.libraries import library
from pipelines.stores.place import Place
from pipelines.stores.segment_view import Mask, Positions
from pipelines.stores.segments import SegmentedOptions, SegmentedStore, declare_segments

_NODES_PER_ROW = 3


class AnnoyOptions(SegmentedOptions):
    built_in: ClassVar[tuple[str, ...]] = ("trees",)

    trees: int = Field(
        10, ge=1, description="how many trees; more take more room, and share the nodes of a search among them"
    )
    search_k: int = Field(0, ge=0, description="how many nodes a search looks at; 0: three for each row")


class AnnoyStore(SegmentedStore):
    library_name = "annoy"
    options: ClassVar[type[SegmentedOptions]] = AnnoyOptions
    capabilities = declare_segments(yes("the base's candidates are; exact below `base_rows`"))

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._own = place.parsed(AnnoyOptions)

    def _import(self) -> Any:
        return _annoy()

    def _build(self, vectors: NDArray[np.float32], path: Path) -> None:
        index = self._empty()
        for position, vector in enumerate(vectors):
            index.add_item(position, vector)
        index.build(self._own.trees)
        index.save(str(path))

    def _load(self, path: Path) -> Any:
        index = self._empty()
        index.load(str(path))
        return index

    def _ask(self, index: Any, query: NDArray[np.float32], *, count: int, among: Mask) -> Positions:
        nodes = self._own.search_k or _NODES_PER_ROW * index.get_n_items()
        return np.array(index.get_nns_by_vector(query, count, nodes), dtype=np.intp)

    def _empty(self) -> Any:
        return _annoy().AnnoyIndex(self._dimension, "angular")


@cache
def _annoy() -> Any:
    return library("annoy", distribution="annoy", minimum="1.17.3", extra="annoy")
