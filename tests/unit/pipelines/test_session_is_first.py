"""A run in a process of its own begins the session with the first stage that needs it, whichever that is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Spark's functions need a session too, and say so by a bare assertion. In a process that has one nobody would see it.
_EACH_STAGE = """
import sys
from pathlib import Path

from pipelines.lakehouse.tables import Lakehouse
from pipelines.lakehouse.opening import open_lakehouse
from pipelines.models.embedders import embedding_model
from pipelines.records.source import declare, record_source
from pipelines.conductor.stages import STAGES
from pipelines.settings.sections import Settings
from pipelines.flow.stage import Context, Versions, Work
from pipelines.progress import Progress


class SparkIsNeeded(Exception):
    pass


def spark():
    raise SparkIsNeeded


settings = Settings.model_validate({
    "root": sys.argv[1],
    "records": {"orders": {
        "location": "orders", "format": "csv", "key": ["id"], "order_by": ["at"],
        "columns": {"id": {"type": "string"}, "at": {"type": "timestamp"}},
    }},
})
Path(sys.argv[1], "landing", "orders").mkdir(parents=True)
lake = open_lakehouse(settings, spark=spark)
declare(lake, record_source(settings, "orders"))
context = Context(settings, lake, "run", Progress(), False)
for stage, each in [(stage, each) for stage in STAGES for each in stage.contexts(context) if stage.targets]:
    heads = [lake.ensure(table) for table in stage.sources_of(each)]
    for until in (0, 1):
        try:
            if not stage.records:
                stage.work(each, Work(tuple(Versions(0, until, head.table_id) for head in heads)))
        except SparkIsNeeded:
            print(stage.command)
        except Exception as error:
            print(stage.command, repr(error))
"""


def test_every_stage_asks_for_the_session_before_it_uses_spark(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", _EACH_STAGE, str(tmp_path)], capture_output=True, text=True)
    told = done.stdout.splitlines()
    assert {"refine-documents", "refine-records", "chunk-documents", "embed-chunks"} <= set(told), done.stderr[-3000:]
    assert [line for line in told if " " in line] == [], "an error came before the session was asked for"
