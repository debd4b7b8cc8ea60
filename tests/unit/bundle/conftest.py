"""The fixture of the bundle's tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .planting import ROOT


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the bundle, to plant mistakes in."""
    shutil.copy(ROOT / "databricks.yml", tmp_path)
    for folder in ("resources", "pipelines/declarative"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path
