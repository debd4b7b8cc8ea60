"""The plan tells what the next run does, whatever an earlier one has left undone. No JVM: all changes are few rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli.main import main
from pipelines.conductor.run import new_context, record, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES
from pipelines.flow.stage import everything
from pipelines.operations.plan import Plan, plan, render
from pipelines.settings.sections import Settings
from transformations.errors import EXIT_DONE, EXIT_NOTHING_TO_DO, RefusedError

INGEST, REFINE, CHUNK, EMBED, SYNC = DOCUMENT_STAGES
MODEL = "tests.support.embedders:Free"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A workspace whose stages have run once on empty tables: from here on they read few rows, without Spark."""
    (tmp_path / "landing").mkdir()
    (tmp_path / "lakeloop.yml").write_text(f"embedding:\n  model: {MODEL}\n", encoding="utf-8")
    settings = Settings(root=tmp_path, embedding={"model": MODEL})
    context = new_context(settings)
    for stage in (REFINE, CHUNK, EMBED):
        for each in stage.contexts(context):
            for table in (*stage.sources_of(each), *stage.targets_of(each)):
                context.lake.ensure(table)
            record(stage, each, everything(stage, each), counts={}, started_at=context.now(), seconds=0.0)
    return settings


def _deliver(settings: Settings, texts: Mapping[str, str]) -> None:
    for path, text in texts.items():
        (settings.landing_path / path).write_text(text, encoding="utf-8")


def _run(settings: Settings, *stages: Any, force: bool = False) -> dict[str, Mapping[str, int]]:
    outcome = run_stages(new_context(settings, force=force), stages=stages or DOCUMENT_STAGES)
    return {stage.stage: stage.counts for stage in outcome.stages}


def _planned(settings: Settings, **how: Any) -> Plan:
    return plan(new_context(settings, **how))


def _exit_code(settings: Settings, *words: str) -> int:
    try:
        main(["plan", "--config", str(settings.root / "lakeloop.yml"), "--detailed-exitcode", *words])
    except SystemExit as end:
        return int(end.code or 0)
    return EXIT_DONE


def _ops(made: Plan) -> dict[str, str]:
    return {document.path: document.op for document in made.documents}


def _text(number: int) -> str:
    return f"# Document {number}\n\nThe text of the document with the number {number}.\n"


def test_files_that_were_only_ingested_are_planned_like_files_that_were_not(settings: Settings):
    _deliver(settings, {"same.md": _text(0), "other.md": _text(1), "gone.md": _text(2)})
    _run(settings)
    assert _exit_code(settings) == EXIT_NOTHING_TO_DO
    _deliver(settings, {"other.md": _text(10), "new.md": _text(11), "empty.md": ""})
    (settings.landing_path / "gone.md").unlink()
    before = _planned(settings)
    assert _ops(before) == {"other.md": "~", "new.md": "+", "empty.md": "!", "gone.md": "-"}
    assert before.also_due == ()
    _run(settings, INGEST)
    assert _planned(settings) == before
    assert _exit_code(settings) == EXIT_DONE
    # What came later is told together with it.
    _deliver(settings, {"later.md": _text(12), "new.md": _text(13)})
    made = _planned(settings)
    assert _ops(made) == _ops(before) | {"later.md": "+"}
    counts = _run(settings)
    assert made.embed == counts["embed-chunks"]["computed"] == 3
    assert sum(document.chunks_removed for document in made.documents) == counts["chunk-documents"]["delete"] == 2
    assert (_planned(settings).documents, _exit_code(settings)) == ((), EXIT_NOTHING_TO_DO)


def test_all_files_are_new_if_they_were_only_ingested(tmp_path: Path):
    (tmp_path / "landing").mkdir()
    settings = Settings(root=tmp_path, embedding={"model": MODEL})
    _deliver(settings, {f"{number}.md": _text(number) for number in range(3)})
    before = _planned(settings)
    _run(settings, INGEST)
    assert _planned(settings) == before
    assert (set(_ops(before).values()), before.embed, before.also_due) == ({"+"}, 3, ())


def test_a_stage_that_would_do_everything_anew_is_named_with_the_reason(settings: Settings):
    _deliver(settings, {"one.md": _text(1)})
    _run(settings)
    assert _planned(settings).also_due == ()
    cut = settings.model_copy(update={"chunks": settings.chunks.model_copy(update={"max_tokens": 48})})
    made = _planned(cut)
    assert made.also_due == ("chunk-documents: all documents are cut anew, because its settings changed",)
    assert f"ALSO DUE: {made.also_due[0]}" in render(made).splitlines()
    assert _exit_code(settings, "--set", "chunks.max_tokens=48") == EXIT_DONE
    german = settings.model_copy(update={"refine": settings.refine.model_copy(update={"languages": ("de",)})})
    assert _planned(german).also_due == (
        "refine-documents: all documents are refined anew, because its settings changed",
    )


def test_versions_that_a_killed_run_has_left_unread_are_named(settings: Settings):
    _deliver(settings, {"one.md": _text(1)})
    due = []
    for stage in (INGEST, REFINE, CHUNK, EMBED, SYNC):
        _run(settings, stage)
        due.append(_planned(settings).also_due)
    built = f"sync-index ({MODEL}): the index is built, because it is not there yet"
    assert due == [
        (built,),
        ("chunk-documents: it has not read the last changes of silver.documents yet", built),
        (f"embed-chunks ({MODEL}): it has not read the last changes of silver.chunks yet", built),
        (built,),
        (),
    ]
    (settings.landing_path / "one.md").unlink()
    _run(settings, INGEST, REFINE, CHUNK, EMBED, force=True)
    assert _planned(settings).also_due == (
        f"sync-index ({MODEL}): the index lacks the last changes of gold.chunk_index",
        f"sync-index ({MODEL}): 1 rows would leave the index, of one.md",
    )


def test_a_mass_delete_that_an_index_refuses_is_told_from_each_step_on_until_it_was_forced(settings: Settings):
    _deliver(settings, {f"{number:02}.md": _text(number) for number in range(15)})
    _run(settings)
    gone = [f"{number:02}.md" for number in range(12)]
    for path in gone:
        (settings.landing_path / path).unlink()
    named = f"sync-index ({MODEL}): 12 rows would leave the index, of 00.md, 01.md, 02.md, 03.md, 04.md and 7 more"
    for stage in (INGEST, REFINE, CHUNK, EMBED):
        _run(settings, stage, force=True)
        made = _planned(settings)
        assert [reason.partition(" rows")[0] for reason in made.refused_by] == ["sync-index: 12 of 15"], stage.command
        assert (named in made.also_due) == (stage is not INGEST), stage.command
        assert [document.path for document in made.documents] == (gone if stage is INGEST else []), stage.command
    # Who comes back, also by another name, does not leave the index.
    back = {path: _text(number) for number, path in enumerate(gone)}
    _deliver(settings, {path if path < "05" else f"renamed-{path}": text for path, text in back.items()})
    made = _planned(settings)
    assert (made.refused_by, set(_ops(made).values()), len(made.documents), made.embed) == ((), {"+"}, 12, 0)
    for path in settings.landing_path.iterdir():
        if path.name < "12" or path.name.startswith("renamed"):
            path.unlink()
    with pytest.raises(RefusedError) as refused:
        _run(settings)
    assert _planned(settings).refused_by == (str(refused.value),)
    assert _exit_code(settings) == RefusedError.exit_code
    assert _planned(settings, force=True).refused_by == ()
    _run(settings, force=True)
    assert (_planned(settings).refused_by, _exit_code(settings)) == ((), EXIT_NOTHING_TO_DO)


def test_a_document_that_lost_its_end_counts_as_the_index_counts_it(settings: Settings):
    sections = [f"## Section {number}\n\nThe text of section {number}. " + "More of it. " * 60 for number in range(14)]
    _deliver(settings, {"long.md": "\n\n".join(["# Long", *sections])})
    _run(settings)
    _deliver(settings, {"long.md": "\n\n".join(["# Long", *sections[:2]])})
    made = _planned(settings)
    with pytest.raises(RefusedError) as refused:
        _run(settings)
    assert made.refused_by == (str(refused.value),)
