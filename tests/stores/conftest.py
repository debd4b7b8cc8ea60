"""Every store of the name table, each by itself: `make_store` gives the store under test, or skips with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.settings.sections import Settings
from pipelines.stores import STORES, Store, open_store
from tests.stores.chroma_server import chroma_uri  # noqa: F401 - a fixture
from tests.stores.databricks_server import databricks_workspace  # noqa: F401 - a fixture
from tests.stores.milvus_server import milvus_uri  # noqa: F401 - a fixture
from tests.stores.postgres_server import postgres_uri  # noqa: F401 - a fixture
from tests.stores.rows import DIMENSION
from tests.stores.servers import VARIANTS, address
from transformations.errors import MissingDependencyError

_DECLARED = "what the store declares"

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
def make_store(variant: str, store_settings: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., Store]]:
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
        # With the report of the test, which comes from another process where several run.
        declared = (_DECLARED, (variant, _declared(made)))
        if declared not in request.node.user_properties:
            request.node.user_properties.append(declared)
        return made

    yield make
    for made in opened:
        made.drop()
        made.close()


def _declared(store: Store) -> list[str]:
    return [
        f"{answer.support:<8} {capability}{f': {answer.note}' if answer.note else ''}"
        for capability, answer in store.capabilities.items()
    ]


def pytest_terminal_summary(terminalreporter) -> None:
    """Each store that was tested, with what it declares."""
    shown: dict[str, list[str]] = {}
    for report in terminalreporter.getreports(""):
        shown.update(value for name, value in getattr(report, "user_properties", ()) if name == _DECLARED)
    if not shown:
        return
    terminalreporter.section("stores and what they declare")
    for variant, declared in shown.items():
        terminalreporter.write_line(variant)
        for line in declared:
            terminalreporter.write_line(f"  {line}")
