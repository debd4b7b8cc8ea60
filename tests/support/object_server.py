"""A real server of S3's API (moto's) for the tests, with one bucket; it keeps objects in memory."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.storage import object_path
from tests.stores.loopback import Running, running

BUCKET = "lake"
# The server checks no signature; clients want something to sign with.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "an-access-key-of-tests",
    "AWS_SECRET_ACCESS_KEY": "a-secret-key-of-tests",
    "AWS_REGION": "eu-central-1",
}


@contextmanager
def serving(*, port: int | None = None) -> Iterator[Running]:
    """A server with the empty bucket `BUCKET`, until the block ends."""
    pytest.importorskip("obstore")
    # An environment of its own: it needs an older version of a package than lakeloop's.
    program = Path(sys.prefix) / "moto" / "bin" / "moto_server"
    if not program.exists():
        pytest.skip("no moto: bin/set_up.py --dev installs it")

    def is_ready(uri: str) -> bool:
        request = urllib.request.Request(f"{uri}/{BUCKET}", method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    with running(str(program), is_ready=is_ready, port=port) as server:
        yield server


@contextmanager
def bucket_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """`serving`, and the variables of the environment by which clients find it."""
    with serving() as server:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL_S3": server.uri}.items():
            monkeypatch.setenv(name, value)
        object_path._client.cache_clear()  # a client has read the environment, and with it an earlier server's port
        yield server
