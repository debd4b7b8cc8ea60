"""Messages of a real Kafka broker become records by the command line, each once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipelines.settings.load import load_settings
from tests.support.kafka_broker import Broker, kafka_broker
from tests.support.killer import run
from tests.support.recorded import now, refused, rows

pytestmark = pytest.mark.longest


def _workspace(root: Path, broker: Broker) -> None:
    source = {
        "format": "kafka",
        "location": "orders",
        "key": ["order_id"],
        "columns": {"order_id": "string", "amount": "int"},
        "options": {"bootstrap.servers": broker.address},
    }
    (root / "lakeloop.yml").write_text(yaml.safe_dump({"records": {"orders": source}}), encoding="utf-8")


def _run(root: Path, command: str, *, code: int = 0) -> dict[str, int]:
    done = run([command, "--json"], cwd=root)
    assert done.returncode == code, done.stderr
    stages = json.loads(done.stdout)["stages"]
    return stages[0]["counts"] if stages else {}


def test_messages_arrive_once_tombstones_delete_and_what_is_no_record_is_set_aside(tmp_path):
    with kafka_broker(tmp_path / "kafka") as broker:
        _workspace(tmp_path, broker)
        settings = load_settings(tmp_path / "lakeloop.yml")
        first = [
            ("a", '{"order_id": "a", "amount": 1}'),
            ("b", '{"order_id": "b", "amount": 2}'),
            ("a", '{"order_id": "a", "amount": 3}'),
            ("c", "no JSON"),
            ("d", '{"order_id": "d", "amount": 4, "color": "red"}'),
        ]
        broker.send("orders", first)
        assert _run(tmp_path, "ingest-records")["records"] == 5
        assert _run(tmp_path, "refine-records", code=6)["set_aside"] == 2
        assert {key: row["amount"] for key, row in now(settings).items()} == {"a": 3, "b": 2}
        assert sorted(row["failed_rules"][0] for row in refused(settings)) == ["has_known_columns", "is_readable"]

        assert _run(tmp_path, "ingest-records")["records"] == 0
        broker.send("orders", [("b", None), ("e", '{"order_id": "e", "amount": 5}')])
        assert _run(tmp_path, "ingest-records")["records"] == 2
        _run(tmp_path, "refine-records")
        assert {key: row["amount"] for key, row in now(settings).items()} == {"a": 3, "e": 5}
        offsets = [row["_offset"] for row in rows(settings, "bronze.records_orders")]
        assert sorted(offsets) == list(range(7))
