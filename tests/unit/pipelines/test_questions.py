"""Files and headings in, questions with their gold out; labels, and versions of the prompt that asks them."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.answering.questions import heading_questions, read_questions
from pipelines.inference import answer_questions as stage
from pipelines.models.prompts import answer_prompt, neutral
from tests.support.answering import (
    context_on,
    rows,
)
from transformations.errors import ConfigurationError
from transformations.text.chat_turns import MARK


def test_the_prompt_keeps_its_version_until_its_text_changes_and_gets_it_back(workspace, monkeypatch):
    from pipelines.models import prompts

    first = answer_prompt(workspace)
    assert answer_prompt(workspace) == first
    old = prompts.ANSWER_PROMPT
    monkeypatch.setattr(prompts, "ANSWER_PROMPT", ({"role": "user", "content": "{{sources}} {{question}}"},))
    assert answer_prompt(workspace).version == first.version + 1
    monkeypatch.setattr(prompts, "ANSWER_PROMPT", old)
    assert answer_prompt(workspace) == first


def test_a_label_that_changed_is_appended_and_an_equal_one_is_not(workspace):
    context = context_on(workspace)
    stage.add_questions(context, rows("Q?"), batch="b")
    changed = [{"question": "Q?", "gold": {"path": "b.rst"}}]
    assert stage.add_questions(context, changed, batch="b") == 0
    stage.add_questions(context, changed, batch="b")
    assert stage.add_questions(context, rows("Q?"), batch="another") == 1
    labels = [json.loads(r["label"])["path"] for r in context.lake.read_arrow(stage.LABELS).to_pylist()]
    assert sorted(labels) == ["a.rst", "a.rst", "b.rst"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", 'no text under "question"'),
        ('{"question": 3}', 'no text under "question"'),
        ('{"question": "  "}', "the question is empty"),
        ('{"question": "a", "gold": "b"}', '"gold" names no path'),
        ('{"question": "a", "gold": {"path": "b", "heading": 1}}', '"gold" names no path'),
        ('{"question": "a", "id": 1}', '"id" is not text'),
    ],
)
def test_a_line_that_is_no_question_is_named_with_its_number(tmp_path: Path, line, problem):
    file = tmp_path / "q.jsonl"
    file.write_text('{"question": "fine?"}\n' + line, encoding="utf-8")
    with pytest.raises(ConfigurationError, match="line 2") as error:
        read_questions(file)
    assert problem in str(error.value)


def test_a_file_that_is_not_text_or_not_there_is_named(tmp_path: Path):
    (tmp_path / "q.jsonl").write_bytes(b"\xff\xfe\x00")
    for name in ("q.jsonl", "none.jsonl"):
        with pytest.raises(ConfigurationError, match=name):
            read_questions(tmp_path / name)


def test_headings_that_ask_become_questions_with_their_section_as_gold():
    paths = ["b.rst", "a.rst", "a.rst", "c.rst", "d.rst"]
    headings = [["How to run"], ["Guide", "How to stop"], ["How do I start?"], ["Guide", "Twice"], ["How to run"]]
    chunks = pa.table({"path": paths, "ordinal": [0, 0, 1, 0, 0], "heading_path": headings})
    found = heading_questions(chunks, limit=10)
    assert [q["question"] for q in found] == ["How to stop?", "How do I start?"]
    assert found[1]["gold"] == {"path": "a.rst", "heading": "How do I start?"}
    assert len(heading_questions(chunks, limit=1)) == 1


def test_the_demo_questions_are_at_least_fifteen_and_each_has_a_gold_section():
    found = read_questions(Path(str(files("pipelines.demo") / "questions.jsonl")))
    assert len({q["question"] for q in found}) == len(found) >= 15
    assert all(q["package"] == "pytest" and q["gold"]["path"].endswith(".rst") and q["gold"]["heading"] for q in found)


@pytest.mark.parametrize(
    "mark",
    [
        "<|im_start|>", "|im_end|", "<｜Assistant｜>", "</s>", "<s> [INST]", "[/INST]", "[TOOL_CALLS]", "<<SYS>>",
        "<start_of_turn>", "<eos>",
    ],
)  # fmt: skip
def test_no_mark_by_which_a_document_is_cut_is_left_in_a_prompt(mark):
    assert re.search(MARK, mark, re.IGNORECASE)
    for text in (mark, mark.lower(), f"a {mark}{mark} b"):
        assert not re.search(MARK, neutral(text), re.IGNORECASE)
