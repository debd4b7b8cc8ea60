"""Rows in, an Annoy forest out, kept in step by base, tail and tombstones (segments.py).

Options: `trees` (more take more room, and share the nodes of a search among them), `search_k` (nodes looked at in a
search; 0 is three for each row). Of the ten nearest among 8,156 real chunks that finds 0.99; Annoy's own choice, the
number of trees times that of candidates, found 0.83 by fifty trees.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipelines.stores.capabilities import yes
from pipelines.stores.libraries import library
from pipelines.stores.segment_view import Mask, Positions
from pipelines.stores.segments import Option, SegmentedStore, declare_segments

_NODES_PER_ROW = 3


class AnnoyStore(SegmentedStore):
    library_name = "annoy"
    build_options: ClassVar[Mapping[str, Option]] = {"trees": 10}
    search_options: ClassVar[Mapping[str, Option]] = {"search_k": 0}
    capabilities = declare_segments(yes("the base's candidates are; exact below `base_rows`"))

    def _import(self) -> Any:
        return _annoy()

    def _build(self, vectors: NDArray[np.float32], path: Path) -> None:
        index = self._empty()
        for position, vector in enumerate(vectors):
            index.add_item(position, vector)
        index.build(int(self._options["trees"]))
        index.save(str(path))

    def _load(self, path: Path) -> Any:
        index = self._empty()
        index.load(str(path))
        return index

    def _ask(self, index: Any, query: NDArray[np.float32], *, count: int, among: Mask) -> Positions:
        nodes = int(self._options["search_k"]) or _NODES_PER_ROW * index.get_n_items()
        return np.array(index.get_nns_by_vector(query, count, nodes), dtype=np.intp)

    def _empty(self) -> Any:
        return _annoy().AnnoyIndex(self._dimension, "angular")


@cache
def _annoy() -> Any:
    return library("annoy", distribution="annoy", minimum="1.17.3", extra="annoy")
