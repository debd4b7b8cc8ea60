"""The wheel of models: where it is installed, the model is found without a cache."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from importlib import invalidate_caches
from pathlib import Path

import pytest

from pipelines.machine import assets, models_wheel
from pipelines.machine.assets import Asset
from pipelines.machine.models_wheel import write_models_wheel
from pipelines.models import embedders
from transformations.errors import ConfigurationError

_CONTENTS = {"a.onnx": b"weights", "a.json": b"tokenizer"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a model of two small files."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("LAKELOOP_CACHE", str(cache))
    files = {
        name: Asset(f"models/a/{name}", hashlib.sha256(content).hexdigest(), len(content))
        for name, content in _CONTENTS.items()
    }
    for module in (assets, models_wheel):
        monkeypatch.setattr(module, "EMBEDDING_FILES", files)
    (cache / "models/a").mkdir(parents=True)
    for name, content in _CONTENTS.items():
        (cache / "models/a" / name).write_bytes(content)
    return cache


def test_an_installed_wheel_serves_where_the_cache_does_not(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    wheel = write_models_wheel(tmp_path / "dist")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target"]
    subprocess.run([*command, str(tmp_path / "site"), str(wheel)], check=True)
    (cache / "models/a/a.json").write_bytes(b"cut sho")
    with pytest.raises(ConfigurationError, match=r"a\.json is missing or not whole"):
        assets.embedding_model_dir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    invalidate_caches()
    folder = assets.embedding_model_dir()
    assert folder == tmp_path / "site/lakeloop_models/models/a", "both files of one root, though one is in the cache"
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == _CONTENTS
    (folder / "a.onnx").write_bytes(b"WEIGHTS")
    with pytest.raises(ConfigurationError, match=r"cache/models/a/a\.\w+ is missing or not whole"):
        assets.embedding_model_dir()


def test_the_same_files_give_the_same_bytes_and_another_version_goes(cache: Path, tmp_path: Path):
    first = write_models_wheel(tmp_path / "dist").read_bytes()
    earlier = tmp_path / "dist/lakeloop_models-0.9-py3-none-any.whl"
    earlier.write_bytes(b"")
    (tmp_path / "dist/lakeloop-0.1.0-py3-none-any.whl").write_bytes(b"")
    wheel = write_models_wheel(tmp_path / "dist")
    assert wheel.read_bytes() == first
    assert sorted(file.name for file in wheel.parent.iterdir()) == ["lakeloop-0.1.0-py3-none-any.whl", wheel.name]


def test_what_cannot_be_written_is_said(cache: Path, tmp_path: Path):
    (tmp_path / "dist").write_text("a file")
    with pytest.raises(ConfigurationError, match=r"cannot write .*\.whl: File exists"):
        write_models_wheel(tmp_path / "dist")


def test_the_wheel_has_the_version_of_the_model():
    assert embedders._REVISIONS["all-minilm-l6-v2"][0] == assets.EMBEDDING_REVISION
