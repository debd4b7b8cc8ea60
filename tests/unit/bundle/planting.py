"""Plants changes in a copy of the bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
JOB = "resources/documents_loop.job.yml"
PIPELINE = "resources/declared_datasets.pipeline.yml"

Edit = Callable[[dict[str, Any]], object]
Plant = Callable[[Path], None]


def edit(bundle: Path, name: str, change: Edit) -> None:
    content = yaml.load((bundle / name).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    change(content)
    (bundle / name).write_text(yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False), encoding="utf-8")


def job(content: dict[str, Any]) -> Any:
    return content["resources"]["jobs"]["documents_loop"]


def first_task(content: dict[str, Any]) -> Any:
    return job(content)["tasks"][0]


def dependencies(content: dict[str, Any]) -> list[str]:
    found: list[str] = job(content)["environments"][0]["spec"]["dependencies"]
    return found


def in_file(name: str, change: Edit) -> Plant:
    return lambda bundle: edit(bundle, name, change)


def in_job(**fields: Any) -> Plant:
    return in_file(JOB, lambda c: job(c).update(fields))


def in_first_task(**fields: Any) -> Plant:
    return in_file(JOB, lambda c: first_task(c).update(fields))


def in_environment(**fields: Any) -> Plant:
    return in_file(JOB, lambda c: job(c)["environments"][0]["spec"].update(fields))


def in_pipeline(**fields: Any) -> Plant:
    return in_file(PIPELINE, lambda c: c["resources"]["pipelines"]["declared_datasets"].update(fields))


def with_setting(setting: str) -> Plant:
    return in_file(JOB, lambda c: words(c).append(f"--set={setting}"))


def with_parameter(name: str, default: str) -> Plant:
    return in_file(JOB, lambda c: job(c).setdefault("parameters", []).append({"name": name, "default": default}))


def with_task(**task: Any) -> Plant:
    return in_file(JOB, lambda c: job(c)["tasks"].append(task))


def with_resource(kind: str, suffix: str, **fields: Any) -> Plant:
    def plant(bundle: Path) -> None:
        content = {"resources": {kind: {"added": fields}}}
        (bundle / f"resources/added.{suffix}.yml").write_text(yaml.safe_dump(content), encoding="utf-8")

    return plant


def with_alert(
    query: str = "SELECT count(*) AS late FROM ${var.catalog}.${resources.schemas.silver.name}.chunks",
    *,
    column: str = "late",
    cron: str = "0 0 * * * ?",
    time_zone: str = "Europe/Berlin",
    threshold: Any = 0.5,
) -> Plant:
    return with_resource(
        "alerts",
        "alert",
        display_name="late",
        query_text=query,
        warehouse_id="w",
        schedule={"quartz_cron_schedule": cron, "timezone_id": time_zone},
        evaluation={
            "comparison_operator": "GREATER_THAN",
            "source": {"name": column},
            "threshold": {"value": {"double_value": threshold}},
        },
    )


def with_schedule(cron: str, time_zone: str = "UTC") -> Plant:
    return in_job(schedule={"quartz_cron_expression": cron, "timezone_id": time_zone})


def with_destinations(number: int) -> Plant:
    destinations = [{"id": f"d{each}"} for each in range(number)]
    return in_file(JOB, lambda c: job(c)["webhook_notifications"].update(on_start=destinations))


def both(*plants: Plant) -> Plant:
    def plant(bundle: Path) -> None:
        for each in plants:
            each(bundle)

    return plant


def gate(left: str = "{{tasks.ingest_records.values.rows}}") -> Plant:
    return with_task(
        task_key="gate",
        depends_on=[{"task_key": "ingest_records"}],
        condition_task={"left": left, "op": "GREATER_THAN", "right": "0"},
    )


def words(c: dict[str, Any]) -> list[str]:
    found: list[str] = first_task(c)["python_wheel_task"]["parameters"]
    return found


def grant(principal: str, *privileges: str) -> dict[str, Any]:
    return {"principal": principal, "privileges": [*privileges]}


def on_cluster(c: dict[str, Any]) -> None:
    """The first task of the job, on a cluster that the job makes."""
    del first_task(c)["environment_key"]
    first_task(c).update(job_cluster_key="small", libraries=[{"whl": "../dist/*.whl"}, {"whl": "../dist/models/*.whl"}])
    cluster = {"spark_version": "17.3.x-scala2.13", "node_type_id": "m5d.large", "num_workers": 1}
    job(c)["job_clusters"] = [{"job_cluster_key": "small", "new_cluster": cluster}]
