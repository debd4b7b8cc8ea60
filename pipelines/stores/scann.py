"""The store for ScaNN: a partition tree with hashed vectors, kept up to date by base, tail and tombstones.

The index keeps only hashes. So each hit takes ten candidates, which are then ordered by the stored vectors
(segments.py). A search of fewer leaves is faster and finds less: of the ten nearest among 8,156 real chunks, half of
the leaves had 0.96 and a tenth of them 0.80.
"""

from __future__ import annotations

import sys
from functools import cache
from math import isqrt
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
from transformations.errors import MissingDependencyError


class ScannOptions(SegmentedOptions):
    built_in: ClassVar[tuple[str, ...]] = ("leaves",)

    leaves: int = Field(0, ge=0, description="how many leaves its tree has; 0: the square root of the number of rows")
    leaves_to_search: int = Field(0, ge=0, description="how many leaves a search looks at; 0: all")
    candidates: int = Field(
        10, ge=1, description="how many are asked of the base for each hit, since its index keeps hashes only"
    )


class ScannStore(SegmentedStore):
    library_name = "scann"
    options: ClassVar[type[SegmentedOptions]] = ScannOptions
    capabilities = declare_segments(yes("the base's candidates are; exact below `base_rows`"))

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._own = place.parsed(ScannOptions)

    def _import(self) -> Any:
        return _scann()

    def _least_rows(self) -> int:
        # A hash distinguishes 16 centres, and each should stand for several rows.
        return max(256, self._own.leaves)

    def _build(self, vectors: NDArray[np.float32], path: Path) -> None:
        leaves = self._own.leaves or isqrt(len(vectors))
        builder = _scann().builder(vectors, 10, "dot_product")
        builder = builder.tree(num_leaves=leaves, num_leaves_to_search=leaves)
        index = builder.score_ah(2, anisotropic_quantization_threshold=0.2).build()
        path.mkdir()
        index.serialize(str(path), relative_path=True)

    def _load(self, path: Path) -> Any:
        return _scann().load_searcher(str(path))

    def _ask(self, index: Any, query: NDArray[np.float32], *, count: int, among: Mask) -> Positions:
        # A number above that of the leaves means all; -1 would mean the number chosen when the base was built.
        leaves = self._own.leaves_to_search or len(among)
        found, _ = index.search(query, final_num_neighbors=count, leaves_to_search=leaves)
        return np.asarray(found, dtype=np.intp)


@cache
def _scann() -> Any:
    if sys.platform != "linux":
        raise MissingDependencyError("ScaNN is published for Linux only. Set index.store to another library, as faiss.")
    return library("scann", distribution="scann", minimum="1.4.2", extra="scann").scann_ops_pybind
