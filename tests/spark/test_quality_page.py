"""docs/quality.md, block by block: Python with `spark` and `lake`, commands with the exit codes that it states."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from pipelines.cli.main import main
from pipelines.lakehouse.tables import Lakehouse
from pipelines.settings.sections import Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "quality.md"


@pytest.mark.long
def test_the_walk_through_rules_quarantine_and_replay_is_true(
    workspace: Settings, lake: Lakehouse, spark, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("great_expectations")
    (workspace.root / "lakeloop.yml").write_text(json.dumps({"landing": "landing"}))
    monkeypatch.chdir(workspace.root)
    names = {"spark": spark, "lake": lake}
    blocks = re.findall(r"```(python|bash)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert {language for language, _ in blocks} == {"python", "bash"}
    for language, block in blocks:
        if language == "python":
            exec(compile(block, str(PAGE), "exec"), names)
            continue
        for line in block.splitlines():
            command, _, comment = line.partition("#") if "printf" not in line else (line, "", "")
            if command.startswith("lakeloop "):
                expected = re.search(r"exit (\d)", comment)
                assert _ended(shlex.split(command)[1:]) == (int(expected[1]) if expected else 0), line
            elif line:
                subprocess.run(["bash", "-c", line], check=True)


def _ended(words: list[str]) -> int:
    """The command in this process, so that it takes the session that is there."""
    try:
        main(words)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0
