"""`ObjectPath`: a file or a folder in object storage, with as much of the interface of `pathlib.Path` as is used here.

So code that takes an `AnyPath` is the same for a folder of this machine and for a prefix of a bucket. Only two things
differ there: a folder is nothing of its own, and exists while an object lies below it; and an object appears whole or
not at all. The client is obstore, which stands on the same library as delta-rs and Lance and takes the same options.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal
from urllib.parse import quote

from pipelines.storage.storage_errors import NO_BUCKET, explained
from transformations.errors import ConfigurationError, MissingDependencyError

# Each with the name by which Spark's connectors know it.
SCHEMES = {"s3": "s3a", "gs": "gs", "abfss": "abfss"}
_ALIASES = {"s3a": "s3"}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
# A path of pathlib keeps one slash of an address.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://?([^/]+)/?(.*)", re.DOTALL)
# The option, and the variables of the environment, that name a server of one's own.
_ENDPOINT = re.compile(r"(aws_|azure_|azure_storage_)?endpoint(_url)?", re.IGNORECASE)
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
# A server that is gone is given up after this time; a client's own default is three minutes.
_RETRIES = {"max_retries": "10", "retry_timeout": "60s"}


@dataclass(frozen=True)
class Entry:
    """An object of a listing, with the interface of `os.DirEntry`; `name` is its path below the listed folder."""

    name: str
    size: int
    modified_at: datetime
    tag: str

    def stat(self) -> ObjectStat:
        return ObjectStat(self.size, self.modified_at, self.tag)


@dataclass(frozen=True)
class ObjectStat:
    """What `os.stat_result` says of a file; instead of an inode, the tag of the object's bytes."""

    st_size: int
    modified_at: datetime
    st_ino: str

    @property
    def st_mtime(self) -> float:
        return self.modified_at.timestamp()

    @property
    def st_mtime_ns(self) -> int:
        return int(self.modified_at.timestamp()) * 1_000_000_000


@dataclass(frozen=True)
class ObjectPath:
    """One key of a bucket, which may be a file, or the folder of those below it.

    Attributes:
        root: the bucket (container) as a URL, such as s3://bucket.
        key: without a slash at either end; empty for the whole bucket.
        options: of the client, such as aws_endpoint; they may be secret, and stand in no text.
    """

    root: str
    key: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, address: str, options: Mapping[str, str] | None = None) -> ObjectPath:
        """The place of an address for which `is_address` is true.

        >>> str(ObjectPath.of("s3a://bucket/a b/ü/"))
        's3://bucket/a b/ü'
        """
        found = _ADDRESS.fullmatch(address)
        assert found is not None, address
        scheme = found[1].lower()
        key = "/".join(part for part in found[3].split("/") if part)
        return cls(f"{_ALIASES.get(scheme, scheme)}://{found[2]}", key, dict(options or {}))

    def __str__(self) -> str:
        return f"{self.root}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(self.root, f"{self.key}/{name}".strip("/"), self.options)

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.root, self.key.rpartition("/")[0], self.options)

    def with_name(self, name: str) -> ObjectPath:
        return self.parent / name

    @property
    def url(self) -> str:
        """The address with its key quoted, as delta-rs takes it."""
        return f"{self.root}/{quote(self.key)}"

    @property
    def scheme(self) -> str:
        return self.root.partition(":")[0]

    @property
    def endpoint(self) -> str:
        """The server that the options or the environment name instead of the provider's own; empty: none.

        Raises:
            ConfigurationError: they name two: one client would go to the first, another one to the second.
        """
        given = [value for key, value in self.options.items() if _ENDPOINT.fullmatch(key)]
        if self.scheme == "s3":
            named = [name for name in _ENDPOINTS if name in os.environ]
            given += [os.environ[name] for name in named]
            if len({value.rstrip("/") for value in given}) > 1:
                raise ConfigurationError(
                    f"{self.root}: {' and '.join(['storage_options', *named])} name different servers, and clients do "
                    "not agree on which of them counts. Name one only"
                )
        return next(iter(given), "")

    @property
    def client_options(self) -> dict[str, str]:
        """The options as delta-rs and Lance take them.

        Raises:
            ConfigurationError: one says how long to try again, in a form that a client would take for something else.
        """
        # One without TLS was chosen by whoever wrote http://; clients want to be told.
        allow = {"allow_http": "true"} if self.endpoint.startswith("http://") else {}
        options = {**_RETRIES, **allow, **self.options}
        for name, form in (("max_retries", r"\d+"), ("retry_timeout", r"\d+s")):
            if re.fullmatch(form, options[name], re.ASCII) is None:
                raise ConfigurationError(
                    f"storage_options: {name} is {options[name]!r}. Say max_retries as a number, such as "
                    f"{_RETRIES['max_retries']}, and retry_timeout in seconds, such as {_RETRIES['retry_timeout']}"
                )
        return options

    # -- what is there --------------------------------------------------------------------------------------------

    def entries(self, *, is_deep: bool = False) -> list[Entry]:
        """The objects directly in this folder, or with `is_deep` all below it, sorted by name; none if there is none.

        A request is made for each 1,000 objects.
        """
        with _explained(self):
            if is_deep:
                listed = [each for part in _obstore().list(self._client, self.key or None) for each in part]
            else:
                listed = list(_obstore().list_with_delimiter(self._client, self.key or None)["objects"])
        below = len(self.key) + 1 if self.key else 0
        found = [
            Entry(each["path"][below:], each["size"], each["last_modified"], each["e_tag"] or "") for each in listed
        ]
        return sorted(found, key=lambda entry: entry.name)

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """The files and folders directly in this one whose name matches."""
        with _explained(self):
            listed = _obstore().list_with_delimiter(self._client, self.key or None)
        keys = [*listed["common_prefixes"], *(each["path"] for each in listed["objects"])]
        names = sorted({key.rstrip("/").rpartition("/")[2] for key in keys})
        return (self / name for name in names if fnmatchcase(name, pattern))

    def is_dir(self) -> bool:
        with _explained(self):
            return next(iter(_obstore().list(self._client, self.key or None, chunk_size=1)), None) is not None

    def is_file(self) -> bool:
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def stat(self) -> ObjectStat:
        with _explained(self):
            head = _obstore().head(self._client, self.key)
        return ObjectStat(head["size"], head["last_modified"], self._tag_of(head))

    # -- its bytes ------------------------------------------------------------------------------------------------

    def open(self, mode: Literal["rb"] = "rb") -> BinaryIO:
        """The object for reading; only what is read is fetched."""
        return io.BufferedReader(_Reader(self, self.stat().st_size), buffer_size=64 * 1024)

    def read_bytes(self) -> bytes:
        return self.read_with_stat()[0]

    def read_with_stat(self) -> tuple[bytes, ObjectStat]:
        """The bytes, and what the same answer says of them: whatever replaces the object meanwhile, they belong
        together."""
        with _explained(self):
            answer = _obstore().get(self._client, self.key)
            content = bytes(answer.bytes())
        meta = answer.meta
        return content, ObjectStat(meta["size"], meta["last_modified"], self._tag_of(meta))

    def read_range(self, start: int, length: int) -> bytes:
        with _explained(self):
            return bytes(_obstore().get_range(self._client, self.key, start=start, length=length))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        with _explained(self):
            _obstore().put(self._client, self.key, content)

    def replace_if(self, content: bytes, *, tag: str | None) -> str | None:
        """Write the object if its tag is still `tag` (None: if there is none). Returns the new tag; None: it is not."""
        exceptions = _obstore().exceptions
        mode = "create" if tag is None else {self._tag_name: tag}
        with _explained(self):
            try:
                done = _obstore().put(self._client, self.key, content, mode=mode)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError, FileNotFoundError):
                return None
        return self._tag_of(done)

    @property
    def _tag_name(self) -> Literal["version", "e_tag"]:
        """By what a conditional write names the object that it replaces: Google's storage knows its version alone."""
        return "version" if self.scheme == "gs" else "e_tag"

    def _tag_of(self, meta: Mapping[str, Any]) -> str:
        return str(meta[self._tag_name] or "")

    def unlink(self) -> None:
        with _explained(self):
            _obstore().delete(self._client, self.key)  # of what is not there too: storage does not say

    def rename(self, target: ObjectPath) -> ObjectPath:
        """Move the file, or all below the folder: each object is copied, then removed. Returns `target`."""
        keys = [self.key] if self.is_file() else [f"{self.key}/{entry.name}" for entry in self.entries(is_deep=True)]
        with _explained(self):
            for key in keys:
                _obstore().rename(self._client, key, target.key + key[len(self.key) :])
        return target

    @property
    def _client(self) -> Any:
        return _client(self.root, tuple(sorted(self.client_options.items())))


AnyPath = Path | ObjectPath


def is_address(text: str) -> bool:
    """Whether the text is a URL, and no path of this machine."""
    return _SCHEME.match(text) is not None


def is_object_storage(text: str) -> bool:
    """Whether the text is an address of object storage."""
    return is_address(text) and address_problem(text) is None


def address_problem(address: str) -> str | None:
    """Why the address is none of object storage; None if it is one.

    >>> address_problem("ftp://host/x")
    'it is neither a path of this machine nor an address of object storage (s3://, gs://, abfss://)'
    """
    if scheme_of(address) not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        return f"it is neither a path of this machine nor an address of object storage ({known})"
    return None if _ADDRESS.fullmatch(address) else "it names no bucket"


def scheme_of(address: str) -> str:
    """The scheme of an address, as in `SCHEMES` where it is supported.

    >>> scheme_of("s3a://bucket/x"), scheme_of("ftp://host/x")
    ('s3', 'ftp')
    """
    scheme = address.partition(":")[0].lower()
    return _ALIASES.get(scheme, scheme)


def scan(folder: AnyPath) -> list[os.DirEntry[str]] | list[Entry]:
    """The files of a folder. Raises FileNotFoundError or NotADirectoryError if a folder of this machine is none."""
    return list(os.scandir(folder)) if isinstance(folder, Path) else folder.entries()


def readable(file: AnyPath | str) -> Any:
    """The file as pyarrow reads it."""
    return file.open() if isinstance(file, ObjectPath) else file


def spark_name(folder: AnyPath) -> str:
    """The folder as Spark takes it."""
    if isinstance(folder, Path):
        return str(folder)
    scheme, _, rest = str(folder).partition("://")
    return f"{SCHEMES[scheme]}://{rest}"


class _Reader(io.RawIOBase):
    """The bytes of an object, of which each read is a request."""

    def __init__(self, path: ObjectPath, size: int) -> None:
        self._path, self._size, self._at = path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        buffer[:length] = self._path.read_range(self._at, length)
        self._at += length
        return length


@lru_cache(maxsize=64)
def _client(root: str, options: tuple[tuple[str, str], ...]) -> Any:
    obstore = _obstore()
    given = dict(options)
    of_client = {name: given.pop(name, "") for name in ("allow_http", *_RETRIES)}
    retries = {
        "max_retries": int(of_client["max_retries"]),
        "retry_timeout": timedelta(seconds=int(of_client["retry_timeout"].removesuffix("s"))),
    }
    http = {"allow_http": True} if of_client["allow_http"] == "true" else None
    try:
        return obstore.store.from_url(root, config=given or None, client_options=http, retry_config=retries)
    except obstore.exceptions.BaseError as error:
        said = str(error).partition("\n")[0][:200]
        raise ConfigurationError(
            f"storage_options are not what {root} takes: {said} Options are named as in aws_endpoint or aws_region"
        ) from None


def _obstore() -> Any:
    try:
        import obstore
        import obstore.store
    except ImportError:
        raise MissingDependencyError.for_extra("obstore", "object-storage") from None
    return obstore


@contextmanager
def _explained(path: ObjectPath) -> Iterator[None]:
    """Replace an error of the client by one that says what to do; of an object that is not there, by Python's own."""
    try:
        yield
    except FileNotFoundError as error:
        if NO_BUCKET in str(error):
            raise explained(str(path), error) from None
        raise FileNotFoundError(f"there is no {path}") from None
    except (_obstore().exceptions.BaseError, OSError) as error:
        raise explained(str(path), error) from None
