"""`forget` among the tables of questions and answers. No JVM is started: the stages, which come first, have nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from pipelines.answering.log_row import INFERENCE_LOG
from pipelines.conductor.run import new_context
from pipelines.inference.answer_questions import LABELS, REQUESTS, work
from pipelines.operations import forget as forget_module
from pipelines.operations.forget import forget
from pipelines.operations.status import describe
from pipelines.settings.sections import Settings
from pipelines.vector_index.places import Place, note

SECRET = "Zanzibar-Quokka-7781"


def test_a_question_that_was_answered_from_a_document_goes_with_it_and_is_not_asked_again(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(forget_module, "advance", lambda context, *, stages: None)
    (tmp_path / "landing").mkdir()
    context = new_context(Settings(root=tmp_path))
    lake = context.lake
    lake.append_arrow("bronze.documents", [{"document_id": "private", "path": "private.md", "source": "files"}])
    for request_id, document, question in (("1", "private", f"Who is {SECRET}?"), ("2", "other", "Who else?")):
        lake.append_arrow(LABELS, [{"request_id": request_id, "label": question, "label_source": "gold"}])
        lake.append_arrow(REQUESTS, [{"request_id": request_id, "question": question}])
        call = {"request_id": request_id, "status_code": 200, "retrieved": [{"doc_id": document}]}
        lake.append_arrow(INFERENCE_LOG, [call | {"request_date": context.now().date(), "request": question}])
    receipt = forget(context, "private.md")
    of_calls = {table: receipt["removed"].get(table) for table in (LABELS, REQUESTS, INFERENCE_LOG)}
    assert of_calls == dict.fromkeys((LABELS, REQUESTS, INFERENCE_LOG), 1)
    for table in of_calls:
        assert lake.read_arrow(table)["request_id"].to_pylist() == ["2"], table
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert set(work(context, None).values()) == {0}, "nothing waits for an answer"


def test_declared_datasets_that_hold_the_document_are_named_with_the_command_that_clears_them(tmp_path, monkeypatch):
    monkeypatch.setattr(forget_module, "advance", lambda context, *, stages: None)
    (tmp_path / "landing").mkdir()
    context = new_context(Settings(root=tmp_path))
    parsed = context.lake.folder("declared.documents_parsed")
    for held in (["private", "other", "private"], ["other"]):
        context.lake.append_arrow("bronze.documents", [{"document_id": "private", "path": "private.md"}])
        write_deltalake(parsed, pa.table({"document_id": held, "text": held}), mode="overwrite")
        named = [line for line in forget(context, "private.md")["not_cleared"] if "declared" in line]
        assert named == [line for line in named if "2 rows" in line and "pipelines run --full-refresh-all" in line]
        assert len(named) == ("private" in held)


def test_a_run_that_was_killed_before_the_log_went_is_repeated(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(forget_module, "advance", lambda context, *, stages: None)
    (tmp_path / "landing").mkdir()
    context = new_context(Settings(root=tmp_path))
    lake = context.lake
    lake.append_arrow("bronze.documents", [{"document_id": "private", "path": "private.md", "source": "files"}])
    lake.append_arrow(REQUESTS, [{"request_id": "1", "question": "Who?"}])
    call = {"request_id": "1", "status_code": 200, "retrieved": [{"doc_id": "private"}]}
    lake.append_arrow(INFERENCE_LOG, [call | {"request_date": context.now().date()}])
    delete = lake.delete

    def killed(table: str, where: Any) -> int:
        if table == INFERENCE_LOG:
            raise KeyboardInterrupt
        return delete(table, where)

    monkeypatch.setattr(lake, "delete", killed)
    with pytest.raises(KeyboardInterrupt):
        forget(context, "private.md")
    monkeypatch.setattr(lake, "delete", delete)
    forget(context, "private.md")
    for table in ("bronze.documents", REQUESTS, INFERENCE_LOG):
        assert lake.read_arrow(table).num_rows == 0, table


class Killed(BaseException):
    """Nothing catches it: what follows does not run, as after a kill."""


def _forget(root: Path, monkeypatch: pytest.MonkeyPatch, *, dies_before: int | None = None) -> tuple[Any, list[str]]:
    """The receipt, None of a run that was killed before one of its steps, and the steps that it took."""
    steps: list[str] = []

    def watched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            table = next((of for of in arguments if isinstance(of, str)), "")
            if name == "clear_place" or type(context.lake).head(context.lake, table) is not None:
                if len(steps) == dies_before:
                    raise Killed
                steps.append(f"{name} {table}".strip())
            return original(*arguments, **named)

        return call

    context = new_context(Settings(root=root))
    context.lake.ensure(forget_module.RECEIPTS)
    with monkeypatch.context() as patch:
        for name in ("delete", "purge", "append_arrow"):
            patch.setattr(context.lake, name, watched(name, getattr(context.lake, name)))
        patch.setattr(forget_module, "clear_place", watched("clear_place", forget_module.clear_place))
        # The name of the file is in the other form of Unicode.
        if dies_before is None:
            return forget(context, "Caf\u00e9.md"), steps
        with pytest.raises(Killed):
            forget(context, "Caf\u00e9.md")
        return None, steps


def test_a_run_that_was_killed_between_any_two_steps_is_ended_by_the_same_command(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(forget_module, "advance", lambda context, *, stages: None)
    root = tmp_path / "before"
    (root / "landing").mkdir(parents=True)
    lake, now = new_context(Settings(root=root)).lake, datetime.now(timezone.utc)
    for source in ("files", "an earlier name of it"):
        row = {"document_id": source, "path": "Cafe\u0301.md", "source": source, "content": SECRET.encode()}
        lake.append_arrow("bronze.documents", [row | {"_ingested_at": now}])
    lake.append_arrow("silver.documents_history", [{"document_id": "files", "text": SECRET}])
    call = {"request_id": "1", "status_code": 200, "retrieved": [{"doc_id": "files"}], "request": SECRET}
    lake.append_arrow(INFERENCE_LOG, [call | {"request_date": now.date()}])
    note(lake, [Place("chunks_1", "chunks", "lance", str(root / "index"), "model", 64)])

    def copy(name: str) -> Path:
        return Path(shutil.copytree(root, tmp_path / name))

    _, steps = _forget(copy("whole"), monkeypatch)
    assert [step for step in steps if "bronze" in step or "forget" in step or " " not in step] == [
        "append_arrow ops.forget_receipts", "delete bronze.documents", "purge bronze.documents", "clear_place",
        "append_arrow ops.forget_receipts", "delete ops.forget_receipts",
    ]  # fmt: skip
    for number, step in enumerate(steps):
        again = copy(f"killed-{number}")
        _forget(again, monkeypatch, dies_before=number)
        if step == "purge bronze.documents":
            assert any(
                "end it with lakeloop forget files" in line for line in describe(Settings(root=again))[0]["warnings"]
            )
        receipt, _ = _forget(again, monkeypatch)
        assert receipt["document_ids"] == ["an earlier name of it", "files"], step
        assert any("MLflow: the traces of 1 calls" in line for line in receipt["remains"]), step
        assert any("index chunks_1" in line for line in receipt["remains"]), step
        assert [p for p in again.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()] == [], step
        receipts = new_context(Settings(root=again)).lake.read_arrow(forget_module.RECEIPTS).to_pylist()
        assert {row["forgotten_at"] is None for row in receipts} == {False}, step
