"""All eight stages on a few documents with the real models: what one stage writes is what the next one reads."""

from __future__ import annotations

import re
from pathlib import Path

from markupsafe import escape

from pipelines.answering.ask import Answerer
from pipelines.conductor.run import new_context, run_stages
from pipelines.inference.answer_questions import add_questions
from pipelines.settings.sections import Settings

ROOT = Path(__file__).resolve().parents[2]
TOPICS = {
    "capture.md": "# Capture\n\n## Reading output\n\nThe `capsys` fixture reads what a test printed.\n",
    "skip.md": "# Skip\n\n## Skipping a test\n\nMark a test with `pytest.mark.skip` and give the reason.\n",
    "tmp.rst": "Temporary\n=========\n\nFolders\n-------\n\nThe ``tmp_path`` fixture gives a test an empty folder.\n",
}
QUESTIONS = [
    {"question": "How do I read what a test printed?", "gold": {"path": "capture.md", "heading": "Reading output"}},
    {"question": "How do I skip a test?", "gold": {"path": "skip.md", "heading": "Skipping a test"}},
]


def test_the_whole_loop(workspace: Settings, spark, monkeypatch):
    for name, text in TOPICS.items():
        (workspace.landing_path / name).write_text(text, encoding="utf-8")
    run_stages(new_context(workspace))
    assert add_questions(new_context(workspace), QUESTIONS, batch="test") == 2
    assert add_questions(new_context(workspace), QUESTIONS, batch="test") == 0

    outcome = run_stages(new_context(workspace))

    assert [s.stage for s in outcome.stages] == ["answer-questions", "monitor", "report"]
    assert run_stages(new_context(workspace)).stages == ()
    lake = new_context(workspace).lake
    log = lake.read_arrow("inference.inference_log").to_pylist()
    assert len(log) == 2
    assert all(call["trace_id"] and call["prompt_uri"] and call["features_ref"]["version"] for call in log)
    page = (workspace.root / "report.html").read_text(encoding="utf-8")
    for call in log:
        assert str(escape(call["prediction"].splitlines()[0])) in page
    retrieval = {r["metric_name"]: r for r in lake.read_arrow("monitoring.retrieval_metrics").to_pylist()}
    assert (retrieval["hit_at_5"]["value"], retrieval["hit_at_5"]["n"]) == (1.0, 2)
    quality = {r["metric_name"]: r["value"] for r in lake.read_arrow("monitoring.llm_quality_metrics").to_pylist()}
    answered = quality["grounded_ratio"] + quality["quoted_ratio"]
    assert answered == 1.0

    with Answerer(workspace) as answerer:
        answer = answerer.answer("Which fixture gives an empty folder?")
    assert answer.sources[0].path == "tmp.rst"
    assert lake.read_arrow("inference.inference_log").num_rows == 3

    # The examples of the docs, as they stand there.
    (workspace.root / "lakeloop.yml").touch()
    monkeypatch.chdir(workspace.root)
    names: dict[str, object] = {}
    for page, count in (("index.md", 2), ("vector-index.md", 2)):
        examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
        assert len(examples) == count
        for example in examples:
            exec(example, names)
    assert names["hits"][0].path == "tmp.rst"
    assert names["nodes"][0].metadata["path"] == "tmp.rst"
