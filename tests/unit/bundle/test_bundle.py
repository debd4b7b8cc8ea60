"""The repository's bundle has no problem, and a mistake planted in a copy of it is reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines.settings.load import load_settings

from .bundle_check import problems
from .planting import JOB, ROOT, Edit, dependencies, edit, first_task, job


def test_the_bundle_has_no_problem() -> None:
    assert problems(ROOT) == []


def test_an_unchanged_copy_has_no_problem(bundle: Path) -> None:
    edit(bundle, JOB, lambda c: None)
    edit(bundle, "databricks.yml", lambda c: None)
    assert problems(bundle) == []


def test_every_stage_has_one_task_in_the_order_of_the_stages() -> None:
    from pipelines.conductor.stages import STAGES

    commands = [stage.command for stage in STAGES]
    assert problems(ROOT, commands=commands) == []
    tasks = job(yaml.safe_load((ROOT / JOB).read_text(encoding="utf-8")))["tasks"]
    assert [task["task_key"] for task in tasks] == [command.replace("-", "_") for command in commands]


def test_an_experiment_named_by_development_mode_is_one_setting() -> None:
    settings = load_settings(overrides=["mlflow.experiment=/Shared/[dev ada] lakeloop-dev"])
    assert settings.mlflow.experiment == "/Shared/[dev ada] lakeloop-dev"


def test_every_table_lies_in_a_deployed_schema() -> None:
    from pipelines.lakehouse.schemas import TABLES

    deployed = {path.name.split(".")[0] for path in (ROOT / "resources").glob("*.schema.yml")}
    assert {table.split(".")[0] for table in TABLES} <= deployed


PLANTED: dict[str, tuple[str, Edit, str]] = {
    "wrong key in a job": (JOB, lambda c: job(c).update(max_concurent_runs=1), "Unexpected field 'max_concurent_runs'"),
    "wrong key in a task": (JOB, lambda c: first_task(c).update(retries=1), "Unexpected field 'retries'"),
    "wrong key in a schema": (
        "resources/gold.schema.yml",
        lambda c: c["resources"]["schemas"]["gold"].update(catalog="main"),
        "Unexpected field 'catalog'",
    ),
    "wrong key in an experiment": (
        "resources/lakeloop.experiment.yml",
        lambda c: c["resources"]["experiments"]["lakeloop"].update(location="x"),
        "Unexpected field 'location'",
    ),
    "wrong key in a registered model": (
        "resources/answering.registered_model.yml",
        lambda c: c["resources"]["registered_models"]["answering"].update(catalog="main"),
        "Unexpected field 'catalog'",
    ),
    "wrong enum in a health rule": (
        JOB,
        lambda c: job(c)["health"]["rules"][0].update(metric="RUN_SECONDS"),
        "'RUN_SECONDS' is not a valid JobsHealthMetric",
    ),
    "wrong enum in a volume": (
        "resources/landing.volume.yml",
        lambda c: c["resources"]["volumes"]["landing"].update(volume_type="OWN"),
        "'OWN' is not a valid VolumeType",
    ),
    "wrong type": (JOB, lambda c: first_task(c).update(max_retries="some"), "'some'"),
    "text for a number": (JOB, lambda c: first_task(c).update(max_retries="2"), "must be a int, but it is '2'"),
    "number for a text": (
        JOB,
        lambda c: job(c)["environments"][0]["spec"].update(environment_version=4),
        "environment_version must be a str, but it is 4",
    ),
    "missing field": (JOB, lambda c: first_task(c).pop("task_key"), "task_key"),
    "wrong kind": (
        "resources/gold.schema.yml",
        lambda c: c["resources"].update(schemata=c["resources"].pop("schemas")),
        "unknown kind of resource",
    ),
    "dangling variable": (
        "resources/gold.schema.yml",
        lambda c: c["resources"]["schemas"]["gold"].update(name="${var.prefix}gold"),
        "${var.prefix}: no such variable",
    ),
    "dangling resource": (
        "resources/reports.volume.yml",
        lambda c: c["resources"]["volumes"]["reports"].update(schema_name="${resources.schemas.golden.name}"),
        "${resources.schemas.golden.name}: no such resource",
    ),
    "dangling field": (
        "resources/reports.volume.yml",
        lambda c: c["resources"]["volumes"]["reports"].update(schema_name="${resources.schemas.gold.title}"),
        "does not set 'title'",
    ),
    "unknown built-in": (
        "resources/lakeloop.experiment.yml",
        lambda c: c["resources"]["experiments"]["lakeloop"].update(name="/Shared/${bundle.title}"),
        "${bundle.title} is neither",
    ),
    "unclosed reference": (
        "resources/lakeloop.experiment.yml",
        lambda c: c["resources"]["experiments"]["lakeloop"].update(name="/Shared/${bundle.name"),
        "is not closed",
    ),
    "reference to itself": (
        "resources/gold.schema.yml",
        lambda c: c["resources"]["schemas"]["gold"].update(name="${resources.schemas.gold.name}"),
        "leads back to itself",
    ),
    "variable without a value": (
        "databricks.yml",
        lambda c: c["targets"]["prod"]["variables"].clear(),
        "has no default and no value in target prod",
    ),
    "variable that nothing uses": (
        "databricks.yml",
        lambda c: c["variables"].update(warehouse={"description": "x", "default": "y"}),
        "'warehouse' is used nowhere",
    ),
    "undeclared variable set": (
        "databricks.yml",
        lambda c: c["targets"]["dev"]["variables"].update(catalogue="dev"),
        "'catalogue', which is not declared",
    ),
    "wrong key in a target": (
        "databricks.yml",
        lambda c: c["targets"]["dev"].update(modus="x"),
        "unknown field 'modus' in targets.dev",
    ),
    "wrong mode": (
        "databricks.yml",
        lambda c: c["targets"]["dev"].update(mode="developer"),
        "targets.dev.mode is 'dev",
    ),
    "wrong permission level": (
        "databricks.yml",
        lambda c: c["targets"]["prod"]["permissions"][0].update(level="CAN_ALL"),
        "level is 'CAN_ALL'",
    ),
    "target changing what is not there": (
        "databricks.yml",
        lambda c: c["targets"]["prod"]["resources"]["schemas"].update(golden={"comment": "x"}),
        "changes schemas.golden, which no file defines",
    ),
    "wrong key in a target's resource": (
        "databricks.yml",
        lambda c: c["targets"]["prod"]["resources"]["schemas"]["gold"].update(kept=True),
        "Unexpected field 'kept'",
    ),
    "no wheel": ("databricks.yml", lambda c: c["artifacts"].clear(), "exactly one artifact must be the wheel"),
    "file that is not included": (
        "databricks.yml",
        lambda c: c.update(include=["resources/*.job.yml"]),
        "gold.schema.yml is not included",
    ),
    "two things in one file": (
        "resources/gold.schema.yml",
        lambda c: c["resources"]["schemas"].update(more={"catalog_name": "main", "name": "more"}),
        "exactly the one thing that its name says",
    ),
    "the same thing twice": (
        "resources/gold.schema.yml",
        lambda c: c["resources"]["schemas"].update(silver={"catalog_name": "main", "name": "more"}),
        "schemas.silver is defined in gold.schema.yml and in silver.schema.yml",
    ),
    "unknown environment key": (
        JOB,
        lambda c: first_task(c).update(environment_key="gpu"),
        "environment_key 'gpu' is none of ['default']",
    ),
    "unknown entry point": (
        JOB,
        lambda c: first_task(c)["python_wheel_task"].update(entry_point="ingest-documents"),
        "entry_point 'ingest-documents' is no console script",
    ),
    "another package": (
        JOB,
        lambda c: first_task(c)["python_wheel_task"].update(package_name="pipelines"),
        "package_name 'pipelines' is not",
    ),
    "task not named as its command": (
        JOB,
        lambda c: first_task(c)["python_wheel_task"]["parameters"].__setitem__(0, "ingest"),
        "the command is 'ingest'",
    ),
    "unknown setting": (
        JOB,
        lambda c: first_task(c)["python_wheel_task"]["parameters"].append("--set=index.url=x"),
        "unknown setting 'index.url'",
    ),
    "setting out of range": (
        "databricks.yml",
        lambda c: c["targets"]["dev"]["variables"].update(schema_prefix="my-"),
        "schema_prefix",
    ),
    "unknown option": (
        JOB,
        lambda c: first_task(c)["python_wheel_task"]["parameters"].append("--catalog"),
        "'--catalog' is not of the form",
    ),
    "cycle": (
        JOB,
        lambda c: first_task(c).update(depends_on=[{"task_key": "report"}]),
        "in a cycle",
    ),
    "unknown task behind": (
        JOB,
        lambda c: first_task(c).update(depends_on=[{"task_key": "collect"}]),
        "depends on 'collect', which is no task",
    ),
    "task twice": (
        JOB,
        lambda c: job(c)["tasks"].append(job(c)["tasks"][-1]),
        "task 'report' is defined more than once",
    ),
    "wheel from elsewhere": (
        JOB,
        lambda c: dependencies(c).__setitem__(0, "./dist/*.whl"),
        "must install the wheels as '../dist/*.whl' and '../dist/models/*.whl'",
    ),
    "no models": (
        JOB,
        lambda c: dependencies(c).pop(1),
        "must install the wheels as '../dist/*.whl' and '../dist/models/*.whl'",
    ),
    "a token": (JOB, lambda c: job(c).update(description="dapi" + "0123456789abcdef" * 2), "looks like a secret"),
    "a password": (JOB, lambda c: job(c).update(tags={"store_password": "hunter2"}), "looks like a secret"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_is_reported(bundle: Path, name: str) -> None:
    file, change, expected = PLANTED[name]
    edit(bundle, file, change)
    found = problems(bundle)
    assert any(expected in problem for problem in found), found


@pytest.mark.parametrize("content", ["- a\n", "a: [b\n"])
def test_a_file_that_is_no_mapping_is_reported(bundle: Path, content: str) -> None:
    (bundle / JOB).write_text(content, encoding="utf-8")
    assert len(problems(bundle)) == 1
    assert "documents_loop.job.yml" in problems(bundle)[0]


def test_a_stage_without_a_task_and_a_task_without_a_stage_are_reported(bundle: Path) -> None:
    found = problems(bundle, commands=["ingest-documents", "train-model"])
    assert any("the stage 'train-model' has no task" in problem for problem in found)
    assert any("'refine-documents' is none of the stages" in problem for problem in found)


def test_only_staging_and_prod_refuse_to_be_destroyed() -> None:
    content = yaml.safe_load((ROOT / "databricks.yml").read_text(encoding="utf-8"))
    kinds = {
        "schema": "schemas",
        "volume": "volumes",
        "vector_search_endpoint": "vector_search_endpoints",
        "experiment": "experiments",
        "registered_model": "registered_models",
    }
    deployed = {tuple(path.name.split(".")[:2]) for path in (ROOT / "resources").glob("*.yml")}
    holding_data = {(kinds[kind], name) for name, kind in deployed if kind in kinds}
    for target, is_kept in (("dev", False), ("staging", True), ("prod", True)):
        changed = content["targets"][target].get("resources", {})
        kept = {
            (kind, name)
            for kind, things in changed.items()
            for name, fields in things.items()
            if fields["lifecycle"]["prevent_destroy"]
        }
        assert kept == (holding_data if is_kept else set())
