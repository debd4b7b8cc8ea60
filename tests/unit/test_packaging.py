"""The wheel: built without network, installed elsewhere, it holds our four packages, and the command starts."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.support.wheel import PACKAGES, ROOT, build, install, run


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment with the wheel."""
    folder = tmp_path_factory.mktemp("else where")
    install(wheel, folder)
    return folder


def test_the_wheel_holds_exactly_our_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {*PACKAGES, "lakeloop-0.1.0.dist-info"}
    sources = {p.relative_to(ROOT).as_posix() for package in PACKAGES for p in (ROOT / package).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert "lakeloop-0.1.0.dist-info/licenses/LICENSE" in names


def test_the_installed_command_runs_from_another_folder(elsewhere: Path) -> None:
    # Without the answer of a terminal's width rich would break the lines anywhere.
    help_text = run(elsewhere / "venv" / "bin" / "lakeloop", "--help", folder=elsewhere)
    assert "Usage" in help_text
    where = "import lakeloop, transformations, expectations, pipelines as p; print(p.__file__)"
    assert Path(run(elsewhere / "venv" / "bin" / "python", "-c", where, folder=elsewhere).strip()).is_relative_to(
        elsewhere
    )


def test_no_other_distribution_provides_packages_of_our_names(elsewhere: Path) -> None:
    program = "import json; from importlib.metadata import packages_distributions as p; print(json.dumps(p()))"
    found = json.loads(run(elsewhere / "venv" / "bin" / "python", "-c", program, folder=elsewhere))
    assert {name: set(found[name]) for name in PACKAGES} == {name: {"lakeloop"} for name in PACKAGES}
    assert "mlflow" in found, "the libraries of this environment should have been looked at, too"
    assert "lakeloop" not in found.get("tests", ()), "others bring a package of that name, we do not"
