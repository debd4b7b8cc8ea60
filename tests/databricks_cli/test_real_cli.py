"""The real CLI validates, plans, deploys and destroys each target, against the test server that it brings along."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.machine.cache import cache_dir
from tests.databricks_cli.build import programs

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not programs().exists(), reason="Databricks' CLI is not in the cache: `make test-bundle` builds it"
    ),
]

ROOT = Path(__file__).parents[2]
PRINCIPAL = str(uuid.UUID(int=1))
# What a token begins with tells the server whose it is.
PERSON, SERVICE_PRINCIPAL = "dbapi0", "dbapi1"


@dataclass
class Workspace:
    """A copy of the bundle, and the double of a workspace that it is deployed to."""

    bundle: Path
    host: str
    home: Path

    def run(self, *words: str, target: str) -> subprocess.CompletedProcess[str]:
        own = {key: value for key, value in os.environ.items() if not key.startswith("DATABRICKS_")}
        token = PERSON if target == "dev" else SERVICE_PRINCIPAL
        return subprocess.run(
            [programs() / "databricks", *words, "--target", target],
            cwd=self.bundle,
            env={
                **own,
                "PATH": os.pathsep.join([str(Path(sys.executable).parent), own["PATH"]]),
                "HOME": str(self.home),
                "LAKELOOP_CACHE": str(cache_dir()),
                "NO_PROXY": "127.0.0.1",
                "DATABRICKS_HOST": self.host,
                "DATABRICKS_TOKEN": token + uuid.UUID(int=2).hex,
                "BUNDLE_VAR_service_principal_name": PRINCIPAL,
            },
            capture_output=True,
            text=True,
            timeout=600,
        )

    def done(self, *words: str, target: str) -> Any:
        """What a command that succeeds says as JSON, or else as text."""
        done = self.run(*words, target=target)
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-4000:])
        return json.loads(done.stdout) if "json" in words else done.stdout + done.stderr


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    made = ("build", "dist", "*.egg-info", "__pycache__", "spark-warehouse", "mlruns")
    ignored = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", *made)
    bundle = shutil.copytree(ROOT, tmp_path / "bundle", ignore=ignored)
    (tmp_path / "home").mkdir()
    with subprocess.Popen(
        [programs() / "workspace"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield Workspace(bundle, server.stdout.readline().strip(), tmp_path / "home")
        server.stdin.close()


@pytest.mark.parametrize("target", ["dev", "staging", "prod"])
def test_a_target_is_validated_planned_deployed_and_destroyed(workspace: Workspace, target: str) -> None:
    workspace.done("bundle", "validate", "--strict", target=target)
    resources = workspace.done("bundle", "validate", "--output", "json", target=target)["resources"]
    names = {f"resources.{kind}.{key}" for kind, things in resources.items() for key in things}

    plan = workspace.done("bundle", "plan", "--output", "json", target=target)["plan"]
    assert {action["action"] for action in plan.values()} == {"create"}
    assert names <= plan.keys()
    workspace.done("bundle", "deploy", target=target)
    summary = workspace.done("bundle", "summary", "--output", "json", target=target)["resources"]
    job = workspace.done("jobs", "get", summary["jobs"]["documents_loop"]["id"], "--output", "json", target=target)
    assert "${" not in json.dumps(job)
    assert len(job["settings"]["tasks"]) == len(resources["jobs"]["documents_loop"]["tasks"])

    if target != "dev":
        refused = workspace.run("bundle", "destroy", "--auto-approve", target=target)
        assert refused.returncode != 0
        assert "prevent_destroy" in refused.stderr
        take_out_prevent_destroy(workspace.bundle / "databricks.yml", target)
    workspace.done("bundle", "destroy", "--auto-approve", target=target)
    assert not workspace.done("jobs", "list", "--output", "json", target=target)


def take_out_prevent_destroy(file: Path, target: str) -> None:
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    for things in content["targets"][target]["resources"].values():
        for fields in things.values():
            fields.pop("lifecycle")
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
