"""Records and features by the commands of the bundle's job, in a session of Spark Connect that has no cache."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest
import yaml

from tests.end_to_end.test_deployed_job import JOB, NO_CACHE
from tests.support.connect import ConnectServer, connect_server
from tests.support.job_runner import JobRunner
from tests.support.killer import run

pytestmark = pytest.mark.longest
ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("ingest-records", "refine-records", "build-features")
TABLE = "spark_catalog.shop.people"
HEADER = "order_id,customer,updated_at,amount,op\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ConnectServer]:
    (tmp_path / "server").mkdir()
    with connect_server(tmp_path / "server") as server:
        yield server


def _day(day: int) -> datetime:
    return datetime(2024, 1, day, tzinfo=timezone.utc)


class Shop:
    """A folder of orders and a table of people, and what the job makes of them."""

    def __init__(self, server: ConnectServer, root: Path) -> None:
        self.server, self.root = server, root
        session = {"SPARK_REMOTE": server.remote, "PYSPARK_PYTHON": sys.executable}
        self.runner = JobRunner(
            ROOT, "dev", root, session=session, environment={"PYTHONPATH": str(ROOT)}, prelude=NO_CACHE
        )
        orders = {
            "format": "csv",
            "location": str(root / "orders"),
            "key": ["order_id"],
            "order_by": ["updated_at"],
            "columns": {"order_id": "string", "customer": "string", "updated_at": "timestamp", "amount": "int"},
            "op": {"column": "op"},
        }
        people = {"format": "delta", "location": TABLE, "key": ["id"], "columns": {"id": "bigint", "name": "string"}}
        self.sources = {"orders": orders, "people": people}
        (root / "orders").mkdir()
        self.sql(*(f"CREATE SCHEMA `{schema}`" for schema in (*self.runner.schemas, "shop")))

    def sql(self, *statements: str) -> None:
        self.server.python("\n".join(f"spark.sql({statement!r})" for statement in statements))

    def settings(self, **more: Any) -> list[str]:
        sources = {**self.sources, **more}
        sets = [f"records.{name}={yaml.safe_dump(of, default_flow_style=True)}" for name, of in sources.items()]
        return [*sets, "features=[tests.support.feature_tables:ORDERS]"]

    def run(self) -> dict[str, dict[str, int]]:
        """Each command's counts, by command and source."""
        counts = {}
        for command in COMMANDS:
            said = self.runner.command(command, *(f"--set={each}" for each in self.settings()), job=JOB)
            assert "failed" not in said, said
            counts[command] = {stage.get("source", ""): stage["counts"] for stage in said["stages"]}
        return counts

    def rows(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        """The rows of a table, read without Spark."""
        schema, name = table.split(".")
        prefixed = next(each for each in self.runner.schemas if each.endswith(schema))
        found = pa.table(deltalake.DeltaTable(str(self.server.warehouse / f"{prefixed}.db" / name)).scan())
        return sorted(tuple(row[c] for c in columns) for row in found.to_pylist() if row.get("_marks") is None)


def test_two_deliveries_of_files_and_of_a_table_become_records_history_and_features(
    server: ConnectServer, tmp_path: Path
):
    shop = Shop(server, tmp_path)
    (tmp_path / "orders/1.csv").write_text(
        HEADER + "a,ann,2024-01-01,1,U\nb,bob,2024-01-01,2,U\nc,ann,2024-01-01,3,U\nd,ann,2024-01-01,three,U\n"
    )
    shop.sql(
        f"CREATE TABLE {TABLE} (id BIGINT, name STRING) USING delta TBLPROPERTIES (delta.enableChangeDataFeed = true)",
        f"INSERT INTO {TABLE} VALUES (1, 'ann'), (2, 'bob')",
    )
    first = shop.run()
    assert [sum(each["records"] for each in first["ingest-records"].values())] == [6]
    assert shop.rows("silver.records_orders", "order_id", "amount") == [("a", 1), ("b", 2), ("c", 3)]
    assert shop.rows("silver.records_people", "id", "name") == [(1, "ann"), (2, "bob")]
    (refused,) = shop.rows("silver.records_orders_quarantine", "failed_rules", "_source_file")
    assert refused == (["has_type_amount"], "1.csv")
    features = ("customer", "event_at", "orders_2d", "amount_2d")
    assert shop.rows("gold.features_orders", *features) == [("ann", _day(2), 2, 4), ("bob", _day(2), 1, 2)]

    (tmp_path / "orders/2.csv").write_text(HEADER + "a,ann,2024-01-02,5,U\nb,,2024-01-02,,D\ne,eve,2024-01-02,7,U\n")
    shop.sql(
        f"UPDATE {TABLE} SET name = 'anna' WHERE id = 1",
        f"DELETE FROM {TABLE} WHERE id = 2",
        f"INSERT INTO {TABLE} VALUES (3, 'eve')",
    )
    second = shop.run()
    assert [sum(each["records"] for each in second["ingest-records"].values())] == [6]
    assert shop.rows("silver.records_orders", "order_id", "amount") == [("a", 5), ("c", 3), ("e", 7)]
    assert shop.rows("silver.records_people", "id", "name") == [(1, "anna"), (3, "eve")]
    versions = ("order_id", "amount", "valid_from", "is_current")
    assert shop.rows("silver.records_orders_history", *versions) == [
        ("a", 1, _day(1), False),
        ("a", 5, _day(2), True),
        ("b", 2, _day(1), False),
        ("c", 3, _day(1), True),
        ("e", 7, _day(2), True),
    ]
    assert shop.rows("silver.records_people_history", "id", "name", "is_current") == [
        (1, "ann", False),
        (1, "anna", True),
        (2, "bob", False),
        (3, "eve", True),
    ]
    assert shop.rows("gold.features_orders", *features) == [
        ("ann", _day(2), 1, 3),
        ("ann", _day(3), 2, 8),
        ("eve", _day(3), 1, 7),
    ]
    assert shop.run() == {command: {} for command in COMMANDS}

    # Labels with what was known of their customers then; and the same rows once more.
    settings = [*shop.settings(), "catalog=spark_catalog", f"schema_prefix={shop.runner.schemas[0][: -len('bronze')]}"]
    said = server.python(
        "from pipelines.conductor.run import new_context\n"
        "from pipelines.features.training_set import Lookup, cut, recut\n"
        "from pipelines.settings.load import load_settings\n"
        f"context = new_context(load_settings(overrides={settings!r}))\n"
        "lookups = [Lookup('gold.features_orders', ('customer',), ('amount_2d',))]\n"
        "made = cut(context, name='t', labels='silver.records_orders', at='updated_at', lookups=lookups)\n"
        "again = recut(context, made.training_set_id)\n"
        "print([row.amount_2d for row in again.rows.orderBy('order_id').collect()])\n"
    )
    assert "[3, None, None]" in said

    # What is a stream is refused, and the rest is read.
    (tmp_path / "orders/3.csv").write_text(HEADER + "f,eve,2024-01-03,1,U\n")
    topic = {"format": "kafka", "location": "t", "options": {"bootstrap.servers": "127.0.0.1:1"}}
    sets = [*shop.settings(topic={**shop.sources["people"], **topic}), *settings[-2:]]
    words = ["ingest-records", *(f"--set={each}" for each in sets)]
    done = run(words, cwd=tmp_path, SPARK_REMOTE=server.remote)
    assert done.returncode == 5
    assert "'topic' is read as a stream" in done.stderr
    assert len(shop.rows("bronze.records_orders", "order_id")) == 8
