"""Nothing is few: what would be done in memory goes through Spark, which must give the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipelines.gold import embed_chunks
from pipelines.lakehouse.folders import FolderLakehouse


@contextmanager
def by_spark() -> Iterator[None]:
    """Within this block no rows of a table in a folder are held in memory, and no vectors."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("few_changes", "few_keys", "few_rows"):
            patch.setattr(FolderLakehouse, name, lambda *_, **__: None)
        patch.setattr(embed_chunks, "_are_held", lambda *_: False)
        yield
