"""The commands about an index, as they are typed: one JSON object on stdout, and the exit codes of design and docs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli.main import main
from pipelines.conductor.run import new_context
from pipelines.settings.load import load_settings
from pipelines.vector_index.state import served


@pytest.fixture
def lakeloop(tmp_path: Path, spark, monkeypatch, capsys):
    """Runs a command in a workspace with six documents; returns its exit code and what it said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "landing").mkdir()
    for number in range(6):
        (tmp_path / "landing" / f"{number}.md").write_text(f"# Document {number}\n\nAbout subject {number}.\n")
    (tmp_path / "lakeloop.yml").write_text('embedding: {model: "tests.support.embedders:Free"}\n')

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = 0
        try:
            main([*arguments, "--json"])
        except SystemExit as ended:
            code = int(ended.code or 0)
        out = capsys.readouterr().out.strip().splitlines()
        assert len(out) <= 1, "one object, and nothing else on stdout"
        return code, json.loads(out[0]) if out else {}

    return run


@pytest.mark.long
def test_the_life_of_an_index_on_the_command_line(lakeloop, tmp_path: Path):
    import lance

    code, plan = lakeloop("plan")
    assert (code, len(plan["documents"]), plan["embed"]) == (0, 6, 6)
    code, ran = lakeloop("run", "--until", "sync-index")
    assert (code, [s["stage"] for s in ran["stages"]][-1]) == (0, "sync-index")
    assert lakeloop("plan", "--detailed-exitcode")[0] == 3
    assert lakeloop("sync-index", "--detailed-exitcode")[0] == 3
    assert lakeloop("verify")[0] == 0
    code, found = lakeloop("audit")
    assert (code, found["indexes"][0]["equal"]) == (0, True)
    code, status = lakeloop("status")
    assert (status["index"]["rows"], status["index"]["lag"]["versions"], status["dead_letters"]) == (6, 0, 0)

    state = served(new_context(load_settings()).lake, "chunks")
    dataset = lance.dataset(f"{state.uri}/{state.index_name}.lance")
    dataset.delete("path = '3.md'")
    dataset.tags.update("served", dataset.latest_version)
    code, found = lakeloop("audit")
    assert (code, found["indexes"][0]["counts"]) == (4, {"missing": 1})
    assert lakeloop("verify")[0] == 4
    code, mended = lakeloop("repair")
    assert (code, mended["indexes"][0]["upserts"], mended["indexes"][0]["deletes"]) == (0, 1, 0)
    assert lakeloop("verify")[0] == 0
    assert lakeloop("replay") == (0, {"tried": 0, "still_open": 0})

    assert lakeloop("swap")[0] == 5, "it is served already"
    assert lakeloop("swap", "--back")[0] == 5, "nothing was served before"
    other = ("--set", "embedding.model=tests.support.embedders:Other")
    assert lakeloop("run", "--until", "sync-index", *other)[0] == 0
    code, swapped = lakeloop("swap", *other)
    assert (code, all(gate["is_passed"] for gate in swapped["gates"])) == (0, True)
    code, found = lakeloop("search", "About subject 2.", "-k", "1", "--where", "path != '1.md'", *other)
    assert (code, len(found["hits"])) == (0, 1)
    assert lakeloop("swap", "--back", *other)[0] == 0
    code, finished = lakeloop("swap", "--finish")
    assert (code, len(finished["dropped"])) == (0, 1)

    assert lakeloop("forget", "2.md")[0] == 7, "its file is still there"
    (tmp_path / "landing" / "2.md").unlink()
    code, receipt = lakeloop("forget", "2.md")
    assert (code, receipt["removed"]["bronze.documents"]) == (0, 2)
    assert lakeloop("verify")[0] == 0

    for path in (tmp_path / "landing").iterdir():
        path.unlink()
    assert lakeloop("plan")[0] == 7
    assert lakeloop("run", "--until", "sync-index")[0] == 7
    assert lakeloop("run", "--until", "sync-indx")[0] == 5
    assert lakeloop("search", "anything", "--where", "sourc = a")[0] == 5
