"""Refining documents: their versions, their language, personal data in them, and who is nearly equal to whom."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pyarrow.compute as pc
import pytest

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import stage_named
from pipelines.operations.plan import plan
from pipelines.settings.sections import RefineSettings, Settings
from tests.support.state import assert_refined_as_from_scratch
from transformations.tables.history import state_at
from transformations.text.canonical_text import normalise_text

INGEST, REFINE, CHUNK = (stage_named(name) for name in ("ingest-documents", "refine-documents", "chunk-documents"))
LONG = " ".join(f"word{n} is told of in sentence {n % 17} of this long text." for n in range(60))


def deliver(settings: Settings, files: dict[str, str | None], *, refine: bool = True) -> dict[str, int]:
    """Write `files` (None: remove) and ingest them; returns what refining counted."""
    for path, text in files.items():
        file = settings.landing_path / path
        if text is None:
            file.unlink()
        else:
            file.write_text(text, encoding="utf-8")
    run_stages(new_context(settings, force=True), stages=[INGEST])
    if not refine:
        return {}
    outcome = run_stages(new_context(settings), stages=[REFINE])
    return dict(outcome.stages[0].counts) if outcome.stages else {}


def rows(settings: Settings, table: str) -> list[dict[str, Any]]:
    return sorted(
        new_context(settings).lake.read_arrow(table).to_pylist(),
        key=lambda row: (row["path"] or "", str(row.get("valid_from"))),
    )


def by_path(settings: Settings) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in rows(settings, "silver.documents")}


def refining(settings: Settings, **values: Any) -> Settings:
    return settings.model_copy(update={"refine": RefineSettings(**values)})


def last_arrival(settings: Settings) -> datetime:
    arrivals = new_context(settings).lake.read_arrow("bronze.documents", columns=["_ingested_at"])
    return pc.max(arrivals["_ingested_at"]).as_py()


@pytest.mark.long
def test_every_past_state_is_in_the_history_and_a_rebuild_gives_the_same(workspace: Settings, spark):
    """Edits, deletes, a come-back, a rename, an edition that is refused, and a late arrival."""
    folder: dict[str, str] = {}
    states: dict[datetime, dict[str, str]] = {}

    def step(files: dict[str, str | None], *, refine: bool = True) -> dict[str, int]:
        counts = deliver(workspace, files, refine=refine)
        folder.update({path: text for path, text in files.items() if text is not None})
        for path in [path for path, text in files.items() if text is None]:
            del folder[path]
        states[last_arrival(workspace)] = {path: normalise_text(text) for path, text in folder.items() if text.strip()}
        return counts

    step({"a.md": "Alpha, the first.", "b.md": "Beta.", "c.md": "Gamma."})
    assert step({"a.md": "Alpha, edited."}) == {"insert": 0, "update": 1, "delete": 0, "set_aside": 0}
    # Three deliveries before the next refining: each of them is a past of its own.
    step({"b.md": None, "c.md": None, "d.md": "Gamma."}, refine=False)
    step({"b.md": "Beta.", "a.md": "  \n"}, refine=False)
    assert step({"b.md": "Beta, again."}) == {"insert": 1, "update": 1, "delete": 2, "set_aside": 1}
    assert step({"a.md": "Alpha, the first."}) == {"insert": 1, "update": 0, "delete": 0, "set_aside": 0}

    lake = new_context(workspace).lake
    history = lake.read("silver.documents_history")
    for instant, expected in states.items():
        found = state_at(history, at=instant).select("path", "text").collect()
        assert sorted(map(tuple, found)) == sorted(expected.items()), f"as of {instant}"
    assert state_at(history, at=min(states) - timedelta(microseconds=1)).count() == 0
    versions = [row for row in rows(workspace, "silver.documents_history") if row["path"] == "a.md"]
    texts = [row["text"] for row in versions if row["_marks"] is None]
    assert texts == ["Alpha, the first.", "Alpha, edited.", "Alpha, the first."]

    # Late: an edition of a.md that had been stored between the first two.
    arrival = lake.read_arrow("bronze.documents", where={"path": "a.md"}).to_pylist()[0]
    at = min(states) + timedelta(microseconds=1)
    lake.append_arrow("bronze.documents", [arrival | {"content": b"Late.", "content_hash": "x", "_ingested_at": at}])
    now = by_path(workspace)
    run_stages(new_context(workspace), stages=[REFINE])
    assert by_path(workspace) == now
    texts = [row["text"] for row in rows(workspace, "silver.documents_history") if row["path"] == "a.md"]
    assert texts[:3] == ["Alpha, the first.", "Late.", "Alpha, edited."]
    assert_refined_as_from_scratch(workspace)


@pytest.mark.long
def test_clusters_follow_who_comes_and_goes_and_are_those_of_a_rebuild(workspace: Settings, spark):
    marked = refining(workspace, near_duplicates="mark")
    near = {f"near-{n}.md": f"{LONG} And {n}." for n in range(3)}
    deliver(marked, {"alone.md": "Alone.", **near})
    found = by_path(marked)
    assert len({found[path]["cluster_id"] for path in near}) == 1
    # An edit of one that is like no other concerns nobody else.
    assert deliver(marked, {"alone.md": "Alone, edited."})["update"] == 1
    # The one that stood for the cluster goes: the others are told of the next one.
    (first,) = [path for path in near if found[path]["cluster_id"] == found[path]["document_id"]]
    assert deliver(marked, {first: None}) == {"insert": 0, "update": 2, "delete": 1, "set_aside": 0}
    found = by_path(marked)
    second, third = sorted(near.keys() - {first}, key=lambda path: found[path]["document_id"])
    assert found[third]["cluster_id"] == found[second]["document_id"]
    newest = max((second, third), key=lambda path: found[path]["modified_at"])
    assert [path for path in (second, third) if found[path]["is_representative"]] == [newest]
    # It leaves the cluster by an edit: what stays is alone.
    assert deliver(marked, {second: "Something else."})["update"] == 2
    assert all(row["is_representative"] for row in by_path(marked).values())
    assert_refined_as_from_scratch(marked)


@pytest.mark.longest
def test_one_document_a_cluster_is_served_where_that_is_asked_for(workspace: Settings, spark):
    served = refining(workspace, near_duplicates="serve_one")
    deliver(served, {"a.md": LONG, "b.md": f"{LONG} More.", "c.md": "Another text."})
    # The one that was written last stands for both, whatever their ids are: a's edit makes it the newest, then b's.
    for newest, text in (("a.md", f"{LONG} More!"), ("b.md", f"{LONG} And more."), ("a.md", f"{LONG} Last.")):
        deliver(served, {newest: text})
        found = by_path(served)
        assert found["a.md"]["cluster_id"] == found["b.md"]["cluster_id"]
        assert [path for path in ("a.md", "b.md") if found[path]["is_representative"]] == [newest]
    run_stages(new_context(served), stages=[CHUNK])

    def paths(settings: Settings) -> set[str]:
        return set(new_context(settings).lake.read_arrow("silver.chunks", columns=["path"])["path"].to_pylist())

    (representative,) = [p for p, row in by_path(served).items() if row["is_representative"] and p != "c.md"]
    (other,) = {"a.md", "b.md"} - {representative}
    assert paths(served) == {representative, "c.md"}
    deliver(served, {representative: None})
    run_stages(new_context(served), stages=[CHUNK])
    assert paths(served) == {other, "c.md"}

    off = refining(workspace, near_duplicates="off")
    deliver(off, {representative: LONG})
    assert {(row["cluster_id"], row["is_representative"]) for row in by_path(off).values()} == {(None, None)}
    run_stages(new_context(off), stages=[CHUNK])
    assert paths(off) == {"a.md", "b.md", "c.md"}


def test_a_language_that_is_not_wanted_is_set_aside_or_only_counted(workspace: Settings, spark):
    files = {
        "en.md": "The table is compared with what it was after each of the runs, and then it is written.",
        "de.md": "Die Tabelle wird nach jedem Lauf mit dem verglichen, was vorher darin gestanden hat.",
        "empty.md": "",
    }
    wanted = refining(workspace, languages=("en", "und"))
    assert deliver(wanted, files)["set_aside"] == 2
    assert {path: row["language"] for path, row in by_path(wanted).items()} == {"en.md": "en"}
    refused = {row["path"]: row["failed_rules"] for row in rows(wanted, "silver.documents_quarantine")}
    assert refused == {"de.md": ["is_in_language"], "empty.md": ["is_not_empty"]}

    warned = refining(workspace, languages=("en", "und"), other_languages="warn")
    run_stages(new_context(warned), stages=[REFINE])
    assert {path: row["language"] for path, row in by_path(warned).items()} == {"en.md": "en", "de.md": "de"}


PERSONAL = "# Ask ann@example.com\n\nOr write to bob@example.com, who knows.\n"


@pytest.mark.parametrize(
    "policy", [pytest.param(p, marks=pytest.mark.long) for p in ("off", "mark")] + ["mask", "quarantine"]
)
def test_personal_data_is_left_marked_masked_or_refused(policy: str, workspace: Settings, spark):
    if policy != "off":
        pytest.importorskip("presidio_analyzer", reason="needs the extra pii")
    settings = refining(workspace, pii=policy)
    deliver(settings, {"personal.md": PERSONAL, "plain.md": "Nobody is named."})
    found = by_path(settings)
    if policy == "quarantine":
        (refused,) = rows(settings, "silver.documents_quarantine")
        assert (refused["path"], refused["failed_rules"]) == ("personal.md", ["has_no_personal_data"])
        assert set(found) == {"plain.md"}
        assert {d.path for d in plan(new_context(settings)).documents} == set()
        (settings.landing_path / "more.md").write_text(PERSONAL, encoding="utf-8")
        (planned,) = plan(new_context(settings)).documents
        assert (planned.op, planned.reason) == ("!", "has_no_personal_data: 2 places")
        return
    row = found["personal.md"]
    spans = row["pii_spans"]
    if policy == "off":
        assert spans is None
        return
    assert found["plain.md"]["pii_spans"] == []
    shown = ["<EMAIL_ADDRESS>"] * 2 if policy == "mask" else ["ann@example.com", "bob@example.com"]
    assert [row["text"][span["start"] : span["end"]] for span in spans] == shown
    assert ("ann@" in row["title"], "ann@" in row["text"]) == ((True, True) if policy == "mark" else (False, False))
    (version,) = [v for v in rows(settings, "silver.documents_history") if v["path"] == "personal.md"]
    assert version["text"] == row["text"]


@pytest.mark.long
def test_another_policy_is_applied_to_the_past_as_well(workspace: Settings, spark):
    pytest.importorskip("presidio_analyzer", reason="needs the extra pii")
    deliver(workspace, {"a.md": PERSONAL})
    deliver(workspace, {"a.md": "Nobody."})
    masked = refining(workspace, pii="mask")
    run_stages(new_context(masked), stages=[REFINE])
    texts = [row["text"] for row in rows(masked, "silver.documents_history")]
    assert len(texts) == 2
    assert not any("@example.com" in text for text in texts)
