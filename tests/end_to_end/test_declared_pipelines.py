"""`lakeloop pipelines run`, as processes with a Spark of their own: what it makes against what the stages make."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from deltalake import DeltaTable

import lakeloop
from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import STAGES, stage_named
from pipelines.settings.load import load_settings
from pipelines.settings.sections import Settings
from tests.support.killer import kill_when, run
from tests.support.recorded import ORDERS, put

UNTIL_CHUNKS = STAGES[: STAGES.index(stage_named("chunk-documents")) + 1]
HEADER = "order_id,updated_at,amount,note,op\n"
# By nature another value: when and in which run a row was made, and how often it was tried.
OF_THE_RUN = {"_ingested_at", "_changed_at", "_run_id", "_source_version", "modified_at", "attempts", "replayed_at"}
# The stages alone look for near-duplicates.
OF_CLUSTERS = {"cluster_id", "is_representative", "_text_hash", "_near_keys"}
DATASETS = [name + end for name in ("documents", "chunks", "records_orders") for end in ("", "_quarantine")]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    for folder in ("landing", "orders"):
        (tmp_path / folder).mkdir()
    said: dict[str, Any] = {
        "schema_prefix": "my_",
        "records": {"orders": ORDERS},
        "refine": {"languages": ["en", "und"], "other_languages": "quarantine"},
        "ingest": {"max_delete_ratio": 1},
        "chunks": {"max_tokens": 32},
    }
    (tmp_path / "lakeloop.yml").write_text(yaml.safe_dump(said), encoding="utf-8")
    return load_settings(tmp_path / "lakeloop.yml")


def deliver_first(settings: Settings) -> None:
    for name, content in {
        "a.md": ("# A\n\n" + "Pumps are checked after each run of the plant. " * 20).encode(),
        "b.txt": b"Plain text.",
        "empty.md": b"",
        "bin.txt": b"\0\1" * 99,
        "de.md": "# Öl\n\nDie Pumpe wird nach jedem Lauf geprüft, und das Öl wird gewechselt.".encode(),
    }.items():
        (settings.landing_path / name).write_bytes(content)
    put(settings, "1.csv", HEADER + "a,2024-01-01,1,,U\nb,2024-01-01,2,,U\nc,2024-01-01,many,,U\nd,2024-01-01,4,,U\n")


def deliver_second(settings: Settings) -> None:
    """A change, a repair, a deletion and a new refusal, of documents and of records."""
    landing = settings.landing_path
    (landing / "a.md").write_text("# A\n\nPumps are checked. " + "Valves are opened one after another. " * 20)
    (landing / "empty.md").write_text("# Mended\n\nNow there is text.")
    (landing / "b.txt").unlink()
    (landing / "c.md").write_bytes(b"# C\n\ncaf\xe9")
    put(settings, "2.csv", HEADER + "a,2024-02-01,9,,U\nb,2024-02-01,2,,D\nc,2024-01-01,3,,U\ne,2024-01-01,-,,U\n")


def assert_equal_to_the_stages(settings: Settings) -> None:
    with lakeloop.open(settings.root / "lakeloop.yml") as workspace:
        tables = workspace.tables
        for name in DATASETS:
            made, by_stage = tables[f"declared.{name}"], tables[f"silver.{name}"]
            lacking = set(by_stage.schema.names) - set(made.schema.names)
            assert lacking <= OF_THE_RUN | OF_CLUSTERS, name
            columns = sorted({*made.schema.names} - OF_THE_RUN)
            kept = [row for row in by_stage.to_arrow().to_pylist() if row.get("replayed_at") is None]
            assert said(made.to_arrow().to_pylist(), columns) == said(kept, columns), name


def said(rows: list[dict[str, Any]], columns: list[str]) -> list[str]:
    return sorted(repr([row[name] for name in columns]) for row in rows)


def rows_of(settings: Settings, dataset: str) -> int:
    return int(DeltaTable(str(settings.path("lakehouse/my_declared") / dataset)).count())


def updated(settings: Settings, *words: str, code: int = 6) -> dict[str, Any]:
    done = run(["pipelines", "run", "--json", *words], cwd=settings.root, timeout=600)
    assert done.returncode == code, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.long
def test_after_each_of_two_deliveries_the_datasets_are_what_the_stages_make(settings: Settings, spark):
    deliver_first(settings)
    run_stages(new_context(settings), stages=UNTIL_CHUNKS)
    datasets = updated(settings)["datasets"]
    assert_equal_to_the_stages(settings)
    assert datasets["documents_parsed"] == {"rows": 5, "added": 5}
    assert datasets["chunks"]["rows"] == rows_of(settings, "chunks") > 5

    deliver_second(settings)
    run_stages(new_context(settings), stages=UNTIL_CHUNKS)
    datasets = updated(settings)["datasets"]
    assert_equal_to_the_stages(settings)
    assert datasets["documents_parsed"] == {"rows": 8, "added": 3}, "each arrival is parsed once"
    assert datasets["records_orders"]["rows"] == rows_of(settings, "records_orders") == 3

    assert updated(settings, "--detailed-exitcode", code=3)["changed"] is False


@pytest.mark.longest
def test_killed_in_the_middle_and_run_again_it_is_what_the_stages_make(settings: Settings, spark):
    deliver_first(settings)
    run_stages(new_context(settings), stages=UNTIL_CHUNKS)
    log = settings.path("lakehouse/my_declared/documents_parsed/_delta_log")
    assert kill_when(["pipelines", "run"], cwd=settings.root, moment=(log / f"{1:020}.json").exists)
    with settings.path("checkpoints/declared/.server.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the server has ended too, by itself
    updated(settings)
    assert_equal_to_the_stages(settings)
    assert rows_of(settings, "documents_parsed") == 5


@pytest.mark.longest
def test_a_lost_table_other_settings_and_a_full_refresh_compute_datasets_anew(settings: Settings, spark):
    deliver_first(settings)
    run_stages(new_context(settings), stages=UNTIL_CHUNKS)
    updated(settings)
    shutil.rmtree(settings.path("lakehouse/my_declared/documents_valid"))
    updated(settings)
    assert_equal_to_the_stages(settings)
    file = settings.root / "lakeloop.yml"
    file.write_text(file.read_text().replace("max_tokens: 32", "max_tokens: 64").replace("- und", "- de\n  - und"))
    run_stages(new_context(load_settings(file)), stages=UNTIL_CHUNKS)
    updated(settings)
    assert_equal_to_the_stages(settings)
    updated(settings, "--full-refresh-all")
    assert_equal_to_the_stages(settings)
    assert rows_of(settings, "documents_parsed") == 5
