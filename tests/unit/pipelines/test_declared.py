"""`lakeloop pipelines` without Spark: what it refuses, what it tells `spark-pipelines`, and what it says afterwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from deltalake import DeltaTable, write_deltalake

from pipelines.cli.main import main
from pipelines.conductor.run import new_context
from pipelines.flow.lock import only_writer
from pipelines.operations.declared import Made, Update, _anew, _mark, _was_changed
from pipelines.operations.spark_pipelines import Events, failure
from pipelines.progress import Step
from pipelines.settings.load import load_settings
from pipelines.settings.pipeline import arrivals_of, pipeline_configuration, pipeline_settings
from transformations.errors import ExpectationFailedError


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "landing").mkdir()
    (tmp_path / "lakeloop.yml").write_text("schema_prefix: a_\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def code_of(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["pipelines", *words])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "catalog=main"], "deploy the bundle, and start its pipeline"),
        (["--set", "lakehouse=s3://bucket/lake"], "do not run over object storage yet"),
        (["--set", "spark.master=sc://127.0.0.1:1"], "start a Connect server of their own"),
        (["--set", "refine.near_duplicates=serve_one"], "do not know which documents are near-duplicates"),
    ],
)
def test_settings_for_which_it_cannot_run_are_refused_before_spark_starts(words, says, workspace, capsys):
    for command in ("run", "dry-run"):
        assert code_of(command, *words) == 5
        assert says in capsys.readouterr().err
    assert not (workspace / "lakehouse").exists()


def test_without_a_file_of_settings_it_says_how_to_write_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert code_of("run") == 5
    assert "lakeloop init" in capsys.readouterr().err


def test_a_second_writer_is_refused(workspace, capsys):
    with only_writer(load_settings(workspace / "lakeloop.yml")):
        assert code_of("run") == 7
    assert "another lakeloop run" in capsys.readouterr().err


def test_a_dataset_that_is_none_is_refused_by_its_name(workspace, capsys):
    assert code_of("run", "--full-refresh", "document") == 5
    assert "unknown dataset 'document'. Did you mean 'documents'" in capsys.readouterr().err


def test_the_definitions_read_the_settings_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "lakeloop.yml"
    file.write_text("refine: {languages: [en]}\nchunks: {max_tokens: 128}\nindex: {secret: '${A_SECRET}'}\n")
    monkeypatch.setenv("A_SECRET", "not for a file")
    monkeypatch.setenv("LAKELOOP__PARSE__TIMEOUT_SECONDS", "7")
    overrides = ["chunks.max_tokens=64", "ingest.source=mine"]
    configuration = pipeline_configuration(file, overrides=overrides, bronze="`a_bronze`")
    assert "not for a file" not in json.dumps(configuration)
    assert all(isinstance(value, str) for value in yaml.safe_load(yaml.safe_dump(configuration)).values())
    assert pipeline_settings(configuration) == load_settings(file, overrides=overrides)
    assert pipeline_settings(configuration).parse.timeout_seconds == 7
    assert arrivals_of(configuration, "documents") == "`a_bronze`.documents"


def test_without_a_configuration_all_is_at_its_default():
    assert pipeline_settings({}).refine.languages == ()
    assert arrivals_of({}, "records_orders") == "bronze.records_orders"


@pytest.mark.parametrize(
    ("set_aside", "is_new", "code", "detailed"), [(0, False, 0, 3), (0, True, 0, 0), (1, True, 6, 6), (1, False, 0, 3)]
)
def test_exit_codes(set_aside, is_new, code, detailed):
    rows = {"documents": 2, "documents_quarantine": set_aside}
    update = Update(rows, {"documents": 1, "documents_quarantine": 0}, is_new, 1.0)
    assert (update.exit_code(), update.exit_code(detailed=True)) == (code, detailed)
    assert update.to_json()["datasets"]["documents"] == {"rows": 2, "added": 1}


GROWING = ["documents_parsed", "documents_valid", "documents_refused", "chunks_cut"]
MADE = {"documents": "1", "chunks": "1", "declared": "1"}


@pytest.mark.parametrize(
    ("made", "asked", "gone", "anew"),
    [
        ({}, [], "", []),
        ({"definitions": {}}, [], "", GROWING),
        ({"definitions": MADE | {"declared": "0"}}, [], "", GROWING),
        ({"definitions": MADE | {"documents": "0"}}, [], "", GROWING),
        ({"definitions": MADE | {"chunks": "0"}}, [], "", ["chunks_cut"]),
        ({"anew": ["documents_refused"]}, [], "", ["documents_refused"]),
        ({}, ["documents_valid", "records_orders"], "", ["documents_valid", "chunks_cut", "records_orders"]),
        ({}, [], "documents_valid", ["documents_valid", "chunks_cut"]),
    ],
)
def test_what_is_computed_anew_and_with_it_what_reads_it(made, asked, gone, anew, workspace):
    context = new_context(load_settings(workspace / "lakeloop.yml"))
    for name in GROWING:
        (workspace / "checkpoints/declared/_checkpoints/spark_catalog/a_declared" / name).mkdir(parents=True)
    there = [name for name in GROWING if name != gone]
    found = _anew(context, there, asked=asked, made=Made(**{"definitions": MADE, **made}), now=Made(MADE))
    assert found == sorted(anew)


def _appended(place: Path, *values: str) -> None:
    for value in values:
        write_deltalake(place, pa.table({"a": [value]}), mode="append")


@pytest.mark.parametrize(
    ("change", "is_changed"),
    [
        (lambda place, copy: None, False),
        (lambda place, copy: _appended(place, "z"), False),
        (lambda place, copy: DeltaTable(place).optimize.compact(), False),
        (lambda place, copy: DeltaTable(place).delete("a = 'x'"), True),
        (lambda place, copy: DeltaTable(place).restore(1), True),
        (lambda place, copy: write_deltalake(place, pa.table({"a": ["n"]}), mode="overwrite"), True),
        (lambda place, copy: (shutil.rmtree(place), shutil.copytree(copy, place)), True),
        (lambda place, copy: (shutil.rmtree(place), shutil.copytree(copy, place), _appended(place, "n")), True),
        (lambda place, copy: (shutil.rmtree(place), _appended(place, "x", "y", "z", "n")), True),
    ],
    ids=["nothing", "appended", "compacted", "deleted", "restored", "replaced", "copied", "copied, on", "made anew"],
)
def test_a_stream_goes_on_only_where_rows_were_appended(change, is_changed, workspace):
    context = new_context(load_settings(workspace / "lakeloop.yml"))
    place = workspace / "lakehouse/a_bronze/documents"
    _appended(place, "x", "y")
    shutil.copytree(place, workspace / "copy")
    _appended(place, "last")
    was = _mark(context, "bronze.documents")
    change(place, workspace / "copy")
    assert _was_changed(context, "bronze.documents", was, _mark(context, "bronze.documents")) is is_changed


def test_what_datasets_were_made_of_is_read_as_it_was_noted(tmp_path):
    made = Made(MADE, {"bronze.documents": ["id", 5, "commit"]}, {"chunks_cut": ["id", 1, None]}, ["chunks_cut"])
    made.note(tmp_path / "made.json")
    assert Made.noted(tmp_path / "made.json") == made
    (tmp_path / "made.json").write_text("{torn")
    assert Made.noted(tmp_path / "made.json") == Made()


AT = "2026-11-28 12:00:00: "
FAILED = (
    f"{AT}Flow spark_catalog.a_declared.documents_parsed is RUNNING.\n"
    f"{AT}Flow 'spark_catalog.a_declared.documents_valid' has FAILED fatally. Error: [STREAM_FAILED] Query ended:\n"
    "[{why}\n"
    f"{AT}Flow spark_catalog.a_declared.documents_parsed has COMPLETED.\n{AT}[NO_REASON] something else\n"
)


def test_a_failure_is_one_line_with_the_dataset_and_the_innermost_reason():
    step = Step("pipelines run", None)
    events = Events(step)
    events.write(FAILED.replace("{why}", "DIVIDE_BY_ZERO] Division by zero. SQLSTATE: 22012"))
    error = failure(ValueError("Run failed"), events)
    assert str(error) == (
        "pipelines run: the dataset documents_valid failed: [DIVIDE_BY_ZERO] Division by zero. SQLSTATE: 22012"
    )
    assert (error.exit_code, step.done) == (1, 1)


def test_files_that_are_gone_are_told_with_the_command_that_reads_anew():
    events = Events(Step("pipelines run", None))
    events.write(FAILED.replace("{why}", "FAILED_READ_FILE.FILE_NOT_EXIST] Encountered error while reading file"))
    assert "--full-refresh documents_parsed" in str(failure(ValueError("Run failed"), events))


def test_a_broken_rule_of_level_fail_is_told_as_such():
    events = Events(Step("pipelines run", None))
    events.write(
        FAILED.replace("{why}", "USER_RAISED] rule 'is_set' (fail) is broken in t: repair its source SQLSTATE")
    )
    error = failure(ValueError("Run failed"), events)
    assert isinstance(error, ExpectationFailedError)
    assert str(error) == "pipelines run: rule 'is_set' (fail) is broken in t: repair its source"
