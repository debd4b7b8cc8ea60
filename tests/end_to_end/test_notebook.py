"""The cells that README.md and docs/index.md show, in a real Jupyter kernel, on a real workspace."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[2]
OPEN = 'import lakeloop\nworkspace = lakeloop.open("build/demo")\n'
ADD = 'open("build/demo/landing/d.rst", "w").write("d\\n=\\n\\nNew.\\n")\nworkspace.run()\n'
SEARCH = 'workspace.search("an empty folder")'


def _cells(page: str) -> list[str]:
    """The Python blocks of a page that do something with a workspace."""
    blocks: list[str] = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    return [block for block in blocks if "workspace" in block]


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NotebookClient:
    """An empty notebook beside a workspace of the name that README.md gives, with three documents that wait."""
    folder = tmp_path / "build" / "demo"
    (folder / "landing").mkdir(parents=True)
    for name in ("a", "b", "c"):
        text = f"{name}\n=\n\nAn empty folder for a test is made by {name}_path.\n"
        (folder / "landing" / f"{name}.rst").write_text(text, encoding="utf-8")
    (folder / "lakeloop.yml").write_text("index: {name: chunks}\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(entry for entry in sys.path if entry))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    empty = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    return NotebookClient(empty, timeout=240, resources={"metadata": {"path": str(tmp_path)}})


def _run(notebook: NotebookClient, *cells: str) -> list[str]:
    """Run cells in a new kernel; returns what each showed as text."""
    notebook.nb.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    notebook.execute()
    shown = [[o.get("text") or o.get("data", {}).get("text/plain", "") for o in c.outputs] for c in notebook.nb.cells]
    return ["".join(parts) for parts in shown]


@pytest.mark.long
def test_the_cells_of_the_pages_run_in_a_notebook(notebook: NotebookClient):
    readme, (search, tables) = _cells("README.md"), _cells("docs/index.md")
    stages = "[stage.stage for stage in workspace.run().stages]"
    answer = (
        '{hit.path for hit in workspace.ask("What makes an empty folder for a test?").sources} > {"a.rst", "b.rst"}'
    )
    shown = _run(notebook, OPEN + stages, ADD, "%cd build/demo", search, tables, answer, "%cd ../..", *readme)
    assert "'embed-chunks',\n 'sync-index'" in shown[0]
    assert re.match(r"[abc]\.rst \('[abc]',\) 0\.\d+", shown[3]), shown[3]
    assert "DataFrame[language: string, count: bigint]" in shown[4]
    assert shown[5] == "True"
    assert "d.rst" in shown[-1]


@pytest.mark.long
def test_an_error_in_a_notebook_says_what_to_do_and_the_next_cell_goes_on(notebook: NotebookClient):
    with pytest.raises(CellExecutionError, match="lakeloop run") as raised:
        _run(notebook, OPEN + SEARCH)
    assert raised.value.ename == "ConfigurationError"
    tried = f"try:\n    {SEARCH}\nexcept lakeloop.LakeloopError as error:\n    print(error)"
    shown = _run(notebook, OPEN, tried, f"workspace.run()\n[hit.path for hit in {SEARCH}][:1]")
    assert "lakeloop run" in shown[1]
    assert re.match(r"\['[abc]\.rst'\]", shown[2])
