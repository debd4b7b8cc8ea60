"""A double of Databricks AI Search: a local HTTP server, written from the REST API's documentation.

It is never the service: it shows that our requests have the documented form and that answers of the documented form
are understood; nothing about Databricks' consistency, ranking, limits or speed. Rows are in memory, searches exact.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

TOKEN = "dapi-of-the-double"
_TYPES = ("integer", "long", "float", "double", "boolean", "string", "date", "timestamp")
_PAGE = 1000
_LARGEST_REQUEST = 10_000_000
Row = dict[str, Any]


@dataclass
class Fault:
    """What the next requests whose path contains `path` meet instead of an answer, or before it."""

    path: str
    times: int = 1
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0


@dataclass
class Table:
    """A Delta table, as far as Delta Sync sees it."""

    version: int
    rows: list[Row]


@dataclass
class Index:
    described: dict[str, Any]
    key: str
    vector: str
    dimension: int
    columns: Mapping[str, str]
    table: Table | None
    update: Table | None
    rows: dict[str, Row] = field(default_factory=dict)
    version: int | None = None
    state: str = "PROVISIONING_PIPELINE_RESOURCES"
    polls_left: int = 1


class Refusal(Exception):
    def __init__(self, status: int, code: str, message: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


class AiSearchDouble:
    """The service's state, and how the test makes it misbehave."""

    def __init__(self) -> None:
        self.endpoints = {"search": "STANDARD"}
        self.tables: dict[str, Table] = {}
        self.indexes: dict[str, Index] = {}
        self.faults: list[Fault] = []
        self.refused_keys: set[str] = set()
        self.failing_updates = 0
        self.polls_per_update = 2
        self.requests: list[str] = []
        self._pages: dict[str, list[list[Any]]] = {}
        self._lock = threading.RLock()

    @contextmanager
    def serve(self) -> Iterator[str]:
        """The workspace's url; at the end the server is down."""
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, headers, said = double._answer(self.command, self.path, self.headers.get("Authorization"), body)
                data = json.dumps(said).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _answer(self, method: str, path: str, token: str | None, body: bytes) -> tuple[int, Mapping[str, str], Any]:
        fault = next((f for f in self.faults if f.path in path and f.times > 0), None)
        if fault is not None:
            fault.times -= 1
            time.sleep(fault.seconds)
        with self._lock:
            self.requests.append(f"{method} {path}")
            try:
                if fault is not None and fault.status:
                    raise Refusal(fault.status, "MADE_BY_THE_TEST", "as the test wanted", **fault.headers)
                if token != f"Bearer {TOKEN}":
                    raise Refusal(401 if token is None else 403, "PERMISSION_DENIED", "Invalid access token.")
                if len(body) > _LARGEST_REQUEST:
                    raise Refusal(400, "REQUEST_LIMIT_EXCEEDED", "The request is larger than 10 MB.")
                return 200, {}, self._route(method, path, json.loads(body) if body else {})
            except Refusal as refusal:
                return refusal.status, refusal.headers, {"error_code": refusal.code, "message": str(refusal)}

    def _route(self, method: str, path: str, body: Any) -> Any:
        found = re.fullmatch(
            r"/api/2\.0/vector-search(?:/endpoints/(?P<endpoint>[^/]+))?"
            r"(?P<indexes>/indexes(?:/(?P<index>[^/]+)(?:/(?P<verb>[a-z-]+))?)?)?",
            path,
        )
        if found is None:
            raise Refusal(404, "ENDPOINT_NOT_FOUND", f"No API found for {method} {path}")
        endpoint, index = found["endpoint"], found["index"]
        if endpoint is not None and endpoint not in self.endpoints:
            raise Refusal(404, "RESOURCE_DOES_NOT_EXIST", f"Endpoint {endpoint} does not exist.")
        if index is None:
            if found["indexes"] and method == "POST":
                return self._create(endpoint, body)
            state = {"name": endpoint, "endpoint_type": self.endpoints[endpoint]}
            return state | {"endpoint_status": {"state": "ONLINE"}}
        if index not in self.indexes:
            raise Refusal(404, "RESOURCE_DOES_NOT_EXIST", f"Index {index} does not exist.")
        verbs: dict[tuple[str, str | None], Callable[[Index, Any], Any]] = {
            ("GET", None): self._describe,
            ("DELETE", None): self._drop,
            ("POST", "upsert-data"): self._upsert,
            ("DELETE", "delete-data"): self._delete,
            ("POST", "sync"): self.sync,
            ("GET", "query"): self._query,
            ("GET", "query-next-page"): self._next_page,
            ("GET", "scan"): self._scan,
        }
        if (method, found["verb"]) not in verbs:
            raise Refusal(404, "ENDPOINT_NOT_FOUND", f"No API found for {method} {path}")
        return verbs[method, found["verb"]](self.indexes[index], body)

    def _create(self, endpoint: str, body: Row) -> Any:
        name, kind = body["name"], body["index_type"]
        if name in self.indexes:
            raise Refusal(409, "RESOURCE_ALREADY_EXISTS", f"Index {name} already exists.")
        spec = body["direct_access_index_spec" if kind == "DIRECT_ACCESS" else "delta_sync_index_spec"]
        (vector,) = spec["embedding_vector_columns"]
        columns = json.loads(spec.get("schema_json", "{}"))
        for column, declared in columns.items():
            if declared not in (("array<float>", "array<double>") if column == vector["name"] else _TYPES):
                raise Refusal(400, "INVALID_PARAMETER_VALUE", f"Column {column} has the type {declared}.")
        if kind == "DELTA_SYNC" and spec["source_table"] not in self.tables:
            raise Refusal(404, "TABLE_DOES_NOT_EXIST", f"Table {spec['source_table']} does not exist.")
        table = self.tables.get(spec.get("source_table", ""))
        index = Index(
            {**body, "endpoint_name": endpoint, "creator": "someone@example.com"},
            key=body["primary_key"],
            vector=vector["name"],
            dimension=vector["embedding_dimension"],
            columns=columns,
            table=table,
            update=None if table is None else Table(table.version, list(table.rows)),
        )
        self.indexes[name] = index
        return self._described(index)

    def _describe(self, index: Index, body: Any) -> Any:
        if index.polls_left:
            index.polls_left -= 1
        elif index.table is None:
            index.state = "ONLINE_DIRECT_ACCESS"
        elif index.update is not None:
            if self.failing_updates:
                self.failing_updates -= 1
                index.state = "ONLINE_PIPELINE_FAILED"
            else:
                index.version, index.state = index.update.version, "ONLINE_NO_PENDING_UPDATE"
                index.rows = {row[index.key]: row for row in index.update.rows}
            index.update = None
        return self._described(index)

    def _described(self, index: Index) -> Any:
        status: Row = {"detailed_state": index.state, "message": "as the double says", "ready": "ONLINE" in index.state}
        status["indexed_row_count"] = len(index.rows)
        if index.version is not None:
            status["triggered_update_status"] = {"last_processed_commit_version": index.version}
        return index.described | {"status": status}

    def _drop(self, index: Index, body: Any) -> Any:
        del self.indexes[index.described["name"]]
        return {}

    def sync(self, index: Index, body: Any) -> Any:
        if index.table is None:
            raise Refusal(400, "BAD_REQUEST", "Only a Delta Sync index can be synced.")
        if index.update is not None:
            raise Refusal(409, "RESOURCE_CONFLICT", "An update is running.")
        index.update = Table(index.table.version, list(index.table.rows))
        index.state, index.polls_left = "ONLINE_TRIGGERED_UPDATE", self.polls_per_update
        return {}

    def _writable(self, index: Index) -> None:
        if index.table is not None:
            raise Refusal(400, "BAD_REQUEST", "A Delta Sync index cannot be written to.")
        if index.state != "ONLINE_DIRECT_ACCESS":
            raise Refusal(400, "BAD_REQUEST", "The index is not ready.")

    def _upsert(self, index: Index, body: Any) -> Any:
        self._writable(index)
        rows = json.loads(body["inputs_json"])
        for row in rows:
            if not row.keys() <= index.columns.keys() or not row.get(index.key):
                raise Refusal(400, "INVALID_PARAMETER_VALUE", "The input does not fit the index's schema.")
            if len(row[index.vector]) != index.dimension or not all(
                v is None or isinstance(v, str) for c, v in row.items() if index.columns[c] == "string"
            ):
                raise Refusal(400, "INVALID_PARAMETER_VALUE", "A value does not fit its column's type.")
        failed = [row[index.key] for row in rows if row[index.key] in self.refused_keys]
        index.rows |= {row[index.key]: row for row in rows if row[index.key] not in failed}
        return _outcome(len(rows), failed)

    def _delete(self, index: Index, body: Any) -> Any:
        self._writable(index)
        failed = [key for key in body["primary_keys"] if key in self.refused_keys]
        for key in set(body["primary_keys"]) - set(failed):
            index.rows.pop(key, None)
        return _outcome(len(body["primary_keys"]), failed)

    def _query(self, index: Index, body: Any) -> Any:
        filters = json.loads(body["filters_json"]) if body.get("filters_json") else {}
        query, rows = np.array(body["query_vector"]), [row for row in index.rows.values() if passes(row, filters)]
        scores = [1 / (1 + float(np.sum((np.array(row[index.vector]) - query) ** 2))) for row in rows]
        best = sorted(zip(scores, range(len(rows)), strict=True), reverse=True)[: body["num_results"]]
        columns = [*body["columns"], "score"]
        found = [[*(rows[i].get(column) for column in body["columns"]), score] for score, i in best]
        return {"manifest": {"columns": [{"name": name} for name in columns]}} | self._page(found)

    def _next_page(self, index: Index, body: Any) -> Any:
        return self._page(self._pages.pop(body["page_token"]))

    def _page(self, rows: list[list[Any]]) -> Row:
        page: Row = {"result": {"row_count": len(rows[:_PAGE])} | ({"data_array": rows[:_PAGE]} if rows else {})}
        if rows[_PAGE:]:
            page["next_page_token"] = f"page-{len(self.requests)}"
            self._pages[page["next_page_token"]] = rows[_PAGE:]
        return page

    def _scan(self, index: Index, body: Any) -> Any:
        keys = sorted(key for key in index.rows if key > body.get("last_primary_key", ""))[: body["num_results"]]
        fields = [[{"key": c, "value": _value(v)} for c, v in index.rows[key].items()] for key in keys]
        return {"data": [{"fields": row} for row in fields]} | ({"last_primary_key": keys[-1]} if keys else {})


def _outcome(count: int, failed: list[str]) -> Row:
    status = "SUCCESS" if not failed else "PARTIAL_SUCCESS" if len(failed) < count else "FAILURE"
    return {"status": status, "result": {"success_row_count": count - len(failed), "failed_primary_keys": failed}}


def passes(row: Row, filters: Mapping[str, Any]) -> bool:
    """A standard endpoint's dictionary: keys joined by AND, a list means any of it, after NOT none of it."""
    for key, value in filters.items():
        column, _, operator = key.partition(" ")
        if column not in row or operator not in ("", "NOT"):
            raise Refusal(400, "INVALID_PARAMETER_VALUE", f"The filter {key!r} cannot be read.")
        if (row[column] in (value if isinstance(value, list) else [value])) == (operator == "NOT"):
            return False
    return True


def _value(value: Any) -> Row:
    if isinstance(value, list):
        return {"list_value": {"values": [_value(item) for item in value]}}
    return {} if value is None else {"string_value" if isinstance(value, str) else "number_value": value}
