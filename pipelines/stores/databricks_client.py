"""Databricks' own client for one index, with a time limit and with our errors.

The plain client waits for an answer without end, and drops how long a busy service asks to wait. All requests of its
objects go through their method `_issue_request`, which is replaced by ours.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

from pydantic import Field

from pipelines.stores import StoreUnavailableError
from pipelines.stores.libraries import library
from pipelines.stores.place import Options, Place, PositiveSeconds
from transformations.errors import ConfigurationError

_URI = re.compile(r"databricks://(?P<endpoint>[^/]+)/(?P<catalog>[^./]+)\.(?P<schema>[^./]+)")
_LONGEST_PAUSE = 10.0


def ai_search(module: str) -> Any:
    """A module of Databricks' client."""
    return library(
        f"databricks.ai_search.{module}", distribution="databricks-ai-search", minimum="0.81", extra="databricks"
    )


class DatabricksOptions(Options):
    workspace_url: str = Field("", description="the address of the workspace; empty: what DATABRICKS_HOST says")
    timeout_seconds: PositiveSeconds = Field(60, description="how many seconds one request may take")
    wait_seconds: PositiveSeconds = Field(3600, description="how many seconds an index may take to be made or synced")
    source_table: str = Field("", description="which table Delta Sync reads")


class Connection:
    """One index of one endpoint.

    Args:
        place: its `uri` is databricks://<endpoint>/<catalog>.<schema>, its `secret` a personal access token; None: the
            client finds its own, as in a notebook or a job.
    """

    def __init__(self, place: Place) -> None:
        options, uri = place.parsed(DatabricksOptions), place.uri
        found = _URI.fullmatch(uri)
        if found is None:
            raise ConfigurationError(f"index.uri must be like databricks://endpoint/catalog.schema, but it is {uri!r}")
        self.endpoint, self.catalog = found["endpoint"], found["catalog"]
        self.index_name = f"{self.catalog}.{found['schema']}.{place.name}"
        self.source_table = options.source_table
        self._token, self._workspace_url = place.secret, options.workspace_url or os.environ.get("DATABRICKS_HOST")
        self._wait = options.wait_seconds
        self._send = _Requests(timeout=options.timeout_seconds)
        self._index: Any = None
        self._finding = threading.RLock()

    def index(self) -> Any | None:
        """The client's AISearchIndex, or None if there is no such index."""
        with self._finding:
            if self._index is None:
                try:
                    found = self._client.get_index(endpoint_name=self.endpoint, index_name=self.index_name)
                except ai_search("exceptions").NotFound:
                    return None
                self._index = self._limited(found)
            return self._index

    def create(self, kind: str, **spec: Any) -> Any:
        """Create the index with the client's method `create_<kind>_index`, or take one that another just created."""
        errors = ai_search("exceptions")
        try:
            create = getattr(self._client, f"create_{kind}_index")
            self._index = self._limited(create(endpoint_name=self.endpoint, index_name=self.index_name, **spec))
        except errors.ResourceConflict:
            self.index()
        except errors.NotFound as error:
            raise ConfigurationError(
                f"Databricks cannot create the index {self.index_name} ({error}). Create the endpoint "
                f"{self.endpoint!r}, the catalog and the schema first, or mend index.uri."
            ) from error
        return self._index

    def drop(self) -> None:
        try:
            self._client.delete_index(endpoint_name=self.endpoint, index_name=self.index_name)
        except ai_search("exceptions").NotFound:
            pass
        self._index = None

    def wait_until(self, done: Callable[[], bool], *, what: str) -> None:
        """Call `done` until it is true. Raises StoreUnavailableError after `wait_seconds`."""
        deadline, pause = time.monotonic() + self._wait, 0.1
        while not done():
            if time.monotonic() + pause > deadline:
                raise StoreUnavailableError(
                    f"the index {self.index_name} {what} after {self._wait:.0f} s. Databricks goes on with it: run "
                    "again later, or raise index.options.wait_seconds."
                )
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def close(self) -> None:
        self._send.close()

    @cached_property
    def is_standard(self) -> bool:
        """Whether the endpoint is of the type that takes filters as dictionaries; the other type takes SQL."""
        return bool(self._client.get_endpoint(self.endpoint).get("endpoint_type", "STANDARD") == "STANDARD")

    @cached_property
    def _client(self) -> Any:
        url = self._workspace_url
        if self._token is not None and not url:
            raise ConfigurationError(
                "the address of the Databricks workspace is missing: set index.options.workspace_url or the "
                "environment variable DATABRICKS_HOST, like https://adb-123.4.azuredatabricks.net"
            )
        if url:
            url = (url if "://" in url else f"https://{url}").rstrip("/")
        client = ai_search("client").AISearchClient
        try:
            made = client(workspace_url=url, personal_access_token=self._token, disable_notice=True)
        except Exception as error:
            raise ConfigurationError(
                f"Databricks' client found nothing to sign in with ({error}). Set index.secret: ${{DATABRICKS_TOKEN}}"
            ) from error
        return self._limited(made)

    def _limited(self, client: Any) -> Any:
        if not hasattr(client, "_issue_request"):
            raise ConfigurationError(
                "this version of databricks-ai-search sends its requests by another way, without a time limit. Install "
                "the last one that lakeloop was tested with: pip install databricks-ai-search==0.81"
            )
        client._issue_request = self._send
        return client


class _Requests:
    """Sends requests, in one session for each thread."""

    def __init__(self, *, timeout: float) -> None:
        self._timeout = timeout
        self._local = threading.local()

    def __call__(
        self,
        *,
        url: str,
        method: str,
        token: str | None = None,
        json: Any = None,
        params: Any = None,
        **_retries: Any,  # not used: the caller of the store tries again, and knows for how long
    ) -> Any:
        requests = library("requests", distribution="requests", minimum="2.28", extra="databricks")
        what = f"Databricks, {method} {url.partition('/api/2.0/')[2] or url}"
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            response = self._local.session.request(
                method, url, json=json, params=params, headers=headers, timeout=self._timeout
            )
        except (requests.Timeout, requests.ConnectionError) as error:
            raise StoreUnavailableError(f"{what}: no answer ({error})") from error
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if response.ok and answer is not None:
            return answer
        raise _error(what, response, answer if isinstance(answer, dict) else {})

    def close(self) -> None:
        if hasattr(self._local, "session"):
            self._local.session.close()


def _error(what: str, response: Any, answer: dict[str, Any]) -> Exception:
    errors = ai_search("exceptions")
    status, code = response.status_code, answer.get("error_code", "")
    text = f"{what}: {status} {code} {answer.get('message') or response.text[:200]}"
    if response.ok or status in (401, 403):
        hint = (
            "Check index.options.workspace_url." if response.ok else "Check index.secret and the grants of its owner."
        )
        return ConfigurationError(f"{text}. {hint}")
    if status in (408, 429) or status >= 500:
        return StoreUnavailableError(text, retry_after=_seconds(response.headers.get("Retry-After")))
    if status == 409 or code == "RESOURCE_ALREADY_EXISTS":
        return errors.ResourceConflict(text, status_code=status)  # type: ignore[no-any-return]
    kind = {400: errors.BadRequest, 404: errors.NotFound}.get(status, errors.AISearchException)
    return kind(text, status_code=status, error_code=code)  # type: ignore[no-any-return]


def _seconds(header: str | None) -> float | None:
    """The seconds in a Retry-After header; None for its other form, a date, which services like this do not use."""
    return float(header) if header is not None and header.replace(".", "", 1).isdigit() else None
