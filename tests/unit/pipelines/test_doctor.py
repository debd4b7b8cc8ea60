"""What `lakeloop doctor` finds: each check with a good and a bad machine."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from pipelines.machine import assets
from pipelines.operations.doctor import (
    Check,
    check_names,
    check_python,
    check_room,
    check_version,
    check_writable,
    diagnose,
)
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError


@pytest.mark.parametrize(
    ("version", "ok"), [((3, 9, 1), False), ((3, 10, 0), True), ((3, 12, 9), True), ((3, 13, 0), False)]
)
def test_python_is_neither_too_old_nor_too_new(version: tuple[int, int, int], ok: bool) -> None:
    assert check_python(version).ok is ok


@pytest.mark.parametrize(
    ("tested", "found", "ok"),
    [
        ("4.2.0", "4.2.0", True),
        ("4.2.0", "4.2.1", False),
        ("3", "3.17.2", True),
        ("3", "30.1", False),
        ("3", None, False),
    ],
)
def test_a_version_fits_by_the_numbers_that_matter(tested: str, found: str | None, ok: bool) -> None:
    check = check_version("mlflow", tested=tested, found=found)
    assert check.ok is ok
    assert ok or "pip install 'mlflow==" in check.remedy


def test_a_package_of_the_same_name_is_called_by_its_distribution() -> None:
    assert check_names({"pipelines": ["lakeloop", "lakeloop"], "rich": ["rich"]}).ok
    clash = check_names({"transformations": ["lakeloop", "transformations"]})
    assert not clash.ok
    assert "pip uninstall transformations" in clash.remedy


def test_a_folder_that_is_not_there_yet_is_judged_by_the_one_above(tmp_path: Path) -> None:
    assert check_writable("cache", tmp_path / "a" / "b", remedy="set it").ok
    assert not (tmp_path / "a").exists()
    refused = check_writable("cache", Path("/proc/self/nothing"), remedy="set it")
    assert not refused.ok
    assert refused.remedy == "set it"


def test_room_is_counted_where_the_workspace_will_be(tmp_path: Path) -> None:
    assert check_room(tmp_path / "new", needed_gb=0).ok
    assert "make room" in check_room(tmp_path / "new", needed_gb=1e9).remedy


def test_every_failed_check_says_what_to_do_on_a_machine_that_has_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKELOOP_CACHE", str(tmp_path / "none"))
    found = {check.name: check for check in diagnose(Settings(root=tmp_path))}
    assert all(isinstance(check, Check) and (check.ok or check.remedy) for check in found.values())
    for name in ("Delta's jars", "embedding model", "language model"):
        assert not found[name].ok
        assert "lakeloop setup" in found[name].remedy
    assert found["package names"].ok
    assert found["workspace"].ok
    assert found["pyspark"].ok


def test_a_client_of_spark_connect_alone_needs_neither_spark_nor_java(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"pyspark-client": "4.2.0", "mlflow": "3.14.0", "pylance": "14.0.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = {check.name: check for check in diagnose(Settings(root=tmp_path))}
    assert found["pyspark-client"].ok
    assert not {"pyspark", "Java", "Delta's jars"} & found.keys()
    assert "SPARK_REMOTE" in found["Spark Connect server"].remedy
    monkeypatch.setenv("SPARK_REMOTE", "sc://host:15002")
    assert all(check.ok for check in diagnose(Settings(root=tmp_path)) if check.name == "Spark Connect server")


def test_a_file_of_the_right_size_and_another_content_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKELOOP_CACHE", str(tmp_path))
    model = tmp_path / assets.LANGUAGE_MODEL.path
    model.parent.mkdir(parents=True)
    with model.open("wb") as file:
        file.truncate(assets.LANGUAGE_MODEL.size)
    with pytest.raises(ConfigurationError, match="missing or not whole"):
        assets.language_model_file()
    check = next(check for check in diagnose(Settings(root=tmp_path)) if check.name == "language model")
    assert not check.ok
    assert str(model) in check.detail
