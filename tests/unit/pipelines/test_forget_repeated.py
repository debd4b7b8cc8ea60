"""`forget` among the tables of questions and answers. No JVM is started: the stages, which come first, have nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines import forget as forget_module
from pipelines.flow.run import new_context
from pipelines.forget import forget
from pipelines.inference.answer_questions import LABELS, REQUESTS, run
from pipelines.inference.log_row import INFERENCE_LOG
from pipelines.settings import Settings

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
    assert set(run(context, None).values()) == {0}, "nothing waits for an answer"


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
