"""Everything a folder can hold that it should not: a quarantined row or one clear line each, and the rest goes on."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pytest

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES
from pipelines.documents import delivery
from pipelines.flow.lock import only_writer
from pipelines.operations.verify import verify
from pipelines.settings.sections import IngestSettings, Settings
from tests.support import files
from tests.support.killer import run
from tests.support.state import assert_same, state
from transformations.errors import EXIT_NOTHING_TO_DO, EXIT_SET_ASIDE, RefusedError

ODD_NAMES = [
    "with space.md",
    'it\'s "quoted".md',
    "new\nline.md",
    "日本語/документ.md",
    "semi;colon & $(dollar).md",
    "100%.md",
    "a:b.md",
]


def _refused(settings: Settings) -> dict[str, list[str]]:
    rows = new_context(settings).lake.read_arrow("silver.documents_quarantine").to_pylist()
    return {row["path"]: row["failed_rules"] for row in rows if row["replayed_at"] is None}


def test_an_empty_folder_is_nothing_to_do(workspace: Settings):
    outcome = run_stages(new_context(workspace))
    assert outcome.stages == ()
    assert outcome.exit_code(detailed=True) == EXIT_NOTHING_TO_DO


def test_bad_files_are_set_aside_the_rest_is_served_and_a_later_good_run_is_exact(
    workspace: Settings, spark, tmp_path_factory
):
    landing = workspace.landing_path
    for number, name in enumerate(ODD_NAMES):
        path = landing / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"# Odd name {number}\n\nA file may be called so.\n", encoding="utf-8")
    (landing / "empty.md").write_bytes(b"")
    (landing / "blank.rst").write_text(" \n\n\t\n", encoding="utf-8")
    (landing / "binary.txt").write_bytes(bytes(range(256)) * 40)
    (landing / "broken.md").write_bytes(b"# Broken\n\ncaf\xe9 au lait\n")
    with (landing / "huge.txt").open("wb") as huge:
        huge.truncate(200 * 1024 * 1024)
    (landing / "bomb.docx").write_bytes(files.archive({"word/document.xml": bytes(64 * 1024 * 1024)}))
    (landing / "locked.pdf").write_bytes(files.pdf(["secret"], encrypted=True))
    (landing / "quote.csv").write_bytes(b'a,b\n1,"open\n')
    (landing / "picture.pdf").write_bytes(files.PNG)
    (landing / "macros.docm").write_bytes(files.docx(**{"word/vbaProject.bin": b"macro"}))
    (landing / "loop").symlink_to(landing, target_is_directory=True)
    (landing / "outside.md").symlink_to("/etc/hostname")
    os.mkfifo(landing / "pipe.md")
    (landing / unicodedata.normalize("NFC", "café.md")).write_text("# Composed\n\nOne.\n", encoding="utf-8")
    (landing / unicodedata.normalize("NFD", "café.md")).write_text("# Decomposed\n\nTwo.\n", encoding="utf-8")
    twins = len([p for p in landing.iterdir() if unicodedata.normalize("NFC", p.name) == "café.md"])
    expected = {
        "empty.md": ["is_not_empty"],
        "blank.rst": ["is_not_empty"],
        "binary.txt": ["is_text"],
        "broken.md": ["is_valid_encoding"],
        "huge.txt": ["is_within_size_limit"],
        "bomb.docx": ["is_within_size_limit"],
        "locked.pdf": ["is_not_encrypted"],
        "quote.csv": ["is_parseable"],
        "picture.pdf": ["is_parseable"],
    }
    if twins == 2:  # some file systems hold one name for both forms
        expected[unicodedata.normalize("NFD", "café.md")] = ["has_unique_path"]
    try:
        Path(os.fsdecode(os.fsencode(landing) + b"/latin-\xe9.md")).write_text("# Latin\n\nName.\n", encoding="utf-8")
        expected["latin-\\xe9.md"] = ["has_valid_path"]
    except OSError:
        pass  # some file systems refuse such names by themselves

    outcome = run_stages(new_context(workspace), stages=DOCUMENT_STAGES)

    assert outcome.exit_code() == EXIT_SET_ASIDE
    assert _refused(workspace) == expected
    served = {row["path"] for row in state(workspace)["index"].values()}
    assert set(ODD_NAMES) <= served
    assert "outside.md" not in served
    assert verify(new_context(workspace)).is_equal
    assert run_stages(new_context(workspace), stages=DOCUMENT_STAGES).exit_code(detailed=True) == EXIT_NOTHING_TO_DO

    (landing / "empty.md").write_text("# No longer empty\n\nNow there is text.\n", encoding="utf-8")
    (landing / "broken.md").write_text("# Mended\n\ncafé au lait\n", encoding="utf-8")
    (landing / "huge.txt").unlink()
    outcome = run_stages(new_context(workspace), stages=DOCUMENT_STAGES)

    assert not {"empty.md", "broken.md", "huge.txt"} & _refused(workspace).keys()
    quarantine = new_context(workspace).lake.read_arrow("silver.documents_quarantine").to_pylist()
    assert {r["path"] for r in quarantine if r["replayed_at"]} == {"empty.md", "broken.md", "huge.txt"}
    scratch = Settings(root=tmp_path_factory.mktemp("scratch"), landing=str(landing))
    run_stages(new_context(scratch), stages=DOCUMENT_STAGES)
    assert_same(state(workspace), state(scratch))


def test_a_file_that_vanishes_between_listing_and_reading_is_left_for_the_next_run(workspace: Settings, monkeypatch):
    (workspace.landing_path / "stays.md").write_text("# Stays\n", encoding="utf-8")
    vanished = delivery.Found("gone.md", str(workspace.landing_path / "gone.md"))
    listing = delivery.list_files(workspace.landing_path, IngestSettings())
    monkeypatch.setattr(delivery, "list_files", lambda *_, **__: [vanished, *listing])
    (outcome,) = run_stages(new_context(workspace), stages=DOCUMENT_STAGES[:1]).stages
    assert outcome.counts == {"new": 1, "changed": 0, "gone": 0, "unchanged": 1, "set_aside": 0}


def test_a_landing_folder_that_lost_its_files_is_refused_and_nothing_is_deleted(workspace: Settings):
    for number in range(12):
        (workspace.landing_path / f"{number}.md").write_text(f"# {number}\n", encoding="utf-8")
    run_stages(new_context(workspace), stages=DOCUMENT_STAGES[:1])
    for path in workspace.landing_path.iterdir():
        path.unlink()
    with pytest.raises(RefusedError, match=r"12 of 12 documents are gone .* --force"):
        run_stages(new_context(workspace), stages=DOCUMENT_STAGES[:1])
    (forced,) = run_stages(new_context(workspace, force=True), stages=DOCUMENT_STAGES[:1]).stages
    assert forced.counts["gone"] == 12


def test_two_runs_at_once_one_is_refused(workspace: Settings):
    (workspace.root / "lakeloop.yml").touch()
    with only_writer(workspace):
        second = run(["run", "--json"], cwd=workspace.root)
    assert second.returncode == RefusedError.exit_code
    assert "another lakeloop run (process" in second.stderr
    assert run(["run"], cwd=workspace.root).returncode == 0


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write")
def test_a_workspace_that_cannot_be_written_is_one_clear_line(tmp_path: Path):
    failed = run(["run", "--set", f"landing={tmp_path}", "--set", "root=/proc"], cwd=tmp_path)
    assert failed.returncode == 5
    assert "cannot be written" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_garbage_settings_name_the_near_ones(tmp_path: Path):
    (tmp_path / "lakeloop.yml").write_text("indx: {name: docs}\n", encoding="utf-8")
    failed = run(["run"], cwd=tmp_path)
    assert failed.returncode == 5
    assert "unknown setting 'indx'. Did you mean 'index'?" in failed.stderr
    (tmp_path / "lakeloop.yml").write_text("a: [1", encoding="utf-8")
    assert run(["run"], cwd=tmp_path).returncode == 5


def test_a_missing_landing_folder_says_what_to_do(tmp_path: Path):
    failed = run(["run", "--from", "nowhere", "--json"], cwd=tmp_path)
    assert failed.returncode == 5
    assert "--from FOLDER" in failed.stderr


def test_json_is_one_object_on_stdout(workspace: Settings):
    (workspace.root / "lakeloop.yml").touch()
    done = run(["run", "--json", "--detailed-exitcode"], cwd=workspace.root)
    assert done.returncode == EXIT_NOTHING_TO_DO
    assert json.loads(done.stdout)["changed"] is False


def test_a_misspelt_command_names_the_near_one_and_a_clear_error_stands_once(workspace: Settings):
    (workspace.root / "lakeloop.yml").touch()
    misspelt = run(["serch", "x"], cwd=workspace.root)
    assert misspelt.returncode == 2
    assert "search" in misspelt.stderr
    assert "Traceback" not in misspelt.stderr
    early = run(["search", "x"], cwd=workspace.root)
    assert early.returncode == 5
    assert early.stderr.count("lakeloop run") == 1
