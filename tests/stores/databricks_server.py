"""Databricks' double for the tests of the contract, served once a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stores.databricks_double import AiSearchDouble


@pytest.fixture(scope="session")
def databricks_workspace() -> Iterator[str]:
    """The workspace's url; each test makes and drops its own indexes there."""
    with AiSearchDouble().serve() as url:
        yield url
