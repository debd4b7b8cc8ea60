"""`lakeloop run --watch` as a process: a first load by Spark, an edit without it, and a clean end by Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from pipelines.conductor.run import new_context
from pipelines.operations.verify import verify
from pipelines.settings.load import load_settings
from pipelines.vector_index.state import served
from tests.support.killer import LAKELOOP

pytestmark = pytest.mark.long


def test_a_watch_brings_in_an_edit_and_ends_cleanly(tmp_path: Path):
    (tmp_path / "lakeloop.yml").write_text('embedding: {model: "tests.support.embedders:Free"}\n', encoding="utf-8")
    (tmp_path / "landing").mkdir()
    for number in range(3):
        (tmp_path / "landing" / f"{number}.md").write_text(f"# Pump {number}\n\nIt has a valve.\n", encoding="utf-8")
    settings = load_settings(tmp_path / "lakeloop.yml")

    def version() -> int:
        state = served(new_context(settings).lake, "chunks")
        return -1 if state is None or state.version is None else state.version

    def until_after(before: int) -> int:
        deadline = time.monotonic() + 240
        while version() <= before:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        return version()

    command = [*LAKELOOP, "run", "--watch", "--until", "sync-index"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        first = until_after(-1)
        (tmp_path / "landing" / "1.md").write_text("# Pump 1\n\nIt has two valves.\n", encoding="utf-8")
        until_after(first)
        time.sleep(1)  # the line is said after the commit
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    *lines, last = out.splitlines()
    assert len(lines) == 2
    assert "1.md" in lines[1]
    assert "1 computed" in lines[1]
    assert last == "stopped after 2 runs"
    assert "Traceback" not in err
    assert verify(new_context(settings)).is_equal
