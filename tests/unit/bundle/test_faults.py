"""Faults that are found only by reading what the fields say, and right things that look like one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from expectations.tables.chunks import chunk_rules
from expectations.targets.alerts import alert_query

from .bundle_check import problems
from .planting import (
    JOB,
    Plant,
    both,
    dependencies,
    first_task,
    gate,
    grant,
    in_environment,
    in_file,
    in_first_task,
    in_job,
    in_pipeline,
    on_cluster,
    with_alert,
    with_destinations,
    with_parameter,
    with_resource,
    with_schedule,
    with_setting,
    with_task,
    words,
)

pytestmark = pytest.mark.long

GOLD = "resources/gold.schema.yml"
RULES_QUERY = alert_query(
    "${var.catalog}.${resources.schemas.silver.name}.chunks", rules=chunk_rules(max_tokens=9, max_characters=99)
)
WHEEL_TASK = {"python_wheel_task": {"package_name": "lakeloop", "entry_point": "lakeloop", "parameters": ["report"]}}

# name: what is planted, and what the message must say: where, and what.
FAULTS: dict[str, tuple[Plant, str, str]] = {
    "wrong key in the bundle": (
        in_file("databricks.yml", lambda c: c["bundle"].update(title="x")),
        "databricks.yml",
        "unknown field 'title' in bundle",
    ),
    "unknown setting": (with_setting("index.rows=1"), "task 'ingest_documents'", "unknown setting 'index.rows'"),
    "setting's value": (with_setting("chunks.max_tokens=many"), "task 'ingest_documents'", "chunks.max_tokens"),
    "store": (with_setting("index.store=paper"), "task 'ingest_documents'", "there is no store 'paper'"),
    "setting's value by a job parameter": (
        both(
            with_parameter("store", "paper"),
            with_setting("index.store={{job.parameters.store}}"),
        ),
        "task 'ingest_documents'",
        "index.store",
    ),
    "unknown extra of the wheel": (
        in_file(JOB, lambda c: dependencies(c).__setitem__(0, "../dist/*.whl[documents,paper]")),
        "environments.0.spec.dependencies.0",
        "lakeloop has no extra 'paper'",
    ),
    "unknown extra in a pipeline": (
        in_pipeline(environment={"dependencies": ["--editable ${workspace.file_path}[paper]"]}),
        "pipelines.declared_datasets: environment.dependencies.0",
        "lakeloop has no extra 'paper'",
    ),
    "unknown extra of a library": (
        in_file(JOB, lambda c: dependencies(c).append("markitdown[paper]==0.1.8")),
        "environments.0.spec.dependencies",
        "markitdown has no extra 'paper'",
    ),
    "bad cron in a job": (with_schedule("0 61 * * * ?"), "schedule.quartz_cron_expression", "'61' as minutes"),
    "bad cron in an alert": (with_alert(cron="0 0 25 * * ?"), "schedule.quartz_cron_schedule", "'25' as hours"),
    "cron of five fields": (with_schedule("0 6 * * *"), "schedule.quartz_cron_expression", "has 5 fields"),
    "cron with both days": (with_schedule("0 0 6 1 * 2"), "schedule.quartz_cron_expression", "must have '?'"),
    "cron with a wrong name": (with_schedule("0 0 6 ? * MUN"), "schedule.quartz_cron_expression", "'MUN'"),
    "time zone of a job": (
        with_schedule("0 0 6 * * ?", "Europe/Bonn"),
        "schedule.timezone_id",
        "'Europe/Bonn' is no time zone",
    ),
    "time zone of an alert": (with_alert(time_zone="Mars"), "added.alert.yml: alerts.added", "'Mars' is no time zone"),
    "unknown variable in a task": (
        with_setting("catalog=${var.catalogue}"),
        "python_wheel_task.parameters",
        "${var.catalogue}: no such variable",
    ),
    "unknown resource in a task": (
        with_task(task_key="declared", pipeline_task={"pipeline_id": "${resources.pipelines.undeclared.id}"}),
        "pipeline_task.pipeline_id",
        "${resources.pipelines.undeclared.id}: no such resource",
    ),
    "unknown privilege": (
        in_file(GOLD, lambda c: c["resources"]["schemas"]["gold"].update(grants=[grant("admins", "LOOK_AT")])),
        "grants.0.privileges.0",
        "'LOOK_AT' is not a valid Privilege",
    ),
    "unknown principal of a grant": (
        in_file(GOLD, lambda c: c["resources"]["schemas"]["gold"].update(grants=[grant("nobody", "SELECT")])),
        "schemas.gold: grants.0.principal",
        "the principal 'nobody' is unknown",
    ),
    "unknown principal of a permission": (
        in_job(permissions=[{"group_name": "nobody", "level": "CAN_VIEW"}]),
        "permissions.0.group_name",
        "the principal 'nobody' is unknown",
    ),
    "unknown principal of a target": (
        in_file("databricks.yml", lambda c: c["targets"]["prod"]["permissions"][0].update(group_name="nobody")),
        "target prod: permissions.0.group_name",
        "the principal 'nobody' is unknown",
    ),
    "run_as without a name": (in_job(run_as={}), "jobs.documents_loop: run_as", "names nobody"),
    "run_as of an empty name": (in_job(run_as={"user_name": ""}), "run_as.user_name", "the principal '' is unknown"),
    "run_as of a target without a name": (
        in_file("databricks.yml", lambda c: c["targets"]["staging"].update(run_as={})),
        "target staging: run_as",
        "names nobody",
    ),
    "task without compute": (
        in_file(JOB, lambda c: first_task(c).pop("environment_key")),
        "task 'ingest_documents'",
        "it has no compute",
    ),
    "task that does nothing": (with_task(task_key="idle"), "task 'idle'", "it must do one thing"),
    "task that does two things": (
        in_first_task(condition_task={"left": "1", "op": "EQUAL_TO", "right": "1"}),
        "task 'ingest_documents'",
        "it must do one thing",
    ),
    "unknown job cluster": (
        both(in_file(JOB, on_cluster), in_first_task(job_cluster_key="large")),
        "task 'ingest_documents'",
        "job_cluster_key 'large' is none of ['small']",
    ),
    "wheel that a cluster lacks": (
        both(in_file(JOB, on_cluster), in_first_task(libraries=[])),
        "task 'ingest_documents'",
        "must install the wheel by its libraries",
    ),
    "repeated task without compute": (
        with_task(task_key="each", for_each_task={"inputs": "[1]", "task": {"task_key": "report", **WHEEL_TASK}}),
        "task 'report'",
        "it has no compute",
    ),
    "glob of wheels that matches nothing": (
        in_environment(dependencies=["../dist/*.whl", "../dist/larger/*.whl"]),
        "environments.0.spec.dependencies.1",
        "the deployment builds no wheel '../dist/larger/*.whl'",
    ),
    "glob of a pipeline that matches nothing": (
        in_pipeline(libraries=[{"glob": {"include": "../pipelines/declared/**"}}]),
        "libraries.0.glob.include",
        "no file matches '../pipelines/declared/**'",
    ),
    "file of a pipeline that is not there": (
        in_pipeline(libraries=[{"file": {"path": "../pipelines/declarative/chunks.py"}}]),
        "libraries.0.file.path",
        "no file matches '../pipelines/declarative/chunks.py'",
    ),
    "notebook that is not there": (
        with_task(task_key="look", notebook_task={"notebook_path": "look.ipynb"}),
        "notebook_task.notebook_path",
        "no file matches 'look.ipynb'",
    ),
    "library left out": (
        in_file(JOB, lambda c: dependencies(c).pop()),
        "environment 'default'",
        "'matplotlib', which a task needs, is left out",
    ),
    "library that no task needs": (
        in_file(JOB, lambda c: dependencies(c).append("duckdb==2.0.0")),
        "environment 'default'",
        "'duckdb' is installed, but no task needs it",
    ),
    "version that does not exist": (
        in_file(JOB, lambda c: dependencies(c).__setitem__(-1, "matplotlib==99.0")),
        "environments.0.spec.dependencies",
        "'matplotlib==99.0' is not what requirements/dev.lock has",
    ),
    "line that is no requirement": (
        in_file(JOB, lambda c: dependencies(c).append("matplotlib=3")),
        "environments.0.spec.dependencies",
        "'matplotlib=3' is no requirement",
    ),
    "wrong enum": (in_first_task(run_if="SOMETIMES"), "tasks.0.run_if", "'SOMETIMES' is not a valid RunIf"),
    "wrong type": (in_job(max_concurrent_runs="one"), "max_concurrent_runs", "must be a int"),
    "text for the tasks": (in_job(tasks="all"), "jobs.documents_loop: tasks", "must be a list"),
    "text for the targets": (in_file("databricks.yml", lambda c: c.update(targets="dev")), "targets", "must hold keys"),
    "list of resources in a target": (
        in_file("databricks.yml", lambda c: c["targets"]["dev"].update(resources=["gold"])),
        "targets.dev.resources",
        "must hold keys",
    ),
    "list of schemas": (
        in_file(GOLD, lambda c: c["resources"].update(schemas=["gold"])),
        "gold.schema.yml",
        "resources.schemas must hold keys",
    ),
    "required field": (
        in_file(JOB, lambda c: first_task(c)["python_wheel_task"].pop("entry_point")),
        "tasks.0.python_wheel_task",
        "lacks the field 'entry_point'",
    ),
    "file-arrival URL without its slash": (
        in_job(trigger={"file_arrival": {"url": "/Volumes/main/bronze/landing"}}),
        "trigger.file_arrival.url",
        "must end in a slash",
    ),
    "environment version": (in_environment(environment_version="99"), "environment_version", "no version '99'"),
    "alert's column that is not in its query": (
        with_alert(column="early"),
        "alerts.added: evaluation.source",
        "no column 'early'; it gives ['late']",
    ),
    "alert on the rules without their column": (
        with_alert(RULES_QUERY, column="late"),
        "alerts.added: evaluation.source",
        "no column 'late'; it gives ['checked_rows', 'failed_rows'",
    ),
    "alert on a table that does not exist": (
        with_alert("SELECT count(*) AS late FROM ${var.catalog}.${resources.schemas.silver.name}.chapters"),
        "alerts.added: query_text",
        "no stage makes silver.chapters",
    ),
    "alert on a table of elsewhere, below a WITH": (
        with_alert("WITH z AS (SELECT 1 AS late FROM main.other.chunks) SELECT late FROM z"),
        "alerts.added: query_text",
        "main.other.chunks lies in no schema of the bundle",
    ),
    "task value of no task": (gate("{{tasks.collect.values.rows}}"), "task 'gate'", "tasks.collect.values.rows"),
    "task value of a later task": (
        gate("{{tasks.report.values.rows}}"),
        "task 'gate'",
        "not of a task that has run before",
    ),
    "undeclared job parameter": (
        with_setting("index.name={{job.parameters.name}}"),
        "task 'ingest_documents'",
        "declares no parameter 'name'",
    ),
    "negative retries": (in_first_task(max_retries=-1), "tasks.0.max_retries", "must not be negative"),
    "four destinations of a job": (with_destinations(4), "webhook_notifications.on_start", "has 4 destinations"),
    "four destinations of a task": (
        in_first_task(webhook_notifications={"on_start": [{"id": str(number)} for number in range(4)]}),
        "task 'ingest_documents'",
        "webhook_notifications.on_start has 4 destinations",
    ),
    "volume below a schema of another catalog": (
        in_file(
            "resources/landing.volume.yml", lambda c: c["resources"]["volumes"]["landing"].update(catalog_name="main")
        ),
        "volumes.landing: catalog_name is 'main'",
        "bronze' lies in dev",
    ),
    "wrong key in a newer kind": (
        with_resource("postgres_projects", "postgres_project", project_id="p", title="x"),
        "postgres_projects.added",
        "Unexpected field 'title'",
    ),
    "one key of two kinds": (
        both(
            with_resource("catalogs", "catalog", name="lakeloop"),
            with_resource("secret_scopes", "secret_scope", name="lakeloop"),
        ),
        "added.secret_scope.yml",
        "added.catalog.yml has the key 'added', too",
    ),
    "kind that does not exist": (
        with_resource("notebooks", "notebook", name="x"),
        "added.notebook.yml",
        "unknown kind",
    ),
}

SPACE = {"title": "Documents", "warehouse_id": "w", "serialized_space": "{}"}
ENDPOINT = {
    "name": "answering",
    "config": {
        "served_entities": [
            {
                "name": "other",
                "external_model": {
                    "name": "m",
                    "provider": "openai",
                    "task": "llm/v1/chat",
                    "openai_config": {"openai_api_key": "{{secrets/lakeloop/openai}}"},
                },
            }
        ]
    },
}
CLUSTER = {"cluster_name": "small", "spark_version": "17.3.x-scala2.13", "node_type_id": "m5d.large", "num_workers": 1}

RIGHT: dict[str, Plant] = {
    "whole number as the threshold of an alert": with_alert(threshold=100),
    "alert on a table of the settings": with_alert(
        "SELECT count(*) AS late FROM ${var.catalog}.${resources.schemas.gold.name}.features_flights"
    ),
    "alert in Spark's own words": with_alert(
        "SELECT count(*) AS `late` FROM ${var.catalog}.`${resources.schemas.silver.name}`.chunks"
        " WHERE path RLIKE '\\\\p{L}' AND text = 'it\\\\'s' AND _ingested_at > current_timestamp() - INTERVAL 1 DAY"
    ),
    "alert on all columns of a table": with_alert(
        "SELECT * FROM ${var.catalog}.${resources.schemas.monitoring.name}.rule_results", column="failed_rows"
    ),
    "alert of the rules": with_alert(RULES_QUERY, column="failed_rows"),
    "gate": gate(),
    "task on a job cluster": in_file(JOB, on_cluster),
    "job parameter": both(
        with_parameter("index", "chunks"),
        with_setting("index.name={{job.parameters.index}}"),
    ),
    "file of settings": both(
        with_parameter("own_config", "${workspace.file_path}/lakeloop.yml"),
        in_file(JOB, lambda c: words(c).append("--config={{job.parameters.own_config}}")),
    ),
    "value that is known when the task starts": with_setting("index.name={{job.run_id}}"),
    "schedule on the last Friday": with_schedule("0 0/15 6-18 ? JAN-MAR,DEC 6L 2027", "America/Argentina/Ushuaia"),
    "three destinations": with_destinations(3),
    "extra of the wheel": in_file(JOB, lambda c: dependencies(c).__setitem__(0, "../dist/*.whl[documents]")),
    "grant to everybody": in_file(
        GOLD, lambda c: c["resources"]["schemas"]["gold"].update(grants=[grant("account users", "SELECT")])
    ),
    "permission of a variable's group": in_job(
        permissions=[{"group_name": "${var.operators_group}", "level": "CAN_MANAGE_RUN"}]
    ),
    "app": with_resource("apps", "app", name="questions", source_code_path="../pipelines/declarative"),
    "dashboard": with_resource(
        "dashboards", "dashboard", display_name="loop", warehouse_id="w", serialized_dashboard={"pages": []}
    ),
    "secret scope": with_resource("secret_scopes", "secret_scope", name="lakeloop", backend_type="DATABRICKS"),
    "serving endpoint": with_resource("model_serving_endpoints", "model_serving_endpoint", **ENDPOINT),
    "cluster": with_resource("clusters", "cluster", **CLUSTER),
    "Genie space": with_resource("genie_spaces", "genie_space", **SPACE),
    "postgres project": with_resource(
        "postgres_projects", "postgres_project", project_id="p", display_name="p", pg_version=17
    ),
    "postgres branch": with_resource("postgres_branches", "postgres_branch", branch_id="b", parent="projects/p"),
    "catalog": with_resource("catalogs", "catalog", name="lakeloop"),
    "vector search endpoint": with_resource(
        "vector_search_endpoints", "vector_search_endpoint", name="more", endpoint_type="STANDARD"
    ),
    "job run": with_resource("job_runs", "job_run", job_id="${resources.jobs.documents_loop.id}"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_with_its_place(bundle: Path, name: str) -> None:
    plant, where, what = FAULTS[name]
    plant(bundle)
    found = problems(bundle)
    assert any(where in problem and what in problem for problem in found), found


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_thing_is_accepted(bundle: Path, name: str) -> None:
    RIGHT[name](bundle)
    assert problems(bundle) == []
