"""Which columns of bronze hold what a renamed column held, by the settings of the runs before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pipelines.conductor.run import new_context
from pipelines.flow.states import STAGE_RUNS
from pipelines.records.source import record_source, refining
from pipelines.settings.sections import Settings
from pipelines.silver.refine_records import _earlier

ORDERS = {"format": "csv", "location": "orders", "key": ["k"]}


def _settings(root: Any, columns: dict[str, Any], **more: str) -> Settings:
    return Settings.model_validate({"root": root, "records": {"orders": {**ORDERS, **more, "columns": columns}}})


def test_a_renamed_column_is_what_was_read_from_the_same_one_of_the_source_and_no_other(tmp_path):
    was = _settings(tmp_path, {"k": "string", "n": "int", "odd": {"type": "int", "from": "x"}})
    lake = new_context(was).lake
    bronze = lake.ensure(record_source(was, "orders").bronze).table_id
    run = {"stage": "refine-records", "definition": f"4 {refining(was.records['orders'])}", "source_id": bronze}
    lake.append_arrow(STAGE_RUNS, [run | {"started_at": new_context(was).now()}])

    def earlier(columns: dict[str, Any], **more: str) -> dict[str, list[str]]:
        settings = _settings(tmp_path, columns, **more)
        arrivals: Any = SimpleNamespace(columns=["k", "n", "odd", *columns, "_op", "_texts"])
        return _earlier(new_context(settings), record_source(settings, "orders"), arrivals)

    size = {"type": "int", "from": "N"}
    assert earlier({"k": "string", "size": size}) == {"size": ["n"]}
    assert earlier({"k": "string", "x": "int", "other": {"type": "int", "from": "odd"}}) == {"x": ["odd"]}
    assert earlier({"k": "string", "n": "int", "odd": {"type": "int", "from": "x"}}) == {}
    key = {"id": {"type": "string", "from": "k"}}
    assert earlier(key, key=["id"]) == {"id": ["k"]}
    assert earlier(key, key=["id"], format="delta", location="./t") == {}
