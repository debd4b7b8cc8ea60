"""Documents that are large, or give much, against the heap of the default settings; refused ones, tried again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import stage_named
from pipelines.settings.sections import ParseSettings, Settings
from pipelines.silver import refine_documents
from tests.support import files
from tests.support.state import assert_refined_as_from_scratch

INGEST, REFINE = stage_named("ingest-documents"), stage_named("refine-documents")
MB = 1024 * 1024


def run(settings: Settings) -> dict[str, int]:
    outcome = run_stages(new_context(settings), stages=[INGEST, REFINE])
    return next((dict(s.counts) for s in outcome.stages if s.stage == "refine-documents"), {})


@pytest.mark.long
def test_a_document_that_was_refused_for_a_limit_is_tried_again_once_it_is_raised(workspace: Settings, spark):
    low = workspace.model_copy(update={"parse": ParseSettings(max_text_mb=1)})
    (workspace.landing_path / "large.txt").write_text("word " * (MB // 4))
    (workspace.landing_path / "small.txt").write_text("Small.")
    (workspace.landing_path / "broken.docx").write_bytes(files.PNG)
    assert run(low) == {"insert": 1, "update": 0, "delete": 0, "set_aside": 2}
    assert refine_documents.refused_for_limits(new_context(low)) == []
    assert run(low) == {}
    # A limit that it was not refused for is raised: it is not tried.
    higher = workspace.model_copy(update={"parse": ParseSettings(max_text_mb=1, memory_mb=2048)})
    assert run(higher) == {}
    (workspace.landing_path / "other.txt").write_text("Another one.")
    enough = workspace.model_copy(update={"parse": ParseSettings(max_text_mb=2)})
    assert run(enough) == {"insert": 2, "update": 0, "delete": 0, "set_aside": 0}
    assert run(enough) == {}
    rows = new_context(enough).lake.read_arrow("silver.documents_quarantine").to_pylist()
    assert {row["path"]: row["replayed_at"] is not None for row in rows} == {"large.txt": True, "broken.docx": False}
    assert_refined_as_from_scratch(enough)


def test_a_document_that_still_takes_too_much_is_tried_once(workspace: Settings, spark):
    (workspace.landing_path / "large.txt").write_text("word " * (MB // 2))
    for limit, expected in ((1, 1), (2, 1), (2, None)):
        settings = workspace.model_copy(update={"parse": ParseSettings(max_text_mb=limit)})
        assert run(settings).get("set_aside") == expected
    (row,) = new_context(workspace).lake.read_arrow("silver.documents_quarantine").to_pylist()
    assert (row["reason"], row["attempts"]) == ("too_large: it has 2621439 bytes of text (parse.max_text_mb 2)", 2)


_TWICE = """
import sys
from pathlib import Path
from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import stage_named
from pipelines.settings.sections import Settings
settings = Settings(root=Path(sys.argv[1]))
landing = settings.landing_path
stages = [stage_named("ingest-documents"), stage_named("refine-documents")]
print(dict(run_stages(new_context(settings), stages=stages).stages[-1].counts))
for file in [*landing.glob("*.pdf"), *landing.glob("*.txt")]:
    file.write_bytes(file.read_bytes().replace(b"Some", b"More"))
print(dict(run_stages(new_context(settings), stages=stages).stages[-1].counts))
"""


@pytest.mark.longest
def test_large_files_and_large_texts_need_no_more_than_the_jvm_has(tmp_path: Path):
    """Four PDFs of 45 MB, a workbook of 3 kB that gives 150 MB, and 150 MB of long texts; then all of them again."""
    landing = tmp_path / "landing"
    landing.mkdir()
    for number in range(4):
        filler = os.urandom(45 * MB).translate(None, b"\r\n")
        page = files.pdf([f"Some text of file {number}."])
        (landing / f"{number}.pdf").write_bytes(page + b"\n%" + filler + b"\n%%EOF")
    (landing / "repeated.xlsx").write_bytes(files.repeated("w " * 500_000, cells=150))
    for number in range(10):
        (landing / f"{number}.txt").write_text((f"Some word{number} of a sentence. " * MB)[: 15 * MB])
    for number in range(300):
        (landing / f"{number}.md").write_text(f"# {number}\n\ntext")
    done = subprocess.run([sys.executable, "-c", _TWICE, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "{'insert': 314, 'update': 0, 'delete': 0, 'set_aside': 1}",
        "{'insert': 0, 'update': 14, 'delete': 0, 'set_aside': 0}",
    ], done.stderr[-3000:]
