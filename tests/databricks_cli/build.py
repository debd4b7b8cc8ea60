"""Builds Databricks' CLI, and the double of a workspace that it is tested with, from their Go module.

`make test-bundle` does it once, in some ten minutes; both stay in the cache, by what they are built from.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pipelines.machine.cache import cache_dir

FOLDER = Path(__file__).parent
# databricks.yml wants the CLI 1.13, and go.mod has 1.12.1, so the CLI is told that it is the one that is wanted.
_LABEL = "-X github.com/databricks/cli/internal/build.buildVersion=1.13.0"
_SOURCES = ("go.mod", "go.sum", "workspace.go", "build.py")
# program -> its Go package.
_PACKAGES = {"workspace": ".", "databricks": "github.com/databricks/cli"}


def programs() -> Path:
    """The folder of the programs `databricks` and `workspace`; it is not there before they are built."""
    digest = hashlib.sha256(b"".join((FOLDER / name).read_bytes() for name in _SOURCES)).hexdigest()
    return cache_dir() / "databricks-cli" / digest[:16]


def build() -> None:
    """Build what is not there yet."""
    if programs().exists():
        return
    go = shutil.which("go")
    if go is None:
        sys.exit("lakeloop: Databricks' CLI is built by Go 1.26 or newer, and there is no `go` on the PATH")
    print("lakeloop: building Databricks' CLI; this takes some ten minutes, once", flush=True)
    programs().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=programs().parent) as folder:
        built = Path(folder) / "built"
        for name, package in _PACKAGES.items():
            flags = ["-trimpath", "-buildvcs=false", "-ldflags", f"-s -w {_LABEL}"]
            subprocess.run([go, "build", *flags, "-o", built / name, package], cwd=FOLDER, check=True)
        os.replace(built, programs())


if __name__ == "__main__":
    build()
