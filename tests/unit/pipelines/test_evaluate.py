"""Labelled questions and an index in, measures out; an index that loses the nearest is found out."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest

from pipelines.answering.search import Searcher
from pipelines.lakehouse.opening import open_lakehouse
from pipelines.lakehouse.tables import Lakehouse
from pipelines.operations.evaluate import Question, evaluate, labelled_questions
from pipelines.settings.sections import EmbeddingSettings, Settings
from pipelines.stores import Hit
from tests.support.served import chunk, serve
from transformations.errors import ConfigurationError

TEXTS = {"1": "The seal is of steel.", "2": "Oil it once a year.", "3": "The pump stands in the yard."}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(root=tmp_path, embedding=EmbeddingSettings(model="tests.support.embedders:Free"))
    serve(
        settings,
        [chunk(key, text, path="pump.md", heading_path=["Pump", f"Part {key}"]) for key, text in TEXTS.items()],
    )
    return settings


@pytest.fixture
def lake(settings: Settings) -> Lakehouse:
    return open_lakehouse(settings, spark=lambda: pytest.fail("it asked for Spark"))


def _ask(lake: Lakehouse, request_id: str, question: str, *labels: dict[str, str | None]) -> None:
    lake.append_arrow("inference.requests", [{"request_id": request_id, "question": question}])
    rows = [
        {
            "request_id": request_id,
            "label": json.dumps(label),
            "label_source": "gold",
            "valid_from": datetime(2026, 1, day, tzinfo=timezone.utc),
        }
        for day, label in enumerate(labels, start=1)
    ]
    lake.append_arrow("inference.labels", rows)


def _embedded(key: str) -> str:
    """A question whose vector is that of the chunk: what was embedded of it."""
    return f"Pump > Part {key}\n{TEXTS[key]}"


def test_a_question_is_measured_by_its_last_label_and_one_without_a_label_is_not(settings: Settings, lake: Lakehouse):
    right, wrong = {"path": "pump.md", "heading": "Part 1"}, {"path": "pump.md", "heading": "Part 3"}
    _ask(lake, "a", _embedded("1"), wrong, right)
    _ask(lake, "b", _embedded("1"), right)
    _ask(lake, "c", "Never labelled?")
    _ask(lake, "d", _embedded("2"), {"path": "pump.md", "heading": None})
    _ask(lake, "e", _embedded("3"), {"path": "gone.md", "heading": "Part 3"})
    assert labelled_questions(lake) == [
        Question(_embedded("1"), "pump.md", "Part 1"),
        Question(_embedded("2"), "pump.md", None),
        Question(_embedded("3"), "gone.md", "Part 3"),
    ]
    found = {(each.question, each.k): each for each in evaluate(lake, Searcher(settings, lake=lake), k=4)}
    assert len(found) == 12
    one = found[_embedded("1"), 1]
    assert (one.relevant, one.hit, one.reciprocal_rank, one.recall, one.ndcg, one.nearest) == (1, True, 1, 1, 1, 1)
    assert one.score == pytest.approx(1, abs=1e-6)
    assert [found[_embedded("2"), k].recall for k in (1, 2, 3, 4)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert found[_embedded("1"), 4].score is None, "there are three chunks"
    gone = found[_embedded("3"), 3]
    assert (gone.relevant, gone.hit, gone.recall, gone.ndcg, gone.nearest) == (0, False, 0, 0, 1)


class _Forgetful(Searcher):
    """An index that never finds the nearest."""

    def search_vector(self, vector, *, k: int, where=None) -> list[Hit]:
        return super().search_vector(vector, k=k + 1, where=where)[1:]


def test_what_the_index_loses_against_an_exact_search_is_told(settings: Settings, lake: Lakehouse):
    _ask(lake, "a", _embedded("1"), {"path": "pump.md", "heading": "Part 1"})
    found = evaluate(lake, _Forgetful(settings, lake=lake), k=3)
    assert [each.nearest for each in found] == pytest.approx([0, 1 / 2, 2 / 3])
    assert not any(each.hit for each in found)


def test_without_labels_it_says_how_to_give_some(settings: Settings, lake: Lakehouse):
    with pytest.raises(ConfigurationError, match="--questions FILE"):
        evaluate(lake, Searcher(settings, lake=lake), k=3)
