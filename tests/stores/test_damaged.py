"""A file of an index on disk that is missing or cut: the error names the index and what brings it back."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.settings.sections import Settings
from pipelines.stores import open_store
from tests.stores.rows import DIMENSION, manifest, row, table, vector
from transformations.errors import DamagedTableError


@pytest.mark.parametrize("left", [None, 0, 0.5], ids=["missing", "empty", "cut"])
@pytest.mark.parametrize(("store", "file"), [("lance", "data/*.lance"), ("faiss", "rows-*.arrow")])
def test_a_broken_file_of_rows_is_named_by_every_read(store: str, file: str, left: float | None, tmp_path: Path):
    settings = Settings(root=tmp_path, index={"store": store})
    rows = [row(n) for n in range(30)]
    index = open_store(settings, dimension=DIMENSION)
    index.upsert(table(rows))
    index.commit(manifest(rows), expected=None)
    index.close()
    (path,) = Path(settings.index_uri).glob(f"*/{file}")
    content = path.read_bytes()
    path.unlink()
    if left is not None:
        path.write_bytes(content[: int(len(content) * left)])
    for read in (
        *([lambda index: index.manifest()] if left is None else []),  # what an idle run reads
        lambda index: index.search(vector(1), k=3),
        lambda index: list(index.rows()),
        lambda index: list(index.ids_with_hashes()),
    ):
        with pytest.raises(
            DamagedTableError, match=rf"chunks\.{store} is damaged: .* remove it, and run: lakeloop sync"
        ):
            read(open_store(settings, dimension=DIMENSION))
