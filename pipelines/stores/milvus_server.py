"""Calls Milvus Lite or a Milvus server, and turns its errors into ours."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipelines.stores import StoreUnavailableError
from pipelines.stores.libraries import check_version, library
from transformations.errors import ConfigurationError

_OLDEST_SERVER = "2.5"
_OLDEST_LITE = "3.2"
# Error codes of pymilvus, and names of codes of gRPC.
_MAY_PASS = {2, 8, "UNAVAILABLE", "DEADLINE_EXCEEDED"}
_REFUSED = {"UNAUTHENTICATED", "PERMISSION_DENIED"}

# By default pymilvus pings an idle server every 10 s, and Milvus Lite's server closes connections that ping so often.
# And connections must not be shared: clients that share one also share its pause after a failure.
_GRPC = {
    "grpc.keepalive_time_ms": 300_000,
    "grpc.keepalive_permit_without_calls": False,
    "grpc.use_local_subchannel_pool": 1,
}

# Milvus Lite runs one server for each file in this process; it stops when its last handle is closed.
_handles: Counter[Path] = Counter()
_handles_lock = threading.Lock()


def pymilvus() -> Any:
    # It would log what it raises, with the whole stack.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    return library("pymilvus", distribution="pymilvus", minimum="3.0", extra="milvus")


class Server:
    """A client of one server, or of one file of Milvus Lite, connected at the first call.

    Args:
        timeout: seconds that one call may take.
    """

    def __init__(self, uri: str, *, token: str | None, timeout: float) -> None:
        self.file = None if "://" in uri else Path(uri) / "milvus.db"
        if self.file is None:
            _check(uri)
        self._uri = uri if self.file is None else str(self.file)
        self._token, self._timeout = token or "", timeout
        self._client: Any | None = None
        self._opening = threading.Lock()

    def call(self, method: str, collection: str, **arguments: Any) -> Any:
        client = self._open()
        with self.errors():
            return getattr(client, method)(collection, timeout=self._timeout, **arguments)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn errors of pymilvus into ours, which say whether to wait or to ask a person; errors of bad data stay."""
        raised = pymilvus().exceptions
        try:
            yield
        except raised.ConnectionConfigException as error:
            raise StoreUnavailableError(
                f"{self._uri} cannot be opened. As a rule another process has it open, and Milvus Lite serves one at a "
                f"time: wait for it, or run `milvus-lite server --data-dir {self._uri} --host 127.0.0.1` and set "
                "index.uri to its address."
            ) from error
        except (raised.MilvusException, import_module("grpc").RpcError) as error:
            code = error.code() if callable(error.code) else error.code
            code = getattr(code, "name", code)
            if code in _MAY_PASS:
                raise StoreUnavailableError(
                    f"Milvus at {self._uri} does not answer, or is too busy ({error}). Is it running?"
                ) from error
            if code in _REFUSED:
                raise ConfigurationError(f"Milvus at {self._uri} refuses us ({error}). Check index.secret.") from error
            raise

    def close(self) -> None:
        if self._client is None:
            return
        self._client.close()
        self._client = None
        if self.file is not None:
            with _handles_lock:
                _handles[self.file] -= 1
                if not _handles[self.file]:
                    _milvus_lite().server_manager_instance.release_server(self._uri)

    def _open(self) -> Any:
        with self._opening:
            if self._client is None:
                if self.file is None:
                    self._client = self._connect()
                else:
                    _milvus_lite()
                    self.file.parent.mkdir(parents=True, exist_ok=True)
                    with _handles_lock:
                        self._client = self._connect()
                        _handles[self.file] += 1
            return self._client

    def _connect(self) -> Any:
        with self.errors():
            # Dedicated, since a shared connection would outlive this handle.
            client = pymilvus().MilvusClient(
                self._uri, token=self._token, timeout=self._timeout, dedicated=True, grpc_options=_GRPC
            )
            check_server(client.get_server_version(), at=self._uri)
        return client


def check_server(version: str, *, at: str) -> None:
    """Raises ConfigurationError if the server is too old; it says `v2.6.0`, or `milvus_lite-3.2.2` for Milvus Lite."""
    number = version.removeprefix("milvus_lite-")
    minimum = _OLDEST_SERVER if number == version else _OLDEST_LITE
    check_version(f"Milvus at {at}", found=number, minimum=minimum, remedy="Upgrade the server.")


def _milvus_lite() -> Any:
    return library("milvus_lite", distribution="milvus-lite", minimum=_OLDEST_LITE, extra="milvus")


def _check(uri: str) -> None:
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        raise ConfigurationError(
            f"index.uri of Milvus is a folder or like http://localhost:19530, but it begins with {parts.scheme!r}"
        )
    if parts.password:
        raise ConfigurationError(
            f"index.uri of Milvus on {parts.hostname} holds a password, where logs and errors show it. Take it out, "
            "and name the environment variable that has user:password or a token: index.secret: ${MILVUS_TOKEN}"
        )
