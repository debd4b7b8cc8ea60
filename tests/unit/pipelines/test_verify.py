"""`verify` where there is nothing to compare with: what it names, and the command for it. No JVM is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.conductor.run import new_context
from pipelines.operations.verify import Difference, verify
from pipelines.settings.sections import Settings


@pytest.mark.parametrize("name", ["chunks", "documents", "docs"])
def test_an_index_that_is_not_there_is_named_with_its_remedy_whatever_its_name(tmp_path: Path, name: str):
    (tmp_path / "landing").mkdir()
    context = new_context(Settings(root=tmp_path, index={"name": name}))
    context.lake.append_arrow("silver.chunks", [{"chunk_id": "one"}])
    result = verify(context)
    assert result.differences == (Difference("index", "manifest", name, "there is no index"),)
    assert result.remedies == ["lakeloop run"]
