"""The index of a feature table in memory: its search against numpy's, and keys and instants of any size."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from transformations.features.as_of_index import Ascending, AsOfIndex

NUMBERS = st.one_of(st.integers(0, 50), st.integers(0, 2**62 - 1))


@settings(deadline=None)
@given(st.lists(NUMBERS), st.lists(NUMBERS))
def test_the_grid_finds_what_a_binary_search_finds(values: list[int], sought: list[int]):
    ascending = np.sort(np.array(values, np.int64))
    wanted = np.array([*sought, *values], np.int64)
    found = Ascending.of(ascending).count_up_to(wanted)
    assert found.tolist() == np.searchsorted(ascending, wanted, side="right").tolist()


INSTANTS = st.one_of(st.integers(-20, 20), st.sampled_from([-(2**61), -(10**15), 10**15, 2**61]))
ENTITIES = st.tuples(st.sampled_from(["a", "b", "ü"]), st.sampled_from([-1, 0, 2**40]))


@settings(deadline=None)
@given(
    st.lists(st.tuples(ENTITIES, INSTANTS, INSTANTS), max_size=12),
    st.lists(st.tuples(ENTITIES, st.one_of(st.none(), INSTANTS)), min_size=1, max_size=12),
)
def test_a_lookup_finds_the_newest_row_that_had_happened_and_was_known(features, asked):
    rows = pa.table(
        {
            "name": pa.array([e[0] for e, _, _ in features], pa.string()),
            "number": pa.array([e[1] for e, _, _ in features], pa.int64()),
            "_happened_at": pa.array([h for _, h, _ in features], pa.int64()),
            "_known_at": pa.array([k for _, _, k in features], pa.int64()),
            "_usable_at": pa.array([max(h, k) for _, h, k in features], pa.int64()),
            "_tie": pa.array([0] * len(features), pa.int64()),
            "row": pa.array([f"{h} {k}" for _, h, k in features], pa.string()),
        }
    )
    index = AsOfIndex.build(rows, entity=["name", "number"], columns=["row"], max_age=None)
    (found,) = index.find(
        pa.array([at for _, at in asked], pa.int64()),
        pa.array([e[0] for e, _ in asked]),
        pa.array([e[1] for e, _ in asked]),
    )
    for (entity, at), result in zip(asked, found.to_pylist(), strict=True):
        usable = [(h, k) for e, h, k in features if e == entity and at is not None and max(h, k) <= at]
        assert result == (f"{max(usable)[0]} {max(usable)[1]}" if usable else None)
