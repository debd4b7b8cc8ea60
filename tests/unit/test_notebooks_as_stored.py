"""The notebooks as they are stored: no outputs, no logic of their own, and one way to open a workspace."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
# What decides or repeats is a function's work, and functions are in the packages, where they are tested.
LOGIC = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.If, ast.Try, ast.With,
)  # fmt: skip


def _cells(notebook: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == kind]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_is_stored_without_outputs_and_has_no_logic(notebook: Path) -> None:
    nbformat.validate(nbformat.read(notebook, as_version=4))
    for cell in _cells(notebook, "code"):
        assert (cell.outputs, cell.execution_count) == ([], None), "jupyter: Edit, Clear Outputs of All Cells"
        found = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, LOGIC)]
        assert not found, ast.unparse(found[0])
    assert _cells(notebook, "markdown")[0].source.startswith("# ")


def test_all_notebooks_open_a_workspace_in_the_same_way() -> None:
    assert [notebook.stem for notebook in NOTEBOOKS] == ["explore_tables", "retrieval_quality", "training_set"]
    assert len({_cells(notebook, "code")[0].source for notebook in NOTEBOOKS}) == 1
