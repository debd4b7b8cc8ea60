"""A Spark Connect server killed in the middle of a stage: one clear line, and the next run, with another, goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES
from pipelines.lakehouse.remote import RETRIES
from tests.support.chunked import settings_for
from tests.support.connect import ROOT, ConnectServer, connect_server
from tests.support.history import write
from tests.support.state import assert_same, state

SETTINGS = "embedding: {model: 'tests.support.embedders:Free'}\n"
# The command with a shorter patience.
LAKELOOP = f"""
import sys
from pipelines.cli.main import main
from pipelines.lakehouse import remote
assert remote.RETRIES == {RETRIES}
remote.RETRIES = 3
main()
"""


def _documents() -> dict[str, str]:
    """So many and so heavy that the server parses them."""
    steel = "It is made of steel. " * 40
    parts = {n: [f"Part {part} of pump {n} is described here. {steel}" for part in range(80)] for n in range(40)}
    return {f"{n}.md": f"# Pump {n}\n\n" + "\n\n".join(described) for n, described in parts.items()}


def _start(server: ConnectServer, root: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SPARK_REMOTE": server.remote}
    command = [sys.executable, "-c", LAKELOOP, *words]
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _works(server: ConnectServer) -> bool:
    """Whether the server has a Python worker."""
    for child in psutil.Process(server.process).children():
        with suppress(psutil.Error):  # it may end while it is looked at
            if "pyspark.daemon" in child.cmdline():
                return True
    return False


@pytest.mark.long
def test_a_server_killed_in_mid_stage_is_one_clear_line_and_the_next_run_goes_on(tmp_path: Path, tmp_path_factory):
    settings = settings_for(tmp_path)
    (tmp_path / "lakeloop.yml").write_text(SETTINGS, encoding="utf-8")
    write(settings.landing_path, _documents())
    with connect_server(tmp_path_factory.mktemp("first")) as server:
        process = _start(server, tmp_path, "run", "--json")
        while process.poll() is None and not _works(server):
            time.sleep(0.02)
        assert process.poll() is None, "it ended before the server was asked"
        server.kill()
        _, errors = process.communicate(timeout=300)
        lines = [line for line in errors.splitlines() if " INFO " not in line and " WARNING " not in line]
        assert process.returncode == 1, errors
        assert lines == [
            f"SparkLostError: The Spark Connect server at {server.remote} does not answer. What was committed before "
            "stays. Start the server, or name another (SPARK_REMOTE or spark.master), and run again: it goes on from "
            "there."
        ]
    assert [row["stage"] for row in new_context(settings).lake.read_arrow("ops.stage_runs").to_pylist()] == [
        "ingest-documents"
    ]
    with connect_server(tmp_path_factory.mktemp("second")) as server:
        for words in (["run", "--json"], ["verify", "--json"]):
            process = _start(server, tmp_path, *words)
            output, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
        assert json.loads(output)["verified"] is True
    scratch = settings_for(tmp_path_factory.mktemp("scratch"))
    write(scratch.landing_path, _documents())
    run_stages(new_context(scratch), stages=DOCUMENT_STAGES)
    assert_same(state(settings), state(scratch))
