"""A folder in; the wheel built from this clone, and an environment in which it is installed, out. No network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("lakeloop", "transformations", "expectations", "pipelines")


def run(*command: str | Path, folder: Path) -> str:
    """What a command prints, run as if Python and pip had no settings."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "PIP_REQUIRE_VIRTUALENV", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def build(source: Path) -> Path:
    """The wheel, built from a copy in `source`: no stale build folder gets in, no new one is left behind."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", "out")
    run(sys.executable, "-m", "pip", "wheel", *options, ".", folder=source)
    (built,) = (source / "out").glob("*.whl")
    return built


def install(wheel: Path, folder: Path) -> Path:
    """The programs of a fresh environment in `folder` with the wheel, and with the libraries of this one behind it."""
    run(sys.executable, "-m", "venv", "--without-pip", "venv", folder=folder)
    programs = folder / "venv" / "bin"
    options = ("--no-deps", "--no-index", "--quiet")
    run(sys.executable, "-m", "pip", "--python", programs / "python", "install", *options, wheel, folder=folder)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # Folders named in a .pth come after the environment's own, and .pth files in them (our editable one) are not read.
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return programs
