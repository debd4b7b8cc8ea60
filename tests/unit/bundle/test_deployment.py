"""What a deployment of the bundle takes with it, whom it lets in, and what its tasks are told."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import lakeloop
from pipelines.lakehouse.opening import open_lakehouse
from pipelines.settings.load import load_settings
from pipelines.settings.sections import Settings

from .bundle_check import resolved

ROOT = Path(__file__).parents[3]
BUNDLE = yaml.safe_load((ROOT / "databricks.yml").read_text(encoding="utf-8"))
TARGETS = list(BUNDLE["targets"])
SHARED = [target for target in TARGETS if target != "dev"]


def deployed(target: str, **variables: str) -> dict[str, Any]:
    return resolved(ROOT, target=target, variables={"service_principal_name": "0-0-0", **variables})


@pytest.fixture
def uploaded(tmp_path: Path) -> Path:
    """A folder with what is uploaded: all but what git ignores and what `sync` excludes."""
    excluded = [pattern.removesuffix("/**") for pattern in BUNDLE["sync"]["exclude"]]
    assert [name for name in excluded if not (ROOT / name).is_dir()] == [], "an exclusion of nothing"
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()]
    return shutil.copytree(ROOT, tmp_path / "files", ignore=shutil.ignore_patterns(".git", *ignored, *excluded))


def test_what_is_uploaded_can_be_installed_as_the_declared_pipeline_does(uploaded: Path) -> None:
    tops = {path.name for path in uploaded.iterdir() if path.is_dir()}
    assert tops == {"lakeloop", "transformations", "expectations", "pipelines", "resources", "conf"}
    (library,) = deployed("prod")["pipelines"]["declared_datasets"]["libraries"]
    assert list((uploaded / "resources").glob(library["glob"]["include"].replace("**", "*.py")))
    program = "from setuptools.build_meta import prepare_metadata_for_build_editable as p; print(p('.'))"
    done = subprocess.run([sys.executable, "-c", program], cwd=uploaded, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Provides-Extra: documents" in next(uploaded.glob("*.dist-info/METADATA")).read_text(encoding="utf-8")


def test_the_wheel_is_built_alone_by_the_bundles_own_command(uploaded: Path) -> None:
    for stale in ("dist/lakeloop-0.0.9-py3-none-any.whl", "dist/models/kept.whl", "build/lib/pipelines/stale.py"):
        (uploaded / stale).parent.mkdir(parents=True, exist_ok=True)
        (uploaded / stale).touch()
    command = BUNDLE["artifacts"]["wheel"]["build"].replace("python ", f'"{sys.executable}" ')
    done = subprocess.run(["bash", "-c", command], cwd=uploaded, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [path.name for path in (uploaded / "dist").glob("*.whl")] == ["lakeloop-0.1.0-py3-none-any.whl"]
    assert (uploaded / "dist/models/kept.whl").is_file()
    assert not (uploaded / "build/lib/pipelines/stale.py").exists()


@pytest.mark.parametrize("target", TARGETS)
def test_the_file_of_settings_is_one_of_the_bundle_and_every_task_reads_it(target: str) -> None:
    resources = deployed(target)
    job = resources["jobs"]["documents_loop"]
    (config,) = (one["default"] for one in job["parameters"] if one["name"] == "config")
    file = ROOT / config.partition("/files/")[2]
    assert load_settings(file).records == {}
    for task in job["tasks"]:
        assert "--config={{job.parameters.config}}" in task["python_wheel_task"]["parameters"], task["task_key"]
    assert resources["pipelines"]["declared_datasets"]["configuration"]["lakeloop.settings"] == config


@pytest.mark.parametrize("catalog", ["main", "my-own-catalog"])
def test_places_of_files_are_volumes_of_the_bundle_whatever_the_catalog_is_called(catalog: str, tmp_path: Path) -> None:
    resources = deployed("staging", catalog=catalog)
    job = resources["jobs"]["documents_loop"]
    volumes = {
        f"/Volumes/{one['catalog_name']}/{one['schema_name']}/{one['name']}" for one in resources["volumes"].values()
    }
    assert job["trigger"]["file_arrival"]["url"].removesuffix("/") in volumes
    for task in job["tasks"]:
        settings = settings_of(task, {"config": str(ROOT / "conf/lakeloop.yml")})
        assert settings.catalog == catalog
        for place in (settings.landing, settings.checkpoints, settings.report, settings.quality):
            assert "/".join(place.split("/")[:5]) in volumes, place
        assert settings.path(settings.landing) == Path(settings.landing)


def test_a_task_writes_its_lock_and_its_log_into_its_own_folder(tmp_path: Path) -> None:
    (task, *_) = deployed("prod")["jobs"]["documents_loop"]["tasks"]
    command, _, *sets = task["python_wheel_task"]["parameters"]
    own, conf, volumes = tmp_path / "own", tmp_path / "conf", tmp_path / "Volumes"
    own.mkdir()
    shutil.copytree(ROOT / "conf", conf)
    words = [one.replace("/Volumes/", f"{volumes}/") for one in sets if "=catalog=" not in one]  # no Spark here
    landing = next(Path(one.removeprefix("--set=landing=")) for one in words if "=landing=" in one)
    landing.mkdir(parents=True)
    (landing / "one.md").write_text("# One\n", encoding="utf-8")
    program = [sys.executable, "-m", "pipelines.cli.main", command, f"--config={conf / 'lakeloop.yml'}", *words]
    done = subprocess.run(program, cwd=own, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name for path in own.iterdir()} == {".lakeloop.lock", "logs", "lakehouse"}
    assert [path.name for path in conf.iterdir()] == ["lakeloop.yml"]


def test_a_notebook_is_given_what_the_job_gives_its_tasks() -> None:
    page = (ROOT / "docs/notebooks.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)[0].replace("YOU", "ada"), names)
    (task, *_) = deployed("dev", catalog="main")["jobs"]["documents_loop"]["tasks"]
    sets = dict(one.removeprefix("--set=").split("=", 1) for one in task["python_wheel_task"]["parameters"][2:])
    assert names["SETTINGS"].items() <= sets.items()
    settings = lakeloop.open(ROOT / "conf/lakeloop.yml", overrides=sets).settings
    assert settings == settings_of(task, {"config": str(ROOT / "conf/lakeloop.yml")})
    assert names["WORKSPACE"].endswith("/.bundle/lakeloop/dev/files/conf/lakeloop.yml")


def settings_of(task: Mapping[str, Any], given: Mapping[str, str]) -> Settings:
    """What a task makes of its words."""
    _, config, *sets = task["python_wheel_task"]["parameters"]
    file = re.sub(r"\{\{job\.parameters\.(\w+)\}\}", lambda found: given[found[1]], config).removeprefix("--config=")
    return load_settings(Path(file), overrides=[one.removeprefix("--set=") for one in sets])


def test_names_of_tables_are_quoted_in_sql() -> None:
    lake = open_lakehouse(Settings(catalog="my-own", schema_prefix="a_"), spark=lambda: pytest.fail("no session"))
    assert lake.identifier("silver.documents") == "`my-own`.`a_silver`.`documents`"
    configuration = deployed("staging", catalog="my-own")["pipelines"]["declared_datasets"]["configuration"]
    assert configuration["lakeloop.bronze"] == "`my-own`.`lakeloop_bronze`"


@pytest.mark.parametrize("target", SHARED)
def test_whoever_reads_reads_what_is_meant_for_reading_and_nothing_else(target: str) -> None:
    granted = dict(grants(deployed(target, readers_group="readers"), "readers"))
    may_read = {"USE_SCHEMA", "SELECT"}
    assert granted == {
        **{f"schemas.{name}": may_read for name in ("silver", "declared", "gold", "monitoring")},
        "schemas.inference": {"USE_SCHEMA"},
        "volumes.reports": {"READ_VOLUME"},
        "registered_models.answering": {"EXECUTE"},
    }


@pytest.mark.parametrize("target", SHARED)
def test_operators_and_tasks_reach_everything(target: str) -> None:
    resources = deployed(target, operators_group="operators")
    operators, tasks = dict(grants(resources, "operators")), dict(grants(resources, "0-0-0"))
    securables = {f"{kind}.{key}" for kind, things in resources.items() for key in things if kind in _WITH_GRANTS}
    assert set(operators) == securables
    assert set(tasks) == {name for name in securables if name.startswith("schemas.")}, "the others inherit"
    assert all({"USE_SCHEMA", "SELECT", "MODIFY", "CREATE_TABLE", "MANAGE"} <= given for given in tasks.values())


@pytest.mark.parametrize("target", SHARED)
def test_no_principal_is_named_twice_on_one_thing(target: str) -> None:
    for kind in _WITH_GRANTS:
        for key, fields in deployed(target)[kind].items():
            principals = [grant["principal"] for grant in fields["grants"]]
            assert len(principals) == len(set(principals)), f"{kind}.{key}: the last one would win"


def test_in_dev_nobody_else_is_let_in() -> None:
    found = deployed("dev")
    assert not any("grants" in fields for kind in _WITH_GRANTS for fields in found[kind].values())
    assert "permissions" not in BUNDLE["targets"]["dev"]


_WITH_GRANTS = ("schemas", "volumes", "registered_models")


def grants(resources: Mapping[str, Any], principal: str) -> Iterator[tuple[str, set[str]]]:
    for kind in _WITH_GRANTS:
        for key, fields in resources[kind].items():
            for grant in fields.get("grants", []):
                if grant["principal"] == principal:
                    yield f"{kind}.{key}", set(grant["privileges"])
