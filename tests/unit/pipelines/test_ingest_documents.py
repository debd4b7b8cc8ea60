"""What the ingest of a folder reads, writes and remembers; tables are folders, so no Spark is started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import stage_named
from pipelines.documents.delivery import LOOKS, TABLE
from pipelines.documents.landing import Found, list_files
from pipelines.settings.sections import Settings
from transformations.errors import RefusedError

STAGES = [stage_named("ingest-documents")]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "landing").mkdir()
    return Settings(root=tmp_path)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were opened, in order."""
    opened: list[str] = []
    real = open

    def noted(file: str, *args: str) -> object:
        opened.append(Path(file).name)
        return real(file, *args)

    for module in ("delivery", "landing"):
        monkeypatch.setattr(f"pipelines.documents.{module}.open", noted, raising=False)
    return opened


def _ingest(settings: Settings) -> dict[str, int]:
    outcome = run_stages(new_context(settings, force=True), stages=STAGES)
    return {
        key: count for stage in outcome.stages for key, count in stage.counts.items() if count and key != "unchanged"
    }


def _versions(settings: Settings) -> list[int | None]:
    lake = new_context(settings).lake
    return [head.version if (head := lake.head(table)) else None for table in (TABLE, LOOKS)]


def _settle(file: Path, *, modified_at: float = 1_700_000_000.5) -> None:
    os.utime(file, (modified_at, modified_at))


@pytest.fixture
def arrived(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that has arrived, and a clock that is an hour further at each look, as between two runs."""
    from datetime import datetime, timedelta

    class Clock(datetime):
        hours = 1

        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(hours=cls.hours)

    monkeypatch.setattr("pipelines.flow.stage.datetime", Clock)
    file = settings.landing_path / "a.md"
    file.write_text("# A\n\none")
    _settle(file)
    assert _ingest(settings) == {"new": 1}
    return file


def test_a_file_that_was_only_touched_is_read_once_and_then_no_more(settings: Settings, arrived: Path, read: list[str]):
    assert _ingest(settings) == {}
    assert read == []
    before = _versions(settings)
    _settle(arrived, modified_at=1_700_000_100.5)
    assert _ingest(settings) == {}
    assert read == ["a.md"]
    table, looks = _versions(settings)
    assert table == before[0]  # nothing arrived
    assert before[1] is None  # and now the look is remembered
    assert looks is not None
    assert _ingest(settings) == {}
    assert _versions(settings) == [table, looks]
    assert read == ["a.md"]


def test_a_file_rewritten_in_place_with_its_size_and_time_arrives(
    settings: Settings, arrived: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pipelines.flow.stage.datetime.hours", 0)
    (settings.root / "lakehouse").rename(settings.root / "gone")
    assert _ingest(settings) == {"new": 1}
    arrived.write_text("# B\n\ntwo")
    _settle(arrived)
    assert _ingest(settings) == {"changed": 1}


def test_the_same_file_delivered_again_is_no_arrival_and_one_that_came_back_is(settings: Settings, arrived: Path):
    content = arrived.read_bytes()
    arrived.unlink()
    arrived.write_bytes(content)
    assert _ingest(settings) == {}
    arrived.unlink()
    assert _ingest(settings) == {"gone": 1}
    arrived.write_bytes(content)
    assert _ingest(settings) == {"new": 1}


def test_a_renamed_file_goes_and_comes_with_the_same_bytes(settings: Settings, arrived: Path):
    arrived.rename(arrived.with_name("b.md"))
    assert _ingest(settings) == {"new": 1, "gone": 1}
    rows = new_context(settings).lake.read_arrow(TABLE, columns=["path", "op", "content_hash"]).to_pylist()
    hashes = {row["content_hash"] for row in rows if row["op"] == "upsert"}
    assert len(hashes) == 1
    assert {(row["path"], row["op"]) for row in rows} == {("a.md", "upsert"), ("a.md", "delete"), ("b.md", "upsert")}


def test_a_file_that_is_late_arrives_when_it_comes_however_old_it_is(settings: Settings, arrived: Path):
    late = arrived.with_name("late.md")
    late.write_text("# Late\n\ntext")
    os.utime(late, (1_000_000_000.5, 1_000_000_000.5))
    assert _ingest(settings) == {"new": 1}
    assert _ingest(settings) == {}


def test_what_lakeloop_writes_is_no_document_wherever_the_landing_folder_is(settings: Settings):
    own = settings.model_copy(update={"landing": "."})
    for name in (
        "report.html",
        "logs/a.txt",
        "quality/index.html",
        "lakehouse/a.md",
        "vectors/a.md",
        "checkpoints/a.md",
    ):
        (own.root / name).parent.mkdir(parents=True, exist_ok=True)
        (own.root / name).write_text("x")
    own = own.model_copy(update={"index": own.index.model_copy(update={"uri": "vectors"})})
    for name in ("a.md", "docs/report.html", "docs/quality/b.md"):
        (own.root / name).parent.mkdir(parents=True, exist_ok=True)
        (own.root / name).write_text("x")
    found = {file.path for file in list_files(own.landing_path, own.ingest, own=own.own_places)}
    assert found == {"a.md", "docs/report.html", "docs/quality/b.md"}


def test_every_format_is_taken_by_default_and_nothing_else(settings: Settings):
    for name in ("a.pdf", "b.DOCX", "c.xlsm", "d.adoc", "e.eml", "f.tsv", "g.txt", "h.py", "i.zip", "j.png"):
        (settings.landing_path / name).write_bytes(b"x")
    assert _ingest(settings) == {"new": 7}
    assert Found("x", str(settings.landing_path / "a.pdf")).content_hash()


def _known(settings: Settings) -> dict[tuple[str, str], str]:
    """The last arrival of each path of each source."""
    rows = new_context(settings).lake.read_arrow(TABLE).sort_by("_ingested_at").to_pylist()
    return {(row["source"], row["path"]): row["_rescued"] or row["op"] for row in rows}


def test_documents_of_a_source_that_was_renamed_are_gone_under_its_old_name(settings: Settings):
    for number in range(20):
        (settings.landing_path / f"{number}.md").write_text(f"Text {number}.")
    _ingest(settings)
    wiki = settings.model_copy(update={"ingest": settings.ingest.model_copy(update={"source": "wiki"})})
    # The same files are there, so no limit refuses.
    outcome = run_stages(new_context(wiki), stages=STAGES)
    assert dict(outcome.stages[0].counts) == {"new": 20, "changed": 0, "gone": 20, "unchanged": 0, "set_aside": 0}
    rows = new_context(wiki).lake.read_arrow(TABLE).to_pylist()
    ids = {(row["source"], row["path"]): row["document_id"] for row in rows}
    deleted = {row["document_id"] for row in rows if row["op"] == "delete"}
    assert deleted == {key for (source, _), key in ids.items() if source == "files"}
    assert {source for (source, _), op in _known(wiki).items() if op == "upsert"} == {"wiki"}
    assert _ingest(wiki) == {}
    assert _ingest(settings) == {"new": 20, "gone": 20}, "and back"


def test_a_renamed_folder_is_no_mass_delete_and_a_vanished_one_is(settings: Settings):
    (settings.landing_path / "old").mkdir()
    for number in range(40):
        (settings.landing_path / "old" / f"{number}.md").write_text(f"Text {number}.")
    for number in range(40):
        (settings.landing_path / "old" / f"same-{number}.md").write_text("Every one says this.")
    _ingest(settings)
    (settings.landing_path / "old").rename(settings.landing_path / "new")
    outcome = run_stages(new_context(settings), stages=STAGES)
    assert (outcome.stages[0].counts["new"], outcome.stages[0].counts["gone"]) == (80, 80)
    # One of the copies that comes back under another name stands for one, not for all.
    for number in range(40):
        (settings.landing_path / "new" / f"same-{number}.md").unlink()
    (settings.landing_path / "other.md").write_text("Every one says this.")
    with pytest.raises(RefusedError, match="39 of 80 documents are gone"):
        run_stages(new_context(settings), stages=STAGES)


def test_a_name_in_another_unicode_form_does_not_displace_the_document_that_is_there(settings: Settings):
    composed, decomposed = "caf\u00e9.md", "cafe\u0301.md"
    (settings.landing_path / composed).write_text("The first.")
    _ingest(settings)
    (settings.landing_path / decomposed).write_text("The twin.")
    if len(list(settings.landing_path.iterdir())) == 1:
        pytest.skip("this file system takes the two names for one")
    assert _ingest(settings) == {"new": 1, "set_aside": 1}
    assert _known(settings)["files", composed] == "upsert"
    assert _known(settings)["files", decomposed].startswith("duplicate_path: the same name as")
    # Whichever came first stays; when it goes, the other takes its place.
    (settings.landing_path / composed).unlink()
    assert _ingest(settings) == {"changed": 1, "gone": 1}
    (settings.landing_path / composed).write_text("Back again.")
    assert _ingest(settings) == {"new": 1, "set_aside": 1}
    assert _known(settings)["files", decomposed] == "upsert"


def test_the_mark_of_an_office_program_that_holds_a_file_open_is_no_document(settings: Settings):
    for name in ("report.docx", "~$report.docx", "~report.docx"):
        (settings.landing_path / name).write_bytes(b"x")
    assert _ingest(settings) == {"new": 2}
