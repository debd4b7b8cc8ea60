"""The store for FAISS: an index of any kind over most rows, kept up to date by base, tail and tombstones (segments.py).

Every kind uses the inner product of vectors of norm one. Our own search parameters find at least 0.98 of the ten
nearest among 8,156 real chunks; the option `search` trades recall for time. Kinds from which FAISS could delete are
treated like the others.
"""

from __future__ import annotations

from contextlib import suppress
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
from transformations.errors import ConfigurationError

# With FAISS's own values, 16 and 40, HNSW32 found 0.97.
_EF_SEARCH, _EF_CONSTRUCTION = 256, 200


class FaissOptions(SegmentedOptions):
    built_in: ClassVar[tuple[str, ...]] = ("factory",)

    factory: str = Field(
        "Flat", description='which kind of index, as FAISS\'s index factory names it: "HNSW32" or "IVF256,Flat"'
    )
    search: str = Field("", description='how a search is made, as "efSearch=64" or "nprobe=16"; empty: our own choice')


class FaissStore(SegmentedStore):
    library_name = "faiss"
    options: ClassVar[type[SegmentedOptions]] = FaissOptions
    build_version = 2  # version 1 built HNSW with FAISS's own efConstruction
    capabilities = declare_segments(yes("as the factory string says; Flat, the default, is exact"))

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._own = place.parsed(FaissOptions)

    def _import(self) -> Any:
        return _faiss()

    def _least_rows(self) -> int:
        lists = _faiss().try_extract_index_ivf(self._empty())
        return 0 if lists is None else int(lists.nlist * lists.cp.min_points_per_centroid)

    def _build(self, vectors: NDArray[np.float32], path: Path) -> None:
        index = self._empty()
        with suppress(RuntimeError):  # this kind does not have the parameter
            _faiss().ParameterSpace().set_index_parameter(index, "efConstruction", _EF_CONSTRUCTION)
        index.train(vectors)
        index.add(vectors)
        _faiss().write_index(index, str(path))

    def _load(self, path: Path) -> Any:
        faiss = _faiss()
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        lists = faiss.try_extract_index_ivf(index)
        if lists is not None:
            # By default FAISS looks into a single list; with half of the lists it found 0.97.
            lists.nprobe = min(lists.nlist, max(8, 3 * lists.nlist // 4))
        with suppress(RuntimeError):  # this kind does not have the parameter
            faiss.ParameterSpace().set_index_parameter(index, "efSearch", _EF_SEARCH)
        try:
            faiss.ParameterSpace().set_index_parameters(index, self._own.search)
        except RuntimeError as error:
            raise ConfigurationError(
                f"index.options.search is {self._own.search!r}, which FAISS does not take for "
                f"{self._own.factory!r}: {error}"
            ) from None
        return index, _parameters(index)

    def _ask(self, index: Any, query: NDArray[np.float32], *, count: int, among: Mask) -> Positions:
        index, parameters = index
        options = {}
        if parameters is not None and not among.all():
            kind, values = parameters
            options["params"] = kind(sel=_faiss().IDSelectorBitmap(np.packbits(among, bitorder="little")), **values)
        found = index.search(query[np.newaxis], count, **options)[1][0]
        return np.asarray(found[found >= 0])

    def _empty(self) -> Any:
        faiss = _faiss()
        try:
            return faiss.index_factory(self._dimension, self._own.factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise ConfigurationError(
                f"index.options.factory is {self._own.factory!r}, which FAISS cannot make for vectors of "
                f"dimension {self._dimension} and inner product: {error}"
            ) from None


def _parameters(index: Any) -> tuple[Any, dict[str, int]] | None:
    """The parameters that restrict a search of this kind of index to some rows; None if the kind takes none."""
    faiss = _faiss()
    lists = faiss.try_extract_index_ivf(index)
    kind, values = (
        (faiss.SearchParameters, {}) if lists is None else (faiss.SearchParametersIVF, {"nprobe": lists.nprobe})
    )
    try:
        index.search(np.zeros((1, index.d), np.float32), 1, params=kind(sel=faiss.IDSelectorAll(), **values))
    except RuntimeError:
        return None
    return kind, values


@cache
def _faiss() -> Any:
    return library("faiss", distribution="faiss-cpu", minimum="1.13", extra="faiss")
