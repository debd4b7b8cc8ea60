"""A version that a table does not have, asked for in Python: an error of lakeloop, as everywhere."""

from pathlib import Path

import pytest

import lakeloop
from pipelines.conductor.run import new_context


@pytest.mark.parametrize("version", [-1, 1, 99])
def test_a_version_that_is_not_there_is_an_error_that_says_which_are(tmp_path: Path, version: int) -> None:
    (tmp_path / "lakeloop.yml").write_text("{}\n", encoding="utf-8")
    workspace = lakeloop.open(tmp_path)
    new_context(workspace.settings).lake.ensure("silver.documents")
    table = workspace.tables["silver.documents"]
    assert table.to_arrow(version=0).num_rows == 0
    with pytest.raises(lakeloop.LakeloopError, match=f"no version {version}: its versions are 0 to 0"):
        table.to_pandas(version=version)
