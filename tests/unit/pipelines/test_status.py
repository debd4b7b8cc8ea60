"""`status` of a workspace with a damaged table: the rest is told, the table and the command that mends it too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.cli import main as cli
from pipelines.conductor.run import new_context
from pipelines.conductor.stages import STAGES
from pipelines.flow.states import STAGE_STATE
from pipelines.lakehouse.schemas import TABLES
from pipelines.settings.sections import Settings


@pytest.mark.parametrize("harm", ["a commit is cut", "a file is missing", "a file has other bytes"])
def test_a_damaged_table_hides_nothing_of_the_others_and_is_named_with_what_mends_it(harm: str, tmp_path: Path, capsys):
    settings = Settings(root=tmp_path)
    (tmp_path / "lakeloop.yml").write_text("{}\n")
    (tmp_path / "landing").mkdir()
    context = new_context(settings)
    rows = {
        STAGE_STATE: {"stage": "refine-documents", "subject": "", "started_at": context.now(), "run_id": "1"},
        "ops.dead_letters": {"letter_id": "1", "stage": "embed-chunks", "failed_at": context.now()},
        "silver.chunks_quarantine": {"chunk_id": "1", "failed_rules": ["has_text"], "_run_id": "1"},
        "bronze.documents": {"path": "a.md", "document_id": "a", "source": "files", "_ingested_at": context.now()},
    }
    tables = [table for table in TABLES if table.startswith("ops.")] + [t for t in rows if not t.startswith("ops.")]
    for table in tables:
        context.lake.append_arrow(table, [rows.get(table, {next(iter(TABLES[table].columns)): "1"})])
    # Whatever is damaged by its name or its size is found in one way; bytes are only looked at where they are read.
    few = {"a commit is cut": tables, "a file is missing": tables[:2], "a file has other bytes": [STAGE_STATE]}
    for table in few[harm]:
        folder = context.lake.folder(table)
        file = next(folder.glob("*.parquet")) if "file" in harm else max(folder.glob("_delta_log/*.json"))
        whole = file.read_bytes()
        if harm == "a file is missing":
            file.unlink()
        elif harm == "a commit is cut":
            file.write_bytes(whole[: len(whole) // 2])
        else:
            file.write_bytes(whole[:4] + bytes(len(whole) - 8) + whole[-4:])
        with pytest.raises(SystemExit) as end:
            cli.main(["status", "--json", "--config", str(tmp_path / "lakeloop.yml")])
        facts = json.loads(capsys.readouterr().out)
        file.write_bytes(whole)
        assert (end.value.code, facts["damaged"]) == (1, [table])
        (warning,) = [text for text in facts["warnings"] if table in text]
        assert warning.startswith(f"{table} is damaged: ")
        assert f"lakeloop rebuild {table}" in warning
        assert [stage["stage"] for stage in facts["stages"]] == [stage.command for stage in STAGES]
        seen = {**facts["quarantine"], "ops.dead_letters": facts["dead_letters"]}
        for other in {"silver.chunks_quarantine", "ops.dead_letters"} - {table}:
            assert seen[other] == 1, f"{other} is told though {table} is damaged"
