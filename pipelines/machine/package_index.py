"""Fetches a package's wheel or source distribution as a checked file. Nothing is built.

The package index is the one for which pip is configured on this machine (index-url, extra-index-url, find-links,
no-index, cert, client-cert, trusted-host, from pip's files and PIP_… variables), so a company's mirror is used as is.
"""

from __future__ import annotations

import ast
import shutil
import ssl
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Literal

from pipelines.progress import Progress
from transformations.errors import LakeloopError, MissingDependencyError

if TYPE_CHECKING:
    from unearth import PackageFinder

_ATTEMPTS = 3
_MEGABYTE = 1_000_000


def download(
    package: str,
    version: str,
    *,
    kind: Literal["wheel", "sdist"],
    into: Path,
    progress: Progress,
    sha256: str | None = None,
    size: int | None = None,
) -> Path:
    """Fetch one file of a release into the folder `into`, and check it.

    Args:
        package: the distribution's name.
        version: the exact version.
        kind: a wheel that fits this machine, or the source distribution.
        into: an existing folder.
        progress: shows the megabytes if `size` is given.
        sha256: the file's hash; without it the hash that the index gives is checked.
        size: the file's size in bytes, for the progress only.

    Raises:
        LakeloopError: no such release, a file of another content, or no network.
        MissingDependencyError: the library unearth is not installed.
    """
    try:
        from unearth import PackageFinder  # noqa: F401
    except ImportError:
        raise MissingDependencyError.for_extra("unearth", "demo") from None
    from httpx2 import HTTPError
    from unearth.errors import HashMismatchError, UnpackError

    what = f"{package} {version} ({kind})"
    title = f"fetching {package} {version}" + (f" ({size // _MEGABYTE} MB)" if size else "")
    try:
        with progress.step(title, total=size // _MEGABYTE if size else None) as step:

            def report(_link: object, completed: int, total: int | None) -> None:  # unearth calls by name
                if completed // _MEGABYTE > step.done:
                    step.advance(completed // _MEGABYTE - step.done)

            file = _with_retries(package, version, kind, into, {"sha256": [sha256]} if sha256 else None, report)
    except HashMismatchError as error:
        raise LakeloopError(
            f"{what} is not the file it should be, and was thrown away: {error}. If the index is a mirror, ask for "
            "what it serves; otherwise try again: lakeloop setup"
        ) from None
    except (HTTPError, UnpackError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename:
            raise  # the disk, not the network
        raise LakeloopError(
            f"could not fetch {what} from the package index: {error or type(error).__name__}. Is there a network? "
            "Behind a company's mirror, set pip's index-url (pip config set global.index-url …)"
        ) from None
    if file is None:
        raise LakeloopError(f"the package index has no {what}. Is the version right? (pip index versions {package})")
    return file


def _with_retries(
    package: str, version: str, kind: str, into: Path, hashes: dict[str, list[str]] | None, report: Any
) -> Path | None:
    from httpx2 import TransportError

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with _finder(package, kind) as finder:
                match = finder.find_best_match(f"{package}=={version}", allow_prereleases=True).best
                if match is None:
                    return None
                file = Path(finder.download(match.link, into, hashes or match.link.hash_option, report))
                # unearth does not copy a file of a find-links folder; the caller may move the file, so it gets a copy.
                return file if file.parent == into else Path(shutil.copy2(file, into))
        except TransportError:
            if attempt == _ATTEMPTS:
                raise
            time.sleep(attempt)
    return None


@contextmanager
def _finder(package: str, kind: str) -> Iterator[PackageFinder]:
    from unearth import PackageFinder
    from unearth.auth import MultiDomainBasicAuth
    from unearth.fetchers.sync import PyPIClient

    pip = pip_configuration()
    context: ssl.SSLContext | bool = True
    if "cert" in pip or "client-cert" in pip:
        context = ssl.create_default_context(cafile=pip.get("cert"))
        if "client-cert" in pip:
            context.load_cert_chain(pip["client-cert"])
    indexes = [url for key in ("index-url", "extra-index-url") for url in pip.get(key, "").split()]
    trusted = pip.get("trusted-host", "").split()
    with PyPIClient(trusted_hosts=trusted, verify=context, timeout=60.0, follow_redirects=True) as session:
        session.auth = MultiDomainBasicAuth(prompting=False, index_urls=indexes)
        # If the user has set no index-url, the library's own default stays the first source.
        finder = PackageFinder(
            session=session,
            index_urls=pip.get("index-url", "").split(),
            no_binary=[package] if kind == "sdist" else [],
            only_binary=[package] if kind == "wheel" else [],
        )
        if pip.get("no-index", "").lower() in ("1", "true", "yes", "on"):
            finder.sources.clear()
        else:
            for url in pip.get("extra-index-url", "").split():
                finder.add_index_url(url)
        for place in pip.get("find-links", "").split():
            if "://" in place or Path(place).exists():
                finder.add_find_links(place)
        yield finder


def pip_configuration() -> dict[str, str]:
    """pip's options as they hold for `pip download` on this machine; empty if pip is not installed."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    return parse_pip_configuration(done.stdout)


def parse_pip_configuration(listing: str) -> dict[str, str]:
    """The options in the output of `pip config list`; the order of strength is global, install, download, environment.

    >>> parse_pip_configuration("global.index-url='a'\\n:env:.index-url='b'\\nfreeze.timeout='10'")
    {'index-url': 'b'}
    """
    strength = {"global": 0, "install": 1, "download": 2, ":env:": 3}
    found: list[tuple[int, str, str]] = []
    for line in listing.splitlines():
        name, separator, value = line.partition("=")
        section, _, key = name.partition(".")
        if separator and section in strength:
            try:
                found.append((strength[section], key, str(ast.literal_eval(value))))
            except (SyntaxError, ValueError):
                continue
    return {key: value for _, key, value in sorted(found, key=lambda entry: entry[0])}


def unpack_sdist(archive: Path, *, into: Path) -> None:
    """Write the regular files of a source distribution below `into`, without the archive's one top folder.

    An archive is foreign input: links and devices are left out, and a name that leads outside of `into` stops the
    unpacking. (tarfile's own `filter="data"` is missing from the Python 3.11 of Debian 12.)

    Raises:
        LakeloopError: it is no whole archive, or a name leads outside.
    """
    try:
        for name, content in _files(archive):
            parts = PurePosixPath(name).parts
            if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
                raise LakeloopError(f"{archive.name} holds a file named {name!r}, which leads outside: not unpacked")
            if len(parts) < 2:
                continue
            target = into.joinpath(*parts[1:])
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise LakeloopError(f"{archive.name} is not a whole archive: {error}. Fetch it again") from None


def _files(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as folder:
            for info in folder.infolist():
                if not info.is_dir():
                    yield info.filename, folder.open(info)
        return
    with tarfile.open(archive) as tape:
        for member in tape:
            if member.isfile() and (content := tape.extractfile(member)) is not None:
                yield member.name, content
