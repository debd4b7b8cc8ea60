"""What the stages declare of themselves, against whoever else tells of them."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from pipelines.cli.main import _STAGE_HELP, app
from pipelines.conductor.run import new_context
from pipelines.conductor.stages import DOCUMENT_STAGES, STAGES
from pipelines.lakehouse.schemas import TABLES
from pipelines.settings.sections import Settings

ROOT = Path(__file__).resolve().parents[3]


def test_every_stage_is_a_command_with_its_own_words():
    commands = {command.name: command for command in app.registered_commands}
    for stage in STAGES:
        told = commands[stage.command]
        assert (told.help or told.callback.__doc__ or "").splitlines()[0] == stage.help, stage.command
    assert {stage.command: stage.help for stage in STAGES if stage.command in _STAGE_HELP} == _STAGE_HELP


def test_every_stage_is_a_module_of_its_name_with_a_look_and_a_work():
    for stage in STAGES:
        name = stage.command.replace("-", "_")
        assert stage.look.__module__.rpartition(".")[2] == stage.work.__module__.rpartition(".")[2] == name
        module = Path(ROOT, *stage.work.__module__.split(".")).with_suffix(".py")
        assert module.read_text(encoding="utf-8").startswith(f'"""{stage.command}: '), module


def test_what_a_stage_reads_is_written_before_it_and_every_table_is_known():
    written: set[str] = set()
    for stage in STAGES:
        tables = [*stage.sources, *stage.targets]
        assert all(table in TABLES or table == "?" or "*" in table for table in tables), stage.command
        later = {table for other in STAGES for table in other.targets} - written - set(stage.targets)
        assert later.isdisjoint(stage.sources), f"{stage.command} would read what is written after it"
        written.update(stage.targets)
    assert [stage for stage in STAGES if stage in DOCUMENT_STAGES] == [*DOCUMENT_STAGES]


def test_the_page_of_tables_names_the_stages_that_write_each():
    page = (ROOT / "docs/tables.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z]+\.[a-z_]+) \| .* \| (.*?) \|$", page, re.MULTILINE)
    told = dict(rows)
    for stage in STAGES:
        for table in stage.targets:
            assert "*" in table or stage.command in told[table], f"{table} is written by {stage.command}"


def test_a_stage_names_the_tables_of_each_of_its_subjects(tmp_path):
    orders = {"format": "csv", "location": "orders", "key": ["k"], "columns": {"k": "string"}}
    context = new_context(Settings.model_validate({"root": tmp_path, "records": {"orders": orders}}))
    refine = next(stage for stage in STAGES if stage.command == "refine-records")
    (each,) = refine.contexts(context)
    assert refine.sources_of(each) == ("bronze.records_orders",)
    assert refine.targets_of(each)[0] == "silver.records_orders"
    assert each.states is context.states, "all of a run read ops.stage_state once"


def test_the_deployed_job_runs_stages_that_there_are():
    commands = {stage.command for stage in STAGES}
    found = set()
    for path in sorted((ROOT / "resources").rglob("*.job.yml")):
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["resources"]["jobs"].values():
            for task in job["tasks"]:
                if "python_wheel_task" in task:
                    found.add(task["python_wheel_task"]["parameters"][0])
    assert found & commands
    assert commands - found == set(), "a stage that no job runs"
