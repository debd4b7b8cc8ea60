"""The notebooks of notebooks/ run, on folders and on a catalog: plots, no error, and values that others compute too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import nbformat
import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable
from nbclient import NotebookClient
from sklearn.metrics import ndcg_score

import lakeloop
from pipelines.demo.sample.features import REPAIRS
from tests.support.chat_server import serving
from tests.support.connect import connect_server

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ("bronze", "silver", "gold", "inference", "monitoring", "ops")
PLOTS = {"explore_tables": 5, "retrieval_quality": 5, "training_set": 2}


@pytest.fixture(scope="module")
def quick_answers() -> Iterator[None]:
    """A language model's server, since it is not its answers that are looked at."""
    with serving() as (url, _), pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAKELOOP__LANGUAGE_MODEL__BASE_URL", url)
        yield


@pytest.fixture(scope="module")
def folder(spark, quick_answers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, made by this process and its session."""
    folder = tmp_path_factory.mktemp("sample")
    lakeloop.sample(folder).close()
    return folder


def _run(name: str, folder: Path, *, show: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run a notebook over the workspace of `folder`; returns the values of `show`, expressions of JSON, in its kernel.

    Each cell says something, and the notebook has its plots.
    """
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
    monkeypatch.setenv("LAKELOOP_WORKSPACE", str(folder))
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    own = len(notebook.cells)
    notebook.cells += [nbformat.v4.new_code_cell(f"print({text})") for text in show.values()]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    cells = [cell for cell in notebook.cells[:own] if cell.cell_type == "code"]
    silent = [cell.source for cell in cells if not [o for o in cell.outputs if o.get("name") != "stderr"]]
    assert silent == []
    kinds = [kind for cell in cells for output in cell.outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") == PLOTS[name]
    assert len(max((c.source for c in cells), key=len).splitlines()) < 15
    said = ["".join(o.text for o in cell.outputs if o.get("name") == "stdout") for cell in notebook.cells[own:]]
    return dict(zip(show, map(json.loads, said), strict=True))


def _explores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _run(
        "explore_tables",
        folder,
        show={
            "rows": "tables.set_index('table')['rows'].to_json()",
            "changes": "last.groupby('path')['_change_type'].agg(sorted).to_json()",
            "feed": "feed.groupby('_change_type').size().to_json()",
            "refused": "pd.DataFrame(workspace.quarantine())['rules'].explode().value_counts().to_json()",
            "steps": "__import__('json').dumps([step.place for step in workspace.trace(hit.chunk_id).steps])",
        },
        monkeypatch=monkeypatch,
    )
    files = [file for file in (folder / "landing").iterdir() if file.stat().st_size]
    assert found["rows"]["silver.documents"] == len(files) == 8
    assert found["changes"] == {
        "e-bikes.md": ["insert"], "prices.md": ["update_postimage", "update_preimage"], "rental.md": ["delete"]
    }  # fmt: skip
    assert found["feed"] == {"insert": 9, "delete": 1, "update_preimage": 1, "update_postimage": 1}
    assert found["refused"] == {"is_not_empty": 1, "has_type_done_at": 1}
    assert found["steps"][0] == "index"
    assert found["steps"][-1] == "file"


def _measures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _run(
        "retrieval_quality",
        folder,
        show={"measures": "measures.to_json(orient='records')", "hits": "hits['score'].to_json(orient='values')"},
        monkeypatch=monkeypatch,
    )
    assert found["hits"] == sorted(found["hits"], reverse=True)
    measures = pd.DataFrame(found["measures"])
    assert set(measures["k"]) == set(range(1, 11))
    assert (measures["nearest"] == 1).all(), "Lance searches exactly"
    gone = measures[measures["path"] == "rental.md"]
    assert (gone["relevant"] == 0).all()
    assert not gone["hit"].any()
    there = measures[measures["relevant"] == 1].sort_values("k")
    for _, of_question in there.groupby("question"):
        # One right chunk: an oracle's nDCG of a ranking with a 1 at its rank, if it was found.
        rank = of_question["hit"].argmax() if of_question["hit"].any() else 10
        truth = np.zeros((1, 11))
        truth[0, rank] = 1
        ranking = np.arange(11, 0, -1)[None, :]
        expected = [ndcg_score(truth, ranking, k=k) for k in range(1, 11)]
        assert of_question["ndcg"].tolist() == pytest.approx(expected)
    assert measures[measures["k"] == 5]["hit"].mean() >= 0.6


def _cuts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = ["visit_id", "repairs_30d", "spent_30d"]
    found = _run(
        "training_set",
        folder,
        show={
            "rows": f"rows.set_index('visit_id')[{columns[1:]}].astype(float).to_json(orient='index')",
            "leaks": "leaks['visit_id'].to_json(orient='values')",
            "is same": "str(again.to_pandas().sort_values(AT, ignore_index=True).equals(rows)).lower()",
        },
        monkeypatch=monkeypatch,
    )
    assert found["is same"] is True
    assert found["leaks"], "the sample has repairs that were entered late"
    expected = _by_duckdb(folder)
    assert found["rows"] == {visit: dict(zip(columns[1:], values, strict=True)) for visit, *values in expected}


def _by_duckdb(folder: Path) -> list[tuple[Any, ...]]:
    """The training set once more, from the files alone: visit, repairs and money of the 30 days before."""
    assert [a.over.days for a in REPAIRS.aggregates] == [30, 30]
    return duckdb.sql(f"""
        WITH repairs AS (
            SELECT repair_id, customer, try_cast(done_at AS TIMESTAMP) AS done_at, recorded_at, amount
            FROM read_csv('{folder}/records/repairs/*.csv', types = {{'done_at': 'VARCHAR'}})
            WHERE try_cast(done_at AS TIMESTAMP) IS NOT NULL AND amount BETWEEN 0 AND 1000
        ), days AS (SELECT DISTINCT customer, date_trunc('day', done_at) + INTERVAL 1 DAY AS event_at FROM repairs
        ), features AS (
            SELECT customer, event_at, greatest(max(recorded_at), event_at) AS known_at, count(*)::DOUBLE AS repairs,
                sum(amount)::DOUBLE AS spent
            FROM days JOIN repairs USING (customer)
            WHERE done_at >= event_at - INTERVAL 30 DAY AND done_at < event_at
            GROUP BY customer, event_at
        )
        SELECT visit_id, arg_max(repairs, event_at), arg_max(spent, event_at)
        FROM read_csv('{folder}/records/visits/*.csv', types = {{'visited_at': 'TIMESTAMP'}}) AS visits
        LEFT JOIN features ON features.customer = visits.customer AND event_at <= visited_at AND known_at <= visited_at
        GROUP BY visit_id ORDER BY visit_id
    """).fetchall()


@pytest.mark.long
@pytest.mark.parametrize("check", [_explores, _measures, _cuts])
def test_a_notebook_runs_on_folders(folder: Path, check: Any, monkeypatch: pytest.MonkeyPatch):
    check(folder, monkeypatch)


@pytest.mark.longest
def test_all_notebooks_run_on_a_catalog_through_spark_connect(
    quick_answers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The session and the tables that a notebook has on Databricks: Connect, and a catalog's."""
    (tmp_path / "server").mkdir()
    with connect_server(tmp_path / "server") as server:
        server.python("\n".join(f"spark.sql('CREATE SCHEMA book_{schema}')" for schema in SCHEMAS))
        monkeypatch.setenv("SPARK_REMOTE", server.remote)
        monkeypatch.setenv("LAKELOOP__CATALOG", "spark_catalog")
        monkeypatch.setenv("LAKELOOP__SCHEMA_PREFIX", "book_")
        program = f"import lakeloop; lakeloop.sample({str(tmp_path / 'sample')!r})"
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
        assert DeltaTable(str(server.warehouse / "book_silver.db" / "documents")).version() > 0
        for check in (_explores, _measures, _cuts):
            check(tmp_path / "sample", monkeypatch)
