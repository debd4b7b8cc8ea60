"""How many rows a run takes into its process: as many after ten times the history (docs/scale.md has exceptions)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql.classic.dataframe import DataFrame

from pipelines.answering.log_row import INFERENCE_LOG
from pipelines.conductor import run as conductor
from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import STAGES
from pipelines.flow.stage import Context, Stage
from pipelines.flow.states import STAGE_RUNS
from pipelines.inference import answer_questions
from pipelines.lakehouse.folders import FolderLakehouse
from pipelines.monitoring import report
from pipelines.quality.rule_results import RULE_RESULTS
from pipelines.settings.sections import LanguageModelSettings, Settings
from tests.support.chat_server import Model, serving
from tests.support.embedders import Free

DOCUMENTS, PAST = 12, 60
LONG_AGO = datetime(2026, 1, 5, 8, tzinfo=timezone.utc)
Rows = Counter[tuple[str, str]]


@pytest.fixture
def model() -> Iterator[tuple[str, type[Model]]]:
    with serving() as made:
        yield made


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Rows:
    """(stage, table or action) → how many rows came into this process."""
    rows: Rows = Counter()
    stage = [""]
    run_if_due = conductor._run_if_due

    def noted(of: Any, context: Context) -> Any:
        stage[0] = of.command
        return run_if_due(of, context)

    def counted(kind: type, name: str) -> None:
        read = getattr(kind, name)

        def reading(self: Any, *args: Any, **options: Any) -> Any:
            found = read(self, *args, **options)
            what = args[0] if args and isinstance(args[0], str) else name
            if isinstance(found, Iterator):
                return _passing(found, (stage[0], what))
            rows[stage[0], what] += 0 if found is None else len(found)
            return found

        monkeypatch.setattr(kind, name, reading)

    def _passing(batches: Iterator[Any], key: tuple[str, str]) -> Iterator[Any]:
        for batch in batches:
            rows[key] += batch.num_rows
            yield batch

    monkeypatch.setattr(conductor, "_run_if_due", noted)
    for name in ("read_batches", "few_rows", "few_keys", "few_changes"):
        counted(FolderLakehouse, name)
    for name in ("collect", "toArrow", "toPandas"):
        counted(DataFrame, name)
    return rows


@pytest.fixture(params=["folders", pytest.param("catalog", marks=pytest.mark.longest)])
def settings_of(
    request: pytest.FixtureRequest, tmp_path: Path, spark: SparkSession, model
) -> Iterator[Callable[[str], Settings]]:
    schemas: list[str] = []

    def make(name: str) -> Settings:
        root = tmp_path / name
        (root / "landing").mkdir(parents=True)
        of_catalog: dict[str, Any] = {}
        if request.param == "catalog":
            of_catalog = {"catalog": "spark_catalog", "schema_prefix": f"{name}_"}
            for schema in ("bronze", "silver", "gold", "inference", "monitoring", "ops"):
                schemas.append(f"{name}_{schema}")
                spark.sql(f"CREATE SCHEMA {schemas[-1]}")
        served = LanguageModelSettings(base_url=model[0], model="tiny", timeout_seconds=5)
        embedding = {"model": f"tests.support.embedders:{Free.__name__}"}
        return Settings(root=root, language_model=served, embedding=embedding, **of_catalog)

    yield make
    for schema in schemas:
        spark.sql(f"DROP SCHEMA {schema} CASCADE")


def _text(number: int, *, edition: int) -> str:
    parts = [f"## Part {place}\n\nPump {number} has a valve {place}." for place in range(4)]
    return f"# Pump {number}, edition {edition}\n\n" + "\n\n".join(parts) + "\n"


def _deliver(settings: Settings, *, edition: int, question: str) -> None:
    landing = settings.path("landing")
    for number in range(DOCUMENTS if edition == 0 else 1):
        (landing / f"{number}.md").write_text(_text(number, edition=edition), encoding="utf-8")
    context = new_context(settings)
    gold = {"path": "0.md", "heading": "Part 1"}
    answer_questions.add_questions(context, [{"question": question, "gold": gold}], batch="b")
    assert run_stages(context, stages=_stages(settings)).stages


def _stages(settings: Settings) -> list[Stage]:
    # monitor always works on Spark, and takes 20 seconds: seen in the catalog.
    return [stage for stage in STAGES if settings.catalog or stage.command != "monitor"]


def _with_past(settings: Settings, times: int) -> None:
    """Rows as `times` earlier runs, calls and judgements left them."""
    lake = new_context(settings).lake
    for table, at, own in (
        (INFERENCE_LOG, "request_time", "request_id"),
        (answer_questions.REQUESTS, "requested_at", "request_id"),
        (answer_questions.LABELS, "valid_from", "request_id"),
        (STAGE_RUNS, "started_at", "run_id"),
        (RULE_RESULTS, "computed_at", "_run_id"),
    ):
        (like, *_) = lake.read_arrow(table).to_pylist()
        past = [like | {at: LONG_AGO + timedelta(minutes=n), own: f"past {n}"} for n in range(times)]
        if table == INFERENCE_LOG:
            past = [row | {"request_date": LONG_AGO.date()} for row in past]
        if table == RULE_RESULTS:
            past = [row | {"source_version_to": -n} for n, row in enumerate(past, start=1)]
        lake.append_arrow(table, past)


@pytest.mark.long
def test_a_change_takes_as_many_rows_after_ten_times_the_history(settings_of, taken: Rows, monkeypatch):
    monkeypatch.setattr(report, "_LATENCIES", 30)
    monkeypatch.setattr(report, "_STAGE_RUNS", 30)
    found = {}
    for times in (PAST, 10 * PAST):
        settings = settings_of(f"after{times}")
        _deliver(settings, edition=0, question="Which pump has a valve?")
        _with_past(settings, times)
        run_stages(new_context(settings), stages=_stages(settings))  # monitors the past
        taken.clear()
        _deliver(settings, edition=1, question="What has pump 0?")
        # Whether a file was touched so late that it must be looked at again is chance: at most one row a file.
        assert taken.pop(("ingest-documents", "ops.file_looks"), 0) <= DOCUMENTS
        found[times] = Counter(taken)
    few, many = found.values()
    assert {key: (few[key], many[key]) for key in {*few, *many} if few[key] != many[key]} == {}
    assert few["answer-questions", answer_questions.REQUESTS] or few["answer-questions", "toArrow"]
    assert few["ingest-documents", "bronze.documents"] == DOCUMENTS or few["ingest-documents", "toArrow"]
