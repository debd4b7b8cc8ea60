"""Opens connections to PostgreSQL that know pgvector; its errors become ours."""

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
# So many connections a store; a thread that wants one more waits. PostgreSQL's own limit is 100 for all its clients.
_MOST_CONNECTIONS = 8
# What PostgreSQL says when only a person can help; a failed connection carries no error code.
_REFUSALS = ("authentication failed", "does not exist", "no password supplied", "pg_hba.conf")


def psycopg() -> Any:
    return library("psycopg", distribution="psycopg", minimum="3.2", extra="pgvector")


@dataclass
class Lane:
    """One connection, and whether it knows pgvector's types: a database that has no extension yet knows none."""

    connection: Connection[Any]
    has_vector: bool = False


class Server:
    """One database, connected at the first call, and again after a connection broke.

    Threads that work at the same time have a connection each: what one reads is never part of another's transaction.

    Args:
        hnsw: searches may scan an HNSW index.
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
        """A connection of this thread's own until the block ends; a block inside the block has the same one."""
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
        """`closed` is how often the server had been closed when the lane was taken."""
        if lane.connection.closed:
            # What broke this one broke the others: they would fail one search each.
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
            # A plan that was prepared fails once another process has made the table anew.
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
        """In the open transaction, where the database lacks it."""
        errors = psycopg().errors
        try:
            lane.connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except (errors.UndefinedFile, errors.FeatureNotSupported) as error:
            raise ConfigurationError(
                f"the server of {self._uri} has no pgvector ({_said(error)}). Install its package there, as in "
                "apt install postgresql-18-pgvector."
            ) from error

    def adopt_extension(self, lane: Lane) -> None:
        """Teach the connection pgvector's types; nothing where the database does not have the extension yet."""
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
            # The extension's own value, 40, found 0.965 of the ten nearest among 8,156 real chunks.
            lane.connection.execute(f"SET hnsw.ef_search = {_EF_SEARCH}")
            # The scan goes on until k rows pass the filter, in order; without this it ends after the first few dozen.
            lane.connection.execute("SET hnsw.iterative_scan = strict_order")
            lane.connection.execute(f"SET hnsw.max_scan_tuples = {2**31 - 1}")
            lane.connection.execute("SET hnsw.scan_mem_multiplier = 1000")
        lane.has_vector = True

    @contextmanager
    def errors(self) -> Iterator[None]:
        """What psycopg raises, as errors that say whether time or a person must help; bad data stays as it is."""
        library = psycopg()
        try:
            yield
        except library.errors.InsufficientPrivilege as error:
            raise ConfigurationError(
                f"{self._uri} does not allow it ({_said(error)}). Ask its administrator."
            ) from error
        except library.OperationalError as error:
            if error.sqlstate is None and any(refusal in str(error) for refusal in _REFUSALS):
                raise ConfigurationError(
                    f"{self._uri} refuses us ({_said(error)}). Check index.uri and index.secret."
                ) from error
            raise StoreUnavailableError(f"{self._uri} does not answer ({_said(error)})") from error

    def close(self) -> None:
        """Let go of what is idle now, and of what is in use as soon as it no longer is."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._closed += 1
        for lane in idle:
            lane.connection.close()


def _said(error: Exception) -> str:
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
