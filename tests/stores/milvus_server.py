"""Milvus Lite's server for the tests: it speaks Milvus's protocol, where no Milvus cluster can be started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.stores.loopback import Running, running


def serving(folder: Path, *, port: int | None = None) -> AbstractContextManager[Running]:
    """A server of this folder, until the block ends."""
    pymilvus = pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")

    def is_ready(uri: str) -> bool:
        try:
            pymilvus.MilvusClient(uri, timeout=5, dedicated=True).close()
        except pymilvus.MilvusException:
            return False
        return True

    return running("milvus-lite", "server", "--data-dir", str(folder), is_ready=is_ready, port=port)


@pytest.fixture(scope="session")
def milvus_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("milvus")) as server:
        yield server.uri
