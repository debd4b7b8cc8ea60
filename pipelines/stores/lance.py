"""The store for Lance: a dataset, of which readers see the version that the tag `served` names, so whole states only.

Every call makes one version of the dataset, atomic by itself. The manifest is part of the dataset's configuration. The
last act of a sync moves the tag to the version with the new manifest. A crash before that changes nothing for readers,
and the next sync writes the same rows again.

Readers share one handle of a version, which nobody changes. Writers have another handle, behind a lock, and move it to
newer versions: Lance fails if one thread moves a handle while another reads with it.
"""

from __future__ import annotations

import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import pyarrow as pa

from pipelines.lakehouse.schemas import INDEX_SCHEMA
from pipelines.storage.object_path import address_problem
from pipelines.storage.storage_errors import StorageError, explained
from pipelines.stores import Hit, Manifest, StoreUnavailableError, check_query, check_succession, damaged_index
from pipelines.stores.capabilities import declare, notimpl, yes
from pipelines.stores.libraries import library
from pipelines.stores.place import Options, Place
from transformations.errors import ConfigurationError, LakeloopError, RefusedError
from transformations.index.vectors import ANYTHING
from transformations.tables.filters import And, Filter, In, Not

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

_TAG = "served"
# What Lance says of a file that is missing, or is shorter than its contents say.
_SIGNS_OF_DAMAGE = (
    "Not found",
    "No such file",
    "failed to fill whole buffer",
    "file size is too small",
    "Invalid range",
    ".manifest was not found",
)
# What Lance says of a request that failed; what it says of rows or of a file has none of it.
_SIGNS_OF_STORAGE = (
    "Error performing",
    "error sending request",
    "Generic S3 error",
    "Generic GCS error",
    "Generic MicrosoftAzure error",
)
_MANIFEST_KEY = "lakeloop.manifest"
_HIT_COLUMNS = ["chunk_id", "document_id", "path", "title", "heading_path", "text"]
_DELETES_PER_CALL = 1000
_FRAGMENTS_BEFORE_COMPACTION = 32
# How long readers that opened an older version may go on with it.
_KEEP_VERSIONS_FOR = timedelta(hours=1)


class LanceStore:
    """One dataset, `<name>.lance` below `uri`: a folder, or an object-storage prefix."""

    capabilities = declare(
        atomic_commit=yes("readers open the version that the tag names"),
        compare_and_set=yes(
            "a change of the configuration conflicts with another one since the version it was read at"
        ),
        several_writers=yes("of different rows: two that insert the same new id at once both do"),
        other_processes=yes(),
        filters=yes(),
        approximate_search=notimpl("every search is exact; Lance's IVF_PQ is not used yet"),
        object_storage=yes("s3://bucket/prefix; of two writers that commit at once, one is refused"),
        forgets_at_once=yes(
            "old versions are removed and files rewritten; object storage may keep versions of its own"
        ),
    )

    options: ClassVar[type[Options]] = Options
    limits = ANYTHING

    def __init__(self, place: Place) -> None:
        if "://" in place.uri and (problem := address_problem(place.uri)):
            raise ConfigurationError(f"index.uri of Lance is {place.uri!r}: {problem}")
        self._uri = f"{place.uri}/{place.name}.lance"
        self._storage = None if place.storage is None else _named_for_lance(place.storage)
        self._dimension = place.dimension
        self._writing = threading.RLock()
        self._opening = threading.Lock()
        self._latest: Any | None = None
        self._served: tuple[Any, Any] | None = None

    def manifest(self) -> Manifest | None:
        with self._errors():
            return self._read(self._manifest)

    def _manifest(self, dataset: Any) -> Manifest | None:
        """The manifest, if every file of rows is there: a run that has nothing to write opens no other file."""
        if "://" not in self._uri:
            for fragment in dataset.get_fragments():
                for file in fragment.data_files():
                    if not os.path.exists(os.path.join(self._uri, "data", file.path)):
                        raise FileNotFoundError(f"Not found: {file.path}")
        text = dataset.config().get(_MANIFEST_KEY)
        return None if text is None else Manifest.from_json(text)

    def upsert(self, rows: pa.Table, *, are_new: bool = False) -> Mapping[str, str]:
        if rows.num_rows:
            with self._writing, self._errors():
                dataset, rows = self._open_or_create(), rows.select(self._schema.names).cast(self._schema)
                if are_new:
                    self._latest = _lance().write_dataset(rows, dataset, mode="append", storage_options=self._storage)
                else:
                    merge = dataset.merge_insert("chunk_id").when_matched_update_all().when_not_matched_insert_all()
                    merge.execute(rows)
        return {}

    def delete(self, ids: Sequence[str]) -> None:
        with self._writing, self._errors():
            dataset = self._open_latest()
            if dataset is None:
                return
            for start in range(0, len(ids), _DELETES_PER_CALL):
                dataset.delete(_sql(In("chunk_id", tuple(ids[start : start + _DELETES_PER_CALL]))))

    def commit(self, manifest: Manifest, *, expected: Manifest | None) -> None:
        with self._writing, self._errors():
            self._commit(manifest, expected=expected)

    def _commit(self, manifest: Manifest, *, expected: Manifest | None) -> None:
        dataset = self._open_or_create()
        if len(dataset.get_fragments()) > _FRAGMENTS_BEFORE_COMPACTION:
            dataset.optimize.compact_files()
        check_succession(self._read(self._manifest), expected=expected, new=manifest)
        try:
            dataset.update_config({_MANIFEST_KEY: manifest.to_json()})
        except OSError as error:
            if "conflict" in str(error).lower() and not self._is_of_bucket(error):
                raise RefusedError(f"another sync committed to {self._uri} meanwhile. Run it again.") from error
            raise
        if _TAG in dataset.tags.list():
            dataset.tags.update(_TAG, dataset.version)
        else:
            dataset.tags.create(_TAG, dataset.version)
        dataset.cleanup_old_versions(older_than=_KEEP_VERSIONS_FOR, error_if_tagged_old_versions=False)

    def ids_with_hashes(self) -> Iterator[pa.RecordBatch]:
        with self._writing, self._errors():
            dataset = self._open_latest()
            # A handle of its own, which stays at this version whoever writes meanwhile.
            dataset = None if dataset is None else dataset.checkout_version(dataset.version)
        if dataset is not None:
            with self._errors():
                yield from dataset.to_batches(columns=["chunk_id", "row_hash"])

    def rows(self) -> Iterator[pa.RecordBatch]:
        with self._errors():
            opened = self._open_pair()
            if opened is not None:
                yield from opened[1].to_batches()

    def search(self, vector: NDArray[np.float32], *, k: int, where: Filter | None = None) -> list[Hit]:
        check_query(vector, dimension=self._dimension, where=where)
        with self._errors():
            found = self._read(
                lambda dataset: dataset.to_table(
                    columns=[*_HIT_COLUMNS, "_distance"],
                    nearest={"column": "vector", "q": vector, "k": k, "metric": "cosine"},
                    filter=None if where is None else _sql(where),
                    prefilter=True,
                )
            )
        if found is None:
            return []
        return [
            Hit(
                **{**{c: row[c] for c in _HIT_COLUMNS}, "heading_path": tuple(row["heading_path"])},
                score=1 - row["_distance"],
            )
            for row in found.to_pylist()
        ]

    def forget(self) -> str:
        with self._writing, self._errors():
            dataset = self._open_latest()
            if dataset is not None:
                # Deleted rows stay in their file until it is rewritten.
                dataset.optimize.compact_files(materialize_deletions=True, materialize_deletions_threshold=0.0)
                if _TAG in dataset.tags.list():
                    dataset.tags.update(_TAG, dataset.version)
                dataset.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
        return "nothing: files rewritten, old versions removed"

    def drop(self) -> None:
        with self._writing, self._errors():
            if "://" in self._uri:
                dataset = self._open_latest()
                if dataset is not None:
                    dataset.drop(self._uri, storage_options=self._storage)
            else:
                shutil.rmtree(self._uri, ignore_errors=True)
            self.close()

    def close(self) -> None:
        with self._writing, self._opening:
            self._latest = self._served = None

    @property
    def _schema(self) -> pa.Schema:
        vector = pa.field("vector", pa.list_(pa.float32(), self._dimension))
        schema = INDEX_SCHEMA
        return schema.set(schema.get_field_index("vector"), vector)

    def _open_or_create(self) -> Any:
        dataset = self._open_latest()
        if dataset is None:
            dataset = self._latest = _lance().write_dataset(
                self._schema.empty_table(), self._uri, mode="create", storage_options=self._storage
            )
        return dataset

    def _open_latest(self) -> Any | None:
        """The writers' handle, at the last version that was written; what it has read of earlier ones stays cached."""
        if self._latest is not None:
            try:
                self._latest.checkout_latest()
                return self._latest
            except (ValueError, OSError) as error:
                if self._is_of_bucket(error):
                    raise
                self._latest = None  # dropped meanwhile
        self._latest = self._open()
        return self._latest

    def _open(self) -> Any | None:
        """A new handle on the last version; None if there is no dataset."""
        try:
            return _lance().dataset(self._uri, storage_options=self._storage)
        except ValueError as error:
            if "was not found" not in str(error):  # of a bucket that is gone it says 404 Not Found
                raise
        return None

    def _read(self, read: Callable[[Any], T]) -> T | None:
        """What `read` gets from the served version; None if there is none.

        A forget, or a commit an hour later, can remove the files of the version that a reader has opened. Then this
        reads again, from the version that is served by then.
        """
        while True:
            opened = self._open_pair()
            if opened is None:
                return None
            tag, dataset = opened
            try:
                return read(dataset)
            except (OSError, ValueError) as error:
                if self._is_of_bucket(error):
                    raise
                now = self._open_pair()
                if now is not None and now[0] == tag:
                    raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of Lance into ours where a file is missing or broken, or where the bucket is the cause."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            told = self._explained(error)
            if told is None:
                raise
            raise told from None

    def _explained(self, error: Exception) -> LakeloopError | None:
        if self._is_of_bucket(error):
            told = explained(self._uri, error)
            return StoreUnavailableError(str(told)) if isinstance(told, StorageError) else told
        return damaged_index(self._uri, error) if _is_damage(error) else None

    def _is_of_bucket(self, error: Exception) -> bool:
        """Whether the bucket does not answer, or does not allow it."""
        if "://" not in self._uri:
            return False
        text = str(error)
        # A file of credentials may be what is not found; an object that is not found is a failed request, too.
        return "credentials" in text or (any(sign in text for sign in _SIGNS_OF_STORAGE) and not _is_damage(error))

    def _open_pair(self) -> tuple[Any, Any] | None:
        """The tag, and a handle on the version that it names; kept open, with its cache, until the tag moves.

        While one thread opens the next version, the others wait for it instead of opening it again.
        """
        seen = self._served
        if seen is not None and _tag_of(seen[1]) == seen[0]:
            return seen
        with self._opening:
            if self._served is not seen:
                return self._served
            self._served = self._opened()
            return self._served

    def _opened(self) -> tuple[Any, Any] | None:
        """The tag, and a new handle on the version that it names."""
        dataset = self._open()
        while dataset is not None and (tag := _tag_of(dataset)) is not None:
            try:
                return tag, dataset.checkout_version(tag["version"])
            except (OSError, ValueError) as error:
                # A commit or a forget elsewhere may have moved the tag and removed its version meanwhile.
                if self._is_of_bucket(error) or _tag_of(dataset) == tag:
                    raise
        return None


def _is_damage(error: Exception) -> bool:
    return any(sign in str(error) for sign in _SIGNS_OF_DAMAGE)


def _named_for_lance(options: Mapping[str, str]) -> dict[str, str]:
    """The options of the client of object storage; Lance has names of its own for how long it tries again."""
    named = dict(options)
    for name in ("max_retries", "retry_timeout"):
        if name in named:
            named.setdefault(f"client_{name}", named.pop(name).removesuffix("s"))
    return named


def _tag_of(dataset: Any) -> Any | None:
    """The tag as it is now, whatever version the handle has."""
    return dataset.tags.list().get(_TAG)


def _sql(where: Filter) -> str:
    """The filter as Lance's SQL. Columns are known names; values are literals, in which only a quote is escaped."""
    if isinstance(where, In):
        return f"{where.column} IN ({', '.join(map(_literal, where.values))})"
    if isinstance(where, Not):
        return f"NOT ({_sql(where.part)})"
    return (" AND " if isinstance(where, And) else " OR ").join(f"({_sql(part)})" for part in where.parts)


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _lance() -> Any:
    # Its warnings of a bucket go to stderr beside our log, and repeat what the error says.
    os.environ.setdefault("LANCE_LOG", "error")
    lance = library("lance", distribution="pylance", minimum="8.0", extra="lance")
    # It warns at every fork; a fork of ours starts another program (Java) at once, which is safe.
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    return lance
