"""Checks everything that lakeloop needs on this machine.

Nothing is changed and nothing is fetched. The model files and jars are read and compared by hash, which takes about a
second.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.machine.assets import DELTA_JARS, EMBEDDING_FILES, LANGUAGE_MODEL, Asset, is_whole
from pipelines.machine.cache import cache_dir
from pipelines.machine.java import find_java, java_version
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError

PACKAGES = ("lakeloop", "transformations", "expectations", "pipelines")
# The versions that were tested together. Spark must be exactly this one; of the others, the major version.
TESTED = {"pyspark": "4.2.0", "mlflow": "3", "pylance": "14"}
# Clients of Spark Connect, one of which may be there in place of Spark.
CLIENTS = {"pyspark-client": "4.2.0", "databricks-connect": "17"}
ROOM_GB = 2.0


@dataclass(frozen=True)
class Check:
    """The result of one check: its name, whether all is well, what was found, and what to do if it is not well."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def diagnose(settings: Settings) -> list[Check]:
    """The results of all checks, in the order in which faults should be repaired. No check raises an error."""
    client = next((name for name in CLIENTS if _installed(name)), None) if _installed("pyspark") is None else None
    # Spark is elsewhere then, and so are Java and Delta.
    spark = [_check_server(settings)] if client else [_check_java(), _check_files("Delta's jars", DELTA_JARS.values())]
    tested = {client: CLIENTS[client], **{k: v for k, v in TESTED.items() if k != "pyspark"}} if client else TESTED
    return [
        check_python(sys.version_info[:3]),
        *spark,
        *(check_version(name, tested=version, found=_installed(name)) for name, version in tested.items()),
        check_names(importlib.metadata.packages_distributions()),
        _check_files("embedding model", EMBEDDING_FILES.values()),
        _check_files("language model", [LANGUAGE_MODEL]),
        check_writable("workspace", settings.root, remedy="change to a folder of your own, and run: lakeloop init"),
        check_writable("cache", cache_dir(), remedy="set LAKELOOP_CACHE to a folder that can be written"),
        check_room(settings.root),
    ]


def check_python(version: Sequence[int]) -> Check:
    fits = (3, 10) <= tuple(version[:2]) <= (3, 12)
    return Check("Python", fits, ".".join(map(str, version)), "" if fits else "use Python 3.10, 3.11 or 3.12")


def _check_java() -> Check:
    try:
        home = find_java()
    except ConfigurationError as error:
        what, _, remedy = str(error).partition(". ")
        return Check("Java", False, what, remedy)
    return Check("Java", True, f"{java_version(home)} at {home}")


def _check_server(settings: Settings) -> Check:
    master = settings.spark.conf.get("spark.master", settings.spark.master)
    remote = os.environ.get("SPARK_REMOTE") or (master if master.startswith("sc://") else "")
    is_named = bool(remote) or "DATABRICKS_RUNTIME_VERSION" in os.environ
    found = "is named" if is_named else "none is named, and there is only a client of one"
    remedy = "" if is_named else "set SPARK_REMOTE or spark.master to sc://host:15002, or install pyspark in its place"
    return Check("Spark Connect server", is_named, found, remedy)


def check_version(name: str, *, tested: str, found: str | None) -> Check:
    """Whether the version `found` begins with the numbers of `tested`; None: not installed."""
    install = f"pip install '{name}=={tested}{'' if tested.count('.') == 2 else '.*'}'"
    if found is None:
        return Check(name, False, "not installed", install)
    fits = found.split(".")[: tested.count(".") + 1] == tested.split(".")
    return Check(name, fits, found if fits else f"{found}, tested with {tested}", "" if fits else install)


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_names(distributions: Mapping[str, Iterable[str]]) -> Check:
    """Whether only lakeloop provides its packages. Other distributions have packages of the same names, and would
    overwrite its files.

    Args:
        distributions: package → the distributions that provide it, as `packages_distributions` returns it.
    """
    strangers = sorted({d for name in PACKAGES for d in distributions.get(name, ())} - {"lakeloop"})
    if not strangers:
        return Check("package names", True, "only lakeloop's")
    names = " ".join(strangers)
    return Check(
        "package names",
        False,
        f"{names} is installed with packages of the same names, and may have overwritten lakeloop's files",
        f"pip uninstall {names}, then: pip install --force-reinstall --no-deps lakeloop",
    )


def _check_files(name: str, assets: Iterable[Asset]) -> Check:
    listed = list(assets)
    bad = [str(cache_dir() / asset.path) for asset in listed if not _holds(is_whole, asset)]
    if not bad:
        return Check(name, True, f"{len(listed)} file{'s' if len(listed) > 1 else ''} in {cache_dir()}, hashes right")
    return Check(name, False, f"missing or not whole: {', '.join(bad)}", "remove those files, then: lakeloop setup")


def _holds(predicate: Callable[[Asset], bool], asset: Asset) -> bool:
    try:
        return predicate(asset)
    except OSError:
        return False


def check_writable(name: str, folder: Path, *, remedy: str) -> Check:
    """Whether a file can be created in `folder` or, if it does not exist, in the nearest existing folder above it."""
    existing = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=existing):
            return Check(name, True, str(folder))
    except OSError as error:
        return Check(
            name, False, f"{folder} cannot be written: {error.strerror or os.strerror(error.errno or 0)}", remedy
        )


def check_room(folder: Path, *, needed_gb: float = ROOM_GB) -> Check:
    free = shutil.disk_usage(_existing(folder)).free / 1e9
    fits = free >= needed_gb
    return Check("free disk", fits, f"{free:.1f} GB", "" if fits else f"make room: {needed_gb:g} GB are needed")


def _existing(folder: Path) -> Path:
    return next((place for place in (folder, *folder.parents) if place.is_dir()), Path("/"))
