"""`make cluster`: two deliveries by spark-submit, a worker killed in the second, equal to local runs of the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.__main__ import KILLED_IN, campaign, faults, table

pytestmark = pytest.mark.longest


def test_a_cluster_that_loses_a_worker_comes_to_the_tables_of_a_laptop(tmp_path: Path):
    result = campaign(tmp_path)
    print(table(result))
    assert faults(result) == []
    first, second = result["deliveries"]
    embedding = [{of["stage"]: of for of in delivery["stages"]}[KILLED_IN] for delivery in (first, second)]
    assert len(embedding[0]["tasks"].keys() - {"driver"}) == 2, "both executors embed"
    assert embedding[1]["lost"] > 0, "the killed worker was doing a task, which another did again"
