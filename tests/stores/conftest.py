"""Every store of the name table, each by itself: `make_store` gives the store under test, or skips with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.settings import Settings
from pipelines.stores import STORES, Store, open_store
from tests.stores.chroma_server import chroma_uri  # noqa: F401 - a fixture
from tests.stores.databricks_server import databricks_workspace  # noqa: F401 - a fixture
from tests.stores.milvus_server import milvus_uri  # noqa: F401 - a fixture
from tests.stores.postgres_server import postgres_uri  # noqa: F401 - a fixture
from tests.stores.rows import DIMENSION
from tests.stores.servers import VARIANTS, address
from transformations.errors import MissingDependencyError

_SHOWN: dict[str, Store] = {}


# One of each kind: whole syncs, a served database, a library that cannot change. The others take a minute; CI runs all.
BY_DEFAULT = {"lance", "pgvector", "faiss (early base)"}


@pytest.fixture(
    params=[
        pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.long)
        for store in STORES
        for name in VARIANTS.get(store, (store,))
    ]
)
def variant(request: pytest.FixtureRequest) -> str:
    """A store, and how it is run, as in `chroma (server)`."""
    return str(request.param)


@pytest.fixture
def store_settings(variant: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The settings of the store under test, as JSON: another process reads them."""
    store, index = address(variant, tmp_path, request)
    return json.dumps({"root": str(tmp_path), "index": {"store": store, **index}})


@pytest.fixture
def make_store(variant: str, store_settings: str) -> Iterator[Callable[..., Store]]:
    """Opens the index `name` anew at each call, like another program would."""
    settings = Settings(**json.loads(store_settings))
    opened: list[Store] = []

    def make(name: str = "chunks") -> Store:
        made = open_store(settings, dimension=DIMENSION, name=name)
        try:
            made.manifest()
        except MissingDependencyError as error:
            pytest.skip(str(error))
        opened.append(made)
        _SHOWN[variant] = made
        return made

    yield make
    for made in opened:
        made.drop()
        made.close()


def pytest_terminal_summary(terminalreporter) -> None:
    """Each store that was tested, with what it declares."""
    if not _SHOWN:
        return
    terminalreporter.section("stores and what they declare")
    for name, store in _SHOWN.items():
        terminalreporter.write_line(name)
        for capability, answer in store.capabilities.items():
            note = f": {answer.note}" if answer.note else ""
            terminalreporter.write_line(f"  {answer.support:<8} {capability}{note}")
