"""The name of a Spark Connect client in; the Python of an environment as serverless compute has it, with it, out.

It has the client, the platform's libraries and what the bundle's job installs: no Spark, and nothing of the
development's. It stays in build/clients, for it takes minutes to install; lakeloop itself is not in it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.bundle.bundle_check import resolved

ROOT = Path(__file__).resolve().parents[2]
DEVELOPMENT = "pyspark"
# Client → the versions of Python that it is published for. Environment version 4 has the first, and the API of
# Spark 4.0; the second is what open source publishes for Spark 4.2.
CLIENTS = {"databricks-connect==17.0.10": ("3.12",), "pyspark-client==4.2.0": ("3.12", "3.11", "3.10")}
# What environment version 4 brings, and the job therefore does not install.
_PLATFORM = ("pandas==2.2.3", "pyarrow==19.0.1", "pyyaml")


def python_with(client: str) -> Path:
    """The Python of the environment with a client; this one for `DEVELOPMENT`."""
    if client == DEVELOPMENT:
        return Path(sys.executable)
    folder = ROOT / "build" / "clients" / re.sub(r"\W+", "-", client)
    python, whole = folder / "bin" / "python", folder / "whole"
    wanted = "\n".join([client, *_PLATFORM, *_dependencies()])
    if not whole.exists() or whole.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([_interpreter(client), "-m", "venv", folder], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted.split("\n")]
        subprocess.run(install, check=True)
        whole.write_text(wanted)
    return python


def _interpreter(client: str) -> str:
    names = [f"python{version}" for version in CLIENTS[client]]
    for name in names:
        # pyenv puts commands on the PATH that end with an error.
        if shutil.which(name) and subprocess.run([name, "--version"], capture_output=True).returncode == 0:
            return name
    pytest.skip(f"{client} wants {' or '.join(names)}: put one on the PATH")


def _dependencies() -> list[str]:
    """The job's own, without the wheels that a deployment uploads."""
    job = resolved(ROOT, target="dev", variables={"catalog": "main"})["jobs"]["documents_loop"]
    (environment,) = job["environments"]
    return [each for each in environment["spec"]["dependencies"] if not each.endswith(".whl")]
