"""A record traced by its key, over tables that are written without Spark."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from pipelines.conductor.run import new_context
from pipelines.flow.stage import Context
from pipelines.lakehouse.opening import open_lakehouse
from pipelines.operations.trace import trace
from pipelines.records.source import declare, record_source
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError

AT = datetime(2026, 1, 2, tzinfo=timezone.utc)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    def explode():
        raise AssertionError("a trace asked for Spark")

    flights = {
        "format": "csv",
        "location": "flights",
        "columns": {"carrier": "string", "number": "int", "delay": "int"},
        "key": ["carrier", "number"],
    }
    settings = Settings(root=tmp_path, records={"flights": flights})
    return Context(settings, open_lakehouse(settings, spark=explode), new_context(settings).run_id)


def test_a_record_is_traced_by_the_values_of_its_key_to_the_file_and_the_run(context: Context):
    source = declare(context.lake, record_source(context.settings, "flights"))
    key = {"carrier": "AA", "number": 11}
    stored = {"_changed_at": AT, "_ingested_at": AT, "_run_id": "run-2"}
    context.lake.append_arrow(source.silver, [key | {"delay": 5} | stored, key | {"number": 12} | stored])
    arrival = {"_op": "upsert", "_source_file": "flights/1.csv", "_offset": 7, "_ingested_at": AT, "_run_id": "run-1"}
    context.lake.append_arrow(source.bronze, [key | {"delay": 5} | arrival])
    refused = {"record_id": "f00d", "failed_rules": ["delay_is_known"], "reason": "null", "_run_id": "run-2"}
    context.lake.append_arrow(source.quarantine, [refused])

    found = trace(context, "AA,11")
    assert (found.kind, [step.place for step in found.steps]) == ("record", [source.silver, source.bronze])
    bronze = found.steps[-1].facts
    assert (bronze["_source_file"], bronze["_offset"], bronze["_run_id"]) == ("flights/1.csv", 7, "run-1")
    assert found.runs == [{"run_id": "run-1", "stage": None}, {"run_id": "run-2", "stage": None}]
    [step] = trace(context, "f00d").steps
    assert (step.place, step.facts["failed_rules"]) == (source.quarantine, ["delay_is_known"])
    with pytest.raises(ConfigurationError, match=r"'AA,13' is or was"):
        trace(context, "AA,13")
