"""A stage that fails stops what reads its table, and nothing else; the run ends with what failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pipelines.conductor.run import advance, new_context, run_stages, run_to_end
from pipelines.flow.outcome import Failure
from pipelines.flow.stage import Context, Stage, Subject, Versions, Work
from pipelines.operations.status import describe
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError, ExpectationFailedError, RefusedError, SeveralFailedError

SOURCES = {
    name: {"format": "csv", "location": name, "key": ["k"], "columns": {"k": "string"}} for name in ("a", "b", "c")
}


def _due(context: Context) -> Work:
    return Work((Versions(None, 1, "source"),))


def _sources(context: Context) -> list[Subject]:
    return [Subject("source", name, name) for name in context.settings.records]


def _noted(command: str, ran: list[Any], fails: dict[Any, Exception]) -> Callable[[Context, Work], dict[str, int]]:
    def work(context: Context, due: Work) -> dict[str, int]:
        ran.append((command, context.subject.name if context.subject else None))
        if ran[-1] in fails:
            raise fails[ran[-1]]
        return {"rows": 1}

    return work


@pytest.fixture
def stages() -> tuple[list[tuple[str, str | None]], dict[Any, Exception], list[Stage]]:
    """Stages that note that they ran, and fail where they are told to: what ran, what fails, the stages."""
    ran: list[tuple[str, str | None]] = []
    fails: dict[Any, Exception] = {}

    def stage(command: str, **declared: Any) -> Stage:
        return Stage(command, "", _due, _noted(command, ran, fails), **declared)

    return (
        ran,
        fails,
        [
            stage("ingest", targets=("bronze.records_*",), subjects=_sources),
            stage("refine", sources=("bronze.records_*",), targets=("silver.records_*",), subjects=_sources),
            stage("first", targets=("bronze.documents",)),
            stage("second", sources=("bronze.documents",), targets=("silver.documents",)),
            stage("third", sources=("silver.documents",)),
            stage("last", sources=("inference.requests",)),
        ],
    )


def test_one_failing_source_never_stops_another(tmp_path, stages):
    ran, fails, all_stages = stages
    context = new_context(Settings.model_validate({"root": tmp_path, "records": SOURCES}))
    fails["ingest", "b"] = ConfigurationError("no folder")
    outcome = run_to_end(context, stages=all_stages)
    assert [what for what in ran if what[0] in ("ingest", "refine")] == [
        ("ingest", "a"), ("ingest", "b"), ("ingest", "c"), ("refine", "a"), ("refine", "c"),
    ]  # fmt: skip
    assert [command for command, source in ran if source is None] == ["first", "second", "third", "last"]
    assert [(f.stage, f.subject.name) for f in outcome.failures] == [("ingest", "b"), ("refine", "b")]
    assert outcome.to_json()["failed"] == [
        "ingest of b: no folder",
        "refine of b: did not run, for what it reads was not brought up to date",
    ]
    with pytest.raises(ConfigurationError, match="no folder"):
        run_stages(context, stages=all_stages)


def test_what_reads_the_table_of_a_stage_that_failed_does_not_run(tmp_path, stages):
    ran, fails, all_stages = stages
    context = new_context(Settings(root=tmp_path))
    fails["first", None] = RefusedError("a mass delete")
    with pytest.raises(RefusedError, match="a mass delete"):
        advance(context, stages=all_stages)
    assert [command for command, _ in ran] == ["first", "last"]


def test_what_one_model_fails_with_keeps_no_index_of_another_from_its_way(tmp_path, stages):
    ran, fails, (*_, last) = stages
    context = new_context(Settings(root=tmp_path))
    models = [Subject("model", name, name) for name in ("served", "next")]
    embed, sync, reader = (
        replace(
            last,
            command=command,
            sources=(source,),
            targets=targets,
            subjects=subjects,
            work=_noted(command, ran, fails),
        )
        for command, source, targets, subjects in (
            ("embed", "silver.chunks", ("gold.chunk_index",), lambda context: models),
            ("sync", "gold.chunk_index", (), lambda context: models),
            ("reader", "gold.chunk_index", (), None),
        )
    )
    fails["embed", "next"] = ConfigurationError("no such model")
    outcome = run_to_end(context, stages=[embed, sync, reader])
    assert ran == [("embed", "served"), ("embed", "next"), ("sync", "served")], "the reader waits for all models"
    assert [(f.stage, f.error is None) for f in outcome.failures] == [
        ("embed", False), ("sync", True), ("reader", True),
    ]  # fmt: skip


def test_several_failures_are_one_error_that_names_them_and_tells_by_its_code(tmp_path, stages):
    _, fails, all_stages = stages
    context = new_context(Settings.model_validate({"root": tmp_path, "records": SOURCES}))
    fails["refine", "a"] = ExpectationFailedError("refine: a rule is broken")
    fails["refine", "c"] = ExpectationFailedError("refine: another is")
    with pytest.raises(SeveralFailedError) as raised:
        run_stages(context, stages=all_stages)
    assert raised.value.exit_code == ExpectationFailedError.exit_code
    assert str(raised.value).splitlines()[1:] == ["- refine: a rule is broken", "- refine: another is"]
    fails["third", None] = ValueError("odd\nmore")
    with pytest.raises(SeveralFailedError, match="- third: ValueError: odd") as raised:
        run_stages(context, stages=all_stages)
    assert raised.value.exit_code == 1


def test_without_its_jvm_a_run_ends_at_once(tmp_path, stages):
    ran, fails, all_stages = stages
    Py4JNetworkError = type("Py4JNetworkError", (Exception,), {})
    fails["first", None] = Py4JNetworkError("connection refused")
    outcome = run_to_end(new_context(Settings(root=tmp_path)), stages=all_stages)
    assert [command for command, _ in ran] == ["first"]
    assert outcome.failures == (Failure("first", fails["first", None]),)


def test_status_tells_of_a_feature_table_that_cannot_be_imported_and_of_all_others(tmp_path):
    (tmp_path / "landing").mkdir()
    facts, text = describe(Settings(root=tmp_path, features=("nowhere.at_all:TRIPS",)))
    assert [stage["stage"] for stage in facts["stages"] if stage["is_due"]] == ["build-features"]
    assert [warning for warning in facts["warnings"] if "'nowhere.at_all:TRIPS' cannot be imported" in warning]
    assert "WARNING the feature table" in text


def test_status_tells_of_damaged_states_of_indexes_once(tmp_path):
    (tmp_path / "landing").mkdir()
    context = new_context(Settings(root=tmp_path))
    context.lake.append_arrow("ops.index_state", [{"index_name": "i", "alias": "documents"}])
    next(context.lake.folder("ops.index_state").glob("*.parquet")).unlink()
    facts, _ = describe(context.settings)
    assert len([warning for warning in facts["warnings"] if warning.startswith("ops.index_state is damaged")]) == 1


def test_status_tells_of_a_source_that_is_not_there_and_of_all_others(tmp_path):
    (tmp_path / "landing").mkdir()
    (tmp_path / "a").mkdir()
    records = {name: SOURCES[name] for name in ("a", "b")}
    facts, text = describe(Settings.model_validate({"root": tmp_path, "records": records}))
    assert [stage["stage"] for stage in facts["stages"] if stage["is_due"]] == ["ingest-records"]
    assert any("no folder at" in warning and "'b'" in warning for warning in facts["warnings"])
    assert "WARNING ingest-records: no folder at" in text
