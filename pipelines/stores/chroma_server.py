"""Opens a Chroma client for a folder or an address, and turns its errors into ours."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipelines.stores import StoreUnavailableError
from pipelines.stores.libraries import check_version, library
from transformations.errors import ConfigurationError

# Chroma keeps its open folders in a table of the process, without a lock of its own.
_opening = threading.Lock()
_MAY_PASS = {408, 429, 502, 503, 504}
_REFUSED = {401, 403}
_VACUUM = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=60)
with database:
    database.execute("INSERT INTO embedding_fulltext_search(embedding_fulltext_search) VALUES ('optimize')")
database.execute("VACUUM")
"""


class Server:
    """A client of one server, or of the files of one folder, opened at the first call.

    Args:
        timeout: seconds that one request to a server may take.
    """

    def __init__(self, uri: str, *, token: str | None, timeout: float) -> None:
        self.folder = None if "://" in uri else Path(uri) / "chroma"
        if self.folder is None:
            _check(uri)
        self._uri = uri.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout = timeout
        self._client: Any | None = None

    def open(self) -> Any:
        with _opening:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> Any:
        chromadb = library("chromadb", distribution="chromadb", minimum="1.5", extra="chroma")
        settings = import_module("chromadb.config").Settings(anonymized_telemetry=False)
        if self.folder is not None:
            return chromadb.PersistentClient(self.folder, settings=settings)
        self._check_server()
        client = chromadb.HttpClient(self._uri, headers=self._headers, settings=settings)
        # The client waits forever, and has no setting for a timeout.
        session = client._server._session
        session.request = self._guarded(session.request)
        return client

    def vacuum(self) -> None:
        """Rewrite the folder's database, so that it loses what it has only marked as free.

        Another process does it: in one process the locks of Chroma's SQLite and of Python's would not exclude each
        other.
        """
        if self.folder is not None:
            command = [sys.executable, "-I", "-c", _VACUUM, str(self.folder / "chroma.sqlite3")]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise StoreUnavailableError(f"{command[-1]} could not be vacuumed: {done.stderr.strip()[-200:]}")

    def close(self) -> None:
        with _opening:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _check_server(self) -> None:
        answer = self._guarded(import_module("httpx").request)(
            "GET", f"{self._uri}/api/v2/version", headers=self._headers
        )
        if answer.status_code != 200:
            raise ConfigurationError(
                f"at {self._uri} is no Chroma server that lakeloop knows: it answers {answer.status_code} to "
                "/api/v2/version. Is index.uri its address?"
            )
        check_server(answer.json(), at=self._uri)

    def _guarded(self, request: Callable[..., Any]) -> Callable[..., Any]:
        """`request` with a timeout, and with errors that say whether to wait or to ask a person."""
        unreachable = import_module("httpx").TransportError

        def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                answer = request(*args, timeout=self._timeout, **kwargs)
            except unreachable as error:
                raise StoreUnavailableError(
                    f"the Chroma server at {self._uri} does not answer ({error!r}). Is it running? Start it with: "
                    "chroma run --path FOLDER --host 127.0.0.1 --port 8000"
                ) from error
            if answer.status_code in _MAY_PASS | _REFUSED:
                text = f"the Chroma server at {self._uri} answers {answer.status_code} ({answer.text[:200]})"
                if answer.status_code in _REFUSED:
                    raise ConfigurationError(f"{text}. Check index.secret.")
                wait = answer.headers.get("retry-after", "")
                raise StoreUnavailableError(text, retry_after=float(wait) if wait.isdecimal() else None)
            return answer

        return guarded


def check_server(version: str, *, at: str) -> None:
    """Raises ConfigurationError if the server is too old. All servers since 1.0 say 1.0.0."""
    check_version(f"Chroma at {at}", found=version, minimum="1.0", remedy="Upgrade the server.")


def _check(uri: str) -> None:
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        raise ConfigurationError(
            f"index.uri of Chroma is a folder or like http://localhost:8000, but it begins with {parts.scheme!r}"
        )
    if parts.password:
        raise ConfigurationError(
            f"index.uri of Chroma on {parts.hostname} holds a password, where logs and errors show it. Take it out, "
            "and name the environment variable that has the server's token: index.secret: ${CHROMA_TOKEN}"
        )
