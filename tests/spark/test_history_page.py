"""docs/history.md, block by block, with `lake` and the instants of the four deliveries that it names."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import pyarrow.compute as pc

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import stage_named
from pipelines.lakehouse.tables import Lakehouse
from pipelines.settings.sections import Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "history.md"


def test_the_page_about_history_is_true(workspace: Settings, lake: Lakehouse):
    deliveries = ({"a.md": "Alpha.", "b.md": "Beta."}, {"a.md": "Alpha, edited."}, {"b.md": None}, {"b.md": "Beta."})
    delivered: list[datetime] = []
    for files in deliveries:
        for path, text in files.items():
            file = workspace.landing_path / path
            file.unlink() if text is None else file.write_text(text, encoding="utf-8")
        run_stages(new_context(workspace, force=True), stages=[stage_named("ingest-documents")])
        arrived = lake.read_arrow("bronze.documents", columns=["_ingested_at"])["_ingested_at"]
        delivered.append(pc.max(arrived).as_py().astimezone().replace(tzinfo=None))
    run_stages(new_context(workspace), stages=[stage_named("refine-documents")])
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names = {"lake": lake, "delivered": delivered}
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
