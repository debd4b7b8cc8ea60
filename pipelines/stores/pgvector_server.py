"""Opens connections to PostgreSQL that know pgvector, and turns its errors into ours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from pipelines.stores import StoreUnavailableError
from pipelines.stores.libraries import check_version, library
from transformations.errors import ConfigurationError

if TYPE_CHECKING:
    from psycopg import Connection

_OLDEST_SERVER = 130000
_OLDEST_EXTENSION = "0.5.0"
_FIRST_WITH_ITERATIVE_SCANS = "0.8.0"
_EF_SEARCH = 100
# The most connections of one store; a thread that needs one more waits. PostgreSQL allows 100 to all its clients.
_MOST_CONNECTIONS = 8
# Texts of PostgreSQL's errors if only a person can help; a failed connection has no error code.
_REFUSALS = ("authentication failed", "does not exist", "no password supplied", "pg_hba.conf")


def psycopg() -> Any:
    return library("psycopg", distribution="psycopg", minimum="3.2", extra="pgvector")


@dataclass
class Lane:
    """One connection, and whether it knows pgvector's types: it cannot while the database has no extension."""

    connection: Connection[Any]
    has_vector: bool = False


class Server:
    """The connections to one database, opened at the first call, and again after one broke.

    Threads that work at the same time have a connection each, so that one never reads within another's transaction.

    Args:
        hnsw: whether searches may use an HNSW index.
    """

    def __init__(self, uri: str, *, secret: str | None, hnsw: bool) -> None:
        _check(uri)
        self._uri, self._secret, self._hnsw = uri, secret, hnsw
        self._idle: list[Lane] = []
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self._mine = threading.local()
        self._closed = 0

    @contextmanager
    def lane(self) -> Iterator[Lane]:
        """A connection for this thread alone until the block ends; a block inside it gets the same one."""
        held: Lane | None = getattr(self._mine, "lane", None)
        if held is not None:
            yield held
            return
        with self._slots:
            with self._lock:
                lane, closed = (self._idle.pop() if self._idle else None), self._closed
            lane = lane or self._connect()
            try:
                if not lane.has_vector:
                    self.adopt_extension(lane)
                self._mine.lane = lane
                yield lane
            finally:
                self._mine.lane = None
                self._give_back(lane, closed=closed)

    def _give_back(self, lane: Lane, *, closed: int) -> None:
        """Give a connection back; `closed` is how often `close` had been called when it was taken."""
        if lane.connection.closed:
            # The same cause has probably broken the idle ones too: each would make one search fail.
            self.close()
            return
        with self._lock:
            is_current = closed == self._closed
            if is_current:
                self._idle.append(lane)
        if not is_current:
            lane.connection.close()

    def _connect(self) -> Lane:
        password = {} if self._secret is None else {"password": self._secret}
        opened: Connection[Any] = psycopg().connect(
            self._uri,
            autocommit=True,
            connect_timeout=10,
            keepalives_idle=30,
            application_name="lakeloop",
            # A prepared plan fails after another process has created the table again.
            prepare_threshold=None,
            **password,
        )
        found = opened.info.server_version
        if found < _OLDEST_SERVER:
            opened.close()
            raise ConfigurationError(
                f"{self._uri} is PostgreSQL {found // 10000}, lakeloop needs {_OLDEST_SERVER // 10000} or newer. "
                "Upgrade the server."
            )
        return Lane(opened)

    def create_extension(self, lane: Lane) -> None:
        """Create the extension in the open transaction, if the database lacks it."""
        errors = psycopg().errors
        try:
            lane.connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except (errors.UndefinedFile, errors.FeatureNotSupported) as error:
            raise ConfigurationError(
                f"the server of {self._uri} has no pgvector ({_one_line(error)}). Install its package there, as in "
                "apt install postgresql-18-pgvector."
            ) from error

    def adopt_extension(self, lane: Lane) -> None:
        """Teach the connection pgvector's types; do nothing if the database does not have the extension yet."""
        found = lane.connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        if found is None:
            return
        check_version(
            f"pgvector in {self._uri}",
            found=found[0],
            minimum=_FIRST_WITH_ITERATIVE_SCANS if self._hnsw else _OLDEST_EXTENSION,
            remedy="Upgrade the server's package, then run there: ALTER EXTENSION vector UPDATE",
        )
        pgvector = library("pgvector.psycopg", distribution="pgvector", minimum="0.4", extra="pgvector")
        pgvector.register_vector(lane.connection)
        if self._hnsw:
            # With the extension's own value, 40, it found 0.965 of the ten nearest among 8,156 real chunks.
            lane.connection.execute(f"SET hnsw.ef_search = {_EF_SEARCH}")
            # The scan goes on until k rows pass the filter, in order; without this it ends after the first few dozen.
            lane.connection.execute("SET hnsw.iterative_scan = strict_order")
            lane.connection.execute(f"SET hnsw.max_scan_tuples = {2**31 - 1}")
            lane.connection.execute("SET hnsw.scan_mem_multiplier = 1000")
        lane.has_vector = True

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn errors of psycopg into ours, which say whether to wait or to ask a person; errors of bad data stay."""
        library = psycopg()
        try:
            yield
        except library.errors.InsufficientPrivilege as error:
            raise ConfigurationError(
                f"{self._uri} does not allow it ({_one_line(error)}). Ask its administrator."
            ) from error
        except library.OperationalError as error:
            if error.sqlstate is None and any(refusal in str(error) for refusal in _REFUSALS):
                raise ConfigurationError(
                    f"{self._uri} refuses us ({_one_line(error)}). Check index.uri and index.secret."
                ) from error
            raise StoreUnavailableError(f"{self._uri} does not answer ({_one_line(error)})") from error

    def close(self) -> None:
        """Close idle connections now, and those in use as soon as they are given back."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._closed += 1
        for lane in idle:
            lane.connection.close()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _check(uri: str) -> None:
    parts = urlsplit(uri)
    if parts.scheme not in ("postgresql", "postgres"):
        raise ConfigurationError(
            f"index.uri must be like postgresql://user@host:5432/database, but it begins with {parts.scheme!r}"
        )
    if parts.password or "password" in parse_qs(parts.query):
        raise ConfigurationError(
            f"index.uri of the database on {parts.hostname} holds a password, where logs and errors show it. Take it "
            "out, and name the environment variable that has it: index.secret: ${PGPASSWORD}"
        )
