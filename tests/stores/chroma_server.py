"""A real server of `chroma run` for the tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.stores.loopback import Running, running


def serving(folder: Path, *, port: int | None = None) -> AbstractContextManager[Running]:
    """A server of this folder, until the block ends."""
    pytest.importorskip("chromadb")
    httpx = pytest.importorskip("httpx")

    def is_ready(uri: str) -> bool:
        try:
            return bool(httpx.get(f"{uri}/api/v2/heartbeat", timeout=5).is_success)
        except httpx.TransportError:
            return False

    return running("chroma", "run", "--path", str(folder), is_ready=is_ready, port=port)


@pytest.fixture(scope="session")
def chroma_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("chroma")) as server:
        yield server.uri
