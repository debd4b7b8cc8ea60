"""The commands of records as processes: killed between append and checkpoint, and a stream that is told to stop."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from pipelines.settings.load import load_settings
from pipelines.settings.sections import Settings
from tests.support.killer import LAKELOOP, kill_when, run
from tests.support.recorded import ORDERS, now, put, rows

pytestmark = pytest.mark.long
HEADER = "order_id,updated_at,amount,note,op\n"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "lakeloop.yml").write_text(yaml.safe_dump({"records": {"orders": ORDERS}}), encoding="utf-8")
    (tmp_path / "orders").mkdir()
    return load_settings(tmp_path / "lakeloop.yml")


def test_killed_once_its_records_are_appended_it_does_not_append_them_again(settings: Settings):
    put(settings, "1.csv", HEADER + "".join(f"k{n},2024-01-01,{n},,U\n" for n in range(500)))
    log = settings.path("lakehouse/bronze/records_orders/_delta_log")

    def is_appended() -> bool:
        return (log / f"{1:020}.json").exists()

    assert kill_when(["ingest-records"], cwd=settings.root, moment=is_appended)
    assert len(rows(settings, "bronze.records_orders")) == 500
    for command in ("ingest-records", "refine-records"):
        assert run([command], cwd=settings.root).returncode == 0
    assert len(rows(settings, "bronze.records_orders")) == 500
    assert len(now(settings)) == 500


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.longest)])
def test_a_stream_without_end_stops_when_told_to_with_what_it_has_done(settings: Settings, number: signal.Signals):
    put(settings, "1.csv", HEADER + "a,2024-01-01,1,,U\n")
    command = [*LAKELOOP, "ingest-records", "--continuous", "--seconds", "0.5", "--json"]
    process = subprocess.Popen(command, cwd=settings.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 180
        while not rows(settings, "silver.records_orders") and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()
            time.sleep(0.5)
        process.send_signal(number)  # PySpark has a handler of its own for SIGINT
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert json.loads(out)["sources"]["orders"]["records"] == 1
    assert set(now(settings)) == {"a"}
