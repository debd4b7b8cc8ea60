"""The wheel: built without network, installed elsewhere, it holds our four packages, and the command starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("lakeloop", "transformations", "expectations", "pipelines")


def run(*command: str | Path, folder: Path) -> str:
    hidden = ("PYTHONPATH", "PYTHONHOME", "PIP_REQUIRE_VIRTUALENV", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that neither a stale build folder gets in nor a new one is left behind."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", "out")
    run(sys.executable, "-m", "pip", "wheel", *options, ".", folder=source)
    (built,) = (source / "out").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel, and with the libraries of this one behind it."""
    folder = tmp_path_factory.mktemp("else where")
    run(sys.executable, "-m", "venv", "--without-pip", "venv", folder=folder)
    python = folder / "venv" / "bin" / "python"
    options = ("--no-deps", "--no-index", "--quiet")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, folder=folder)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # Folders named in a .pth come after the environment's own, and .pth files in them (our editable one) are not read.
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
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
