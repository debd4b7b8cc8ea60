"""A PostgreSQL uri and its password in; an open connection that knows pgvector, and errors of ours, out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
# What PostgreSQL says when only a person can help; a failed connection carries no error code.
_REFUSALS = ("authentication failed", "does not exist", "no password supplied", "pg_hba.conf")


def psycopg() -> Any:
    return library("psycopg", distribution="psycopg", minimum="3.2", extra="pgvector")


class Server:
    """One database, connected at the first call, and again after the connection broke.

    Args:
        hnsw: searches may scan an HNSW index.
    """

    def __init__(self, uri: str, *, secret: str | None, hnsw: bool) -> None:
        _check(uri)
        self._uri, self._secret, self._hnsw = uri, secret, hnsw
        self._connection: Connection[Any] | None = None
        self.has_vector = False

    def open(self) -> Connection[Any]:
        if self._connection is None or self._connection.closed:
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
            self._connection, self.has_vector = opened, False
            found = opened.info.server_version
            if found < _OLDEST_SERVER:
                raise ConfigurationError(
                    f"{self._uri} is PostgreSQL {found // 10000}, lakeloop needs {_OLDEST_SERVER // 10000} or newer. "
                    "Upgrade the server."
                )
        if not self.has_vector:
            self.adopt_extension()
        return self._connection

    def create_extension(self) -> None:
        """In the open transaction, where the database lacks it."""
        errors = psycopg().errors
        try:
            self.open().execute("CREATE EXTENSION IF NOT EXISTS vector")
        except (errors.UndefinedFile, errors.FeatureNotSupported) as error:
            raise ConfigurationError(
                f"the server of {self._uri} has no pgvector ({_said(error)}). Install its package there, as in "
                "apt install postgresql-18-pgvector."
            ) from error

    def adopt_extension(self) -> None:
        """Teach the connection pgvector's types; nothing where the database does not have the extension yet."""
        assert self._connection is not None
        found = self._connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        if found is None:
            return
        check_version(
            f"pgvector in {self._uri}",
            found=found[0],
            minimum=_FIRST_WITH_ITERATIVE_SCANS if self._hnsw else _OLDEST_EXTENSION,
            remedy="Upgrade the server's package, then run there: ALTER EXTENSION vector UPDATE",
        )
        pgvector = library("pgvector.psycopg", distribution="pgvector", minimum="0.4", extra="pgvector")
        pgvector.register_vector(self._connection)
        if self._hnsw:
            # The scan goes on until k rows pass the filter, in order; without this it ends after the first few dozen.
            self._connection.execute("SET hnsw.iterative_scan = strict_order")
            self._connection.execute(f"SET hnsw.max_scan_tuples = {2**31 - 1}")
            self._connection.execute("SET hnsw.scan_mem_multiplier = 1000")
        self.has_vector = True

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
        if self._connection is not None:
            self._connection.close()
            self._connection = None


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
