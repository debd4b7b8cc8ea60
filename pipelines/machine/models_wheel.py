"""Writes the embedding model as a wheel, for machines that have no network: a job's tasks and their executors.

The wheel has one package, `lakeloop_models`, with the model's files and nothing to run; where it is installed,
assets.py finds them. The format is that of PEP 427, and the same files give the same bytes.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from pipelines.machine.assets import EMBEDDING_FILES, EMBEDDING_REVISION, MODELS_PACKAGE, embedding_model_dir
from transformations.errors import ConfigurationError

_WHEEL = "Wheel-Version: 1.0\nGenerator: lakeloop\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # of a zip file


def write_models_wheel(folder: Path) -> Path:
    """Write the wheel into `folder`, and return its path. A wheel of another version that lies there is removed.

    Raises:
        ConfigurationError: the model is not in the cache, or the folder cannot be written.
    """
    version = EMBEDDING_REVISION.replace("-beta", "b")  # as PEP 440 writes it
    name = f"{MODELS_PACKAGE}-{version}"
    wheel = folder / f"{name}-py3-none-any.whl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as scratch:
            written = Path(scratch) / wheel.name
            _write(written, name, version)
            for other in folder.glob(f"{MODELS_PACKAGE}-*.whl"):
                if other != wheel:
                    other.unlink()
            written.replace(wheel)
    except OSError as error:
        raise ConfigurationError(f"cannot write {wheel}: {error.strerror}. Choose a folder of your own.") from None
    return wheel


def _write(wheel: Path, name: str, version: str) -> None:
    metadata = f"Metadata-Version: 2.1\nName: {MODELS_PACKAGE.replace('_', '-')}\nVersion: {version}\n"
    records = io.StringIO()
    table = csv.writer(records, lineterminator="\n")
    with zipfile.ZipFile(wheel, "w") as archive:
        contents = [*_models(), (f"{name}.dist-info/METADATA", metadata.encode())]
        for path, content in [*contents, (f"{name}.dist-info/WHEEL", _WHEEL.encode())]:
            _add(archive, path, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            table.writerow([path, f"sha256={digest}", len(content)])
        table.writerow([f"{name}.dist-info/RECORD", "", ""])
        _add(archive, f"{name}.dist-info/RECORD", records.getvalue().encode())


def _models() -> Iterator[tuple[str, bytes]]:
    yield f"{MODELS_PACKAGE}/__init__.py", b'"""The embedding model of lakeloop, as files."""\n'
    folder = embedding_model_dir()
    for asset in EMBEDDING_FILES.values():
        yield f"{MODELS_PACKAGE}/{asset.path}", (folder / os.path.basename(asset.path)).read_bytes()


def _add(archive: zipfile.ZipFile, path: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(path, _EARLIEST)
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=1)
