"""A job in, a sentence for everything that does not fit in it out: tasks, compute, parameters, references, settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from functools import cache
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pipelines.settings.load import load_settings
from pipelines.stores import STORES
from transformations.errors import ConfigurationError

from .bundle_libraries import DISTRIBUTION, console_scripts, set_problems, without_extras
from .bundle_references import leaves, texts

# Tasks that run code of their own, and what they can run it on.
_NEED_COMPUTE = {"python_wheel_task", "spark_python_task", "spark_jar_task", "spark_submit_task", "dbt_task"}
_COMPUTE = ("environment_key", "job_cluster_key", "existing_cluster_id", "new_cluster")
# What the platform fills in when a task starts.
_DYNAMIC = re.compile(r"\{\{\s*([\w.-]+)\s*\}\}")
_MOST_DESTINATIONS = 3

Task = Mapping[str, Any]


def job_problems(
    job: Mapping[str, Any], *, wheels: Sequence[str], commands: Sequence[str] | None = None
) -> Iterator[str]:
    """Everything wrong with a job whose fields exist and whose references are replaced.

    Args:
        wheels: those that the deployment builds, as the job's file names them.
        commands: names of the stages' commands; where given, each wheel task is one of them.
    """
    tasks, needs = list(_tasks(job)), _needs(job.get("tasks") or [])
    yield from _graph_problems(job.get("tasks") or [])
    yield from _limit_problems(job)
    yield from _environment_problems(job, tasks, wheels)
    for task in tasks:
        found = list(_compute_problems(task, job, wheels))
        if task["task_key"] in needs:
            found += _dynamic_problems(task, before=_before(task["task_key"], needs), parameters=_parameters(job))
        if wheel := task.get("python_wheel_task"):
            found += _wheel_problems(task, wheel, job, commands)
        yield from (f"task {task['task_key']!r}: {p}" for p in found)


def _tasks(job: Mapping[str, Any]) -> Iterator[Task]:
    """The tasks of a job, and those that they repeat."""
    for task in job.get("tasks") or []:
        yield task
        if "for_each_task" in task:
            yield task["for_each_task"]["task"]


# -- the job ------------------------------------------------------------------------------------------------------


def _needs(tasks: Sequence[Task]) -> dict[str, list[str]]:
    return {task["task_key"]: [d["task_key"] for d in task.get("depends_on") or []] for task in tasks}


def _graph_problems(tasks: Sequence[Task]) -> Iterator[str]:
    keys = [task["task_key"] for task in tasks]
    yield from (f"task {key!r} is defined more than once" for key in sorted({k for k in keys if keys.count(k) > 1}))
    graph = _needs(tasks)
    for key, behind in graph.items():
        yield from (f"task {key!r} depends on {name!r}, which is no task" for name in behind if name not in graph)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"tasks depend on each other in a cycle: {' -> '.join(error.args[1])}"


def _limit_problems(job: Mapping[str, Any]) -> Iterator[str]:
    for where, value in leaves(job):
        if type(value) is int and value < 0:
            yield f"{where} must not be negative, but it is {value}"
    for owner in (job, *_tasks(job)):
        for event, destinations in (owner.get("webhook_notifications") or {}).items():
            if len(destinations or []) > _MOST_DESTINATIONS:
                place = f"task {owner['task_key']!r}: " if "task_key" in owner else ""
                yield f"{place}webhook_notifications.{event} has {len(destinations)} destinations; 3 are allowed"


def _environment_problems(job: Mapping[str, Any], tasks: Sequence[Task], wheels: Sequence[str]) -> Iterator[str]:
    used = {task.get("environment_key") for task in tasks if "python_wheel_task" in task}
    for environment in job.get("environments") or []:
        key, spec = environment["environment_key"], environment.get("spec") or {}
        if key in used and "base_environment" not in spec:
            lines = spec.get("dependencies") or []
            if [without_extras(line) for line in lines if line.startswith(".")] != [*wheels]:
                yield f"environment {key!r} must install the wheels as {' and '.join(map(repr, wheels))}"
            yield from (f"environment {key!r}: {p}" for p in set_problems(lines))


# -- a task -------------------------------------------------------------------------------------------------------


def _compute_problems(task: Task, job: Mapping[str, Any], wheels: Sequence[str]) -> Iterator[str]:
    kinds = [key for key in task if key.endswith("_task")]
    if len(kinds) != 1:
        yield f"it must do one thing, but it has {kinds}"
    compute = [key for key in _COMPUTE if task.get(key)]
    if _NEED_COMPUTE & {*kinds} and len(compute) != 1:
        yield f"it needs one of {', '.join(_COMPUTE)}, but it has {' and '.join(compute) or 'no compute'}"
    for key, declared in (("environment_key", "environments"), ("job_cluster_key", "job_clusters")):
        known = sorted(each[key] for each in job.get(declared) or [])
        if key in task and task[key] not in known:
            yield f"{key} {task[key]!r} is none of {known}"
    installed = [library.get("whl") for library in task.get("libraries") or []]
    if "python_wheel_task" in task and {*compute} - {"environment_key"} and not {*wheels} & {*installed}:
        yield f"on a cluster it must install the wheel by its libraries, as one of {[*wheels]}"


def _dynamic_problems(task: Task, *, before: set[str], parameters: Mapping[str, str]) -> Iterator[str]:
    """References that the platform would find empty when the task starts."""
    for where, text in texts(task):
        for path in _DYNAMIC.findall(text):
            match path.split("."):
                case ["job", "parameters", name] if name not in parameters:
                    yield f"{where}: the job declares no parameter {name!r}; it declares {sorted(parameters)}"
                case ["tasks", name, *_] if name not in before:
                    yield f"{where}: {{{{{path}}}}} is not of a task that has run before; those are {sorted(before)}"


def _parameters(job: Mapping[str, Any]) -> dict[str, str]:
    """name -> default of the job's parameters."""
    return {parameter["name"]: parameter["default"] for parameter in job.get("parameters") or []}


def _before(key: str, needs: Mapping[str, Sequence[str]]) -> set[str]:
    """The tasks that have ended when the task `key` starts."""
    found: set[str] = set()
    waiting = [*needs.get(key, [])]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += needs.get(name, [])
    return found


def _wheel_problems(
    task: Task, wheel: Mapping[str, Any], job: Mapping[str, Any], commands: Sequence[str] | None
) -> Iterator[str]:
    if wheel["package_name"] != DISTRIBUTION:
        yield f"package_name {wheel['package_name']!r} is not the wheel's distribution {DISTRIBUTION!r}"
    scripts = console_scripts()
    if wheel["entry_point"] not in scripts:
        yield f"entry_point {wheel['entry_point']!r} is no console script of {DISTRIBUTION}; it has {scripts}"
    command, *settings = wheel.get("parameters") or [""]
    if command.replace("-", "_") != task["task_key"]:
        yield f"a task is named as its command, but the command is {command!r}"
    if commands is not None and command not in commands:
        yield f"{command!r} is none of the stages {list(commands)}"
    for setting in settings:
        yield from _setting_problems(setting, _parameters(job))


def _setting_problems(setting: str, parameters: Mapping[str, str]) -> Iterator[str]:
    """What the command would say of one of its words, where job parameters have their defaults."""
    if fnmatch(setting, "--config=?*"):
        return
    if not fnmatch(setting, "--set=*=*"):
        yield f"{setting!r} is not of the form --set=key=value or --config=file"
        return
    given = _DYNAMIC.sub(lambda match: parameters.get(match[1].removeprefix("job.parameters."), match[0]), setting)
    if _DYNAMIC.search(given):  # known when the task starts
        return
    if error := _refusal(given.removeprefix("--set=")):
        yield f"{setting}: {error}"


@cache
def _refusal(override: str) -> str:
    """Why a setting is refused; "" if it is not. Tasks have most of them in common."""
    try:
        store = load_settings(overrides=[override]).index.store
    except ConfigurationError as error:
        return str(error)
    return "" if store in STORES else f"there is no store {store!r}; there are {sorted(STORES)}"
