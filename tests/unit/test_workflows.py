"""The workflows of continuous integration: what they may do, and that what they name is there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
BUNDLE = yaml.safe_load((ROOT / "databricks.yml").read_text(encoding="utf-8"))
# What GitHub's machines have, or a step before has installed.
PROGRAMS = {"databricks", "gh", "git"}
# Rights that change nothing; id-token gives an identity, and so belongs to an environment, which has reviewers.
READING = {"read", "none"}
_PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")


def problems(text: str) -> list[str]:
    """A sentence for everything wrong with one workflow."""
    workflow = yaml.safe_load(text)
    found = [f"{line.strip()!r} does not say the version" for line in text.splitlines() if _has_no_version(line)]
    if workflow.get("permissions") != {}:
        found.append("rights are given job by job: `permissions: {}` must stand at the top")
    if True not in workflow or "pull_request_target" in workflow[True]:  # YAML reads the key `on` as true
        found.append("the workflow must say when it runs; pull_request_target gives its rights to anyone")
    for name, job in workflow["jobs"].items():
        found += [f"job {name}: {problem}" for problem in _of_job(job, workflow["jobs"])]
    return found


def _has_no_version(line: str) -> bool:
    return "uses:" in line and "@" in line and not re.search(r" # v\d+\.\d+\.\d+$", line)


def _of_job(job: dict[str, Any], jobs: dict[str, Any]) -> Iterator[str]:
    needs = job.get("needs", [])
    yield from (
        f"needs {one!r}, which is no job" for one in ([needs] if isinstance(needs, str) else needs) if one not in jobs
    )
    if "permissions" not in job:
        yield "it does not say its rights"
    for right, level in job.get("permissions", {}).items():
        if level not in READING and not (right == "id-token" and "environment" in job):
            yield f"{right}: {level} is given without an environment"
    if "uses" in job:
        if not (ROOT / job["uses"]).is_file():
            yield f"{job['uses']} is not there"
        return
    if "timeout-minutes" not in job:
        yield "it has no time limit"
    for step in job["steps"]:
        yield from _of_step(step)


def _of_step(step: dict[str, Any]) -> Iterator[str]:
    if "uses" in step and not _PINNED.fullmatch(step["uses"]):
        yield f"{step['uses']} is not pinned to a commit"
    if (
        step.get("uses", "").startswith("actions/checkout@")
        and step.get("with", {}).get("persist-credentials") is not False
    ):
        yield "the checkout leaves its token behind"
    if "secrets." in str(step):
        yield "it reads a secret; a token of OpenID Connect or github.token does not live long"
    if "${{" in step.get("run", ""):
        yield f"{step['run']!r} is made of an expression, which can hold a command: give it by env"
    for line in step.get("run", "").splitlines():
        yield from _of_command(shlex.split(line))


def _of_command(words: list[str]) -> Iterator[str]:
    command, *rest = words
    if command == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        yield from (f"make {word}: no such target" for word in rest[:1] if word not in targets)
    elif "/" in command:
        if not os.access(ROOT / command, os.X_OK):
            yield f"{command} is no program of the project"
        elif command in (".ci/deploy", ".ci/integration") and rest not in [[target] for target in BUNDLE["targets"]]:
            yield f"{' '.join(words)} names no target of the bundle"
    elif command not in PROGRAMS:
        yield f"{command} is not known to be there"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_no_problem(path: Path) -> None:
    assert problems(path.read_text(encoding="utf-8")) == []


def test_one_action_has_one_version_everywhere() -> None:
    used: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for action, version in re.findall(r"uses: ([\w./-]+)@(.*)", path.read_text(encoding="utf-8")):
            used.setdefault(action, set()).add(version)
    assert {action: versions for action, versions in used.items() if len(versions) > 1} == {}
    assert set(used) == {"actions/checkout", "actions/cache", "databricks/setup-cli"}


def test_the_installed_cli_is_one_that_the_bundle_takes() -> None:
    least = BUNDLE["bundle"]["databricks_cli_version"].removeprefix(">= ")
    for path in WORKFLOWS:
        for installed in re.findall(r"version: (\S+)", path.read_text(encoding="utf-8")):
            assert _numbers(installed) >= _numbers(least), path.name


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


@pytest.mark.parametrize("script", sorted((ROOT / ".ci").iterdir()), ids=lambda path: path.name)
def test_a_script_can_be_run_and_stops_at_what_fails(script: Path) -> None:
    assert os.access(script, os.X_OK)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    # .ci/run goes on after a failure, and ends with it.
    assert ("set -uo pipefail" if script.name == "run" else "set -euo pipefail") in lines


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the scripts, and with bin/, which comes first on their PATH."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    (tmp_path / "bin").mkdir()
    return tmp_path


def run(clone: Path, script: str, argument: str, **programs: str) -> tuple[int, list[str]]:
    """The exit code of a script, and the calls of its programs, each of which is given as a script of its own."""
    for name, text in programs.items():
        (clone / "bin" / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {clone}/calls\n{text}\n')
        (clone / "bin" / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{clone / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([clone / ".ci" / script, argument], env=environment, capture_output=True, text=True)
    return done.returncode, (clone / "calls").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("invalid", "made"), [("", ["validate --strict", "deploy", "summary"]), ("exit 1", ["validate --strict"])]
)
def test_a_deployment_sets_up_and_is_validated_first(clone: Path, invalid: str, made: list[str]) -> None:
    databricks = f"""case "$*" in *validate*) {invalid or ":"} ;; esac"""
    ended, calls = run(clone, "deploy", "prod", setup=":", databricks=databricks)
    assert (ended != 0) == bool(invalid)
    assert calls == ["setup ", *(f"databricks bundle {command} --target prod" for command in made)]


_SUMMARY = """{"resources": {"volumes": {
    "landing": {"id": "my-own.a_bronze.landing"}, "reports": {"id": "my-own.a_monitoring.reports"}}}}"""


@pytest.mark.parametrize(("page", "code"), [("<!doctype html>", 0), ("nothing was found", 1)])
def test_the_integration_run_delivers_runs_twice_and_wants_the_report(clone: Path, page: str, code: int) -> None:
    databricks = f"""case "$*" in
    "bundle summary"*) echo '{_SUMMARY}' ;;
    *report.html*) echo "{page}" > build/report.html ;;
    esac"""
    ended, calls = run(clone, "integration", "staging", databricks=databricks)
    assert ended == code
    assert [call for call in calls if "summary" not in call] == [
        "databricks fs cp --recursive --overwrite docs dbfs:/Volumes/my-own/a_bronze/landing/integration",
        "databricks bundle run --target staging documents_loop",
        "databricks bundle run --target staging documents_loop",
        "databricks fs cp --overwrite dbfs:/Volumes/my-own/a_monitoring/reports/report.html build/report.html",
    ]


def test_a_run_of_the_job_that_fails_ends_the_integration(clone: Path) -> None:
    databricks = f"""case "$*" in "bundle summary"*) echo '{_SUMMARY}' ;; "bundle run"*) exit 1 ;; esac"""
    ended, calls = run(clone, "integration", "staging", databricks=databricks)
    assert ended != 0
    assert len([call for call in calls if "bundle run" in call]) == 1


@pytest.mark.parametrize(("answer", "code"), [("1", 0), ("0", 1)])
def test_only_what_has_run_in_staging_goes_on(clone: Path, answer: str, code: int) -> None:
    ended, (call,) = run(clone, "ran-in-staging", "abc123", gh=f"echo {answer}")
    assert ended == code
    assert "--commit abc123 --status success" in call


_CHECKOUT = "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1"
_GOOD = f"""
on: [push]
permissions: {{}}
jobs:
  one:
    runs-on: ubuntu-24.04
    timeout-minutes: 5
    permissions: {{contents: read}}
    steps:
      - uses: {_CHECKOUT}
        with: {{persist-credentials: false}}
      - run: .ci/run
"""


@pytest.mark.parametrize(
    ("good", "planted", "problem"),
    [
        (_CHECKOUT, "actions/checkout@v7 # v7.0.1", "is not pinned to a commit"),
        (" # v7.0.1", "", "does not say the version"),
        ("permissions: {}", "permissions: write-all", "must stand at the top"),
        ("permissions: {contents: read}", "needs: none", "it does not say its rights"),
        ("permissions: {contents: read}", "needs: two\n    permissions: {}", "needs 'two', which is no job"),
        ("{contents: read}", "{contents: write}", "contents: write is given"),
        ("{contents: read}", "{id-token: write}", "id-token: write is given without an environment"),
        ("timeout-minutes: 5", "continue-on-error: false", "no time limit"),
        ("{persist-credentials: false}", "{fetch-depth: 1}", "leaves its token behind"),
        ("[push]", "[pull_request_target]", "gives its rights to anyone"),
        (".ci/run", "echo ${{ github.event.pull_request.title }}", "is made of an expression"),
        (".ci/run", ".ci/walk", ".ci/walk is no program"),
        (".ci/run", ".ci/deploy production", "names no target"),
        (".ci/run", "make dinner", "make dinner: no such target"),
        (".ci/run", "kubectl apply", "kubectl is not known"),
        ("run: .ci/run", "run: .ci/run\n        env: {TOKEN: '${{ secrets.TOKEN }}'}", "reads a secret"),
    ],
)
def test_a_planted_mistake_is_reported(good: str, planted: str, problem: str) -> None:
    assert problems(_GOOD) == []
    assert any(problem in found for found in problems(_GOOD.replace(good, planted, 1)))
