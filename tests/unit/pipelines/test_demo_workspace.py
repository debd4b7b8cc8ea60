"""The demo takes the place of an earlier demo, and of nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines.demo import run as demo
from pipelines.demo.run import deliver, run_demo
from pipelines.demo.workspace import MARK, check_folder, make_workspace
from pipelines.flow.lock import only_writer
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError, RefusedError


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The folder of a demo with two deliveries."""
    folder = tmp_path / "demo"
    settings = make_workspace(folder)
    for version in ("1", "2"):
        source = tmp_path / f"source{version}"
        (source / "how").mkdir(parents=True)
        (source / "how" / "index.rst").write_text(f"Version {version}\n=========\n")
        (source / f"only{version}.md").write_text("# One\n")
        deliver(source, settings.landing_path)
    (folder / "lakehouse" / "bronze").mkdir(parents=True)
    (folder / "lakehouse" / "bronze" / "part.parquet").write_bytes(b"rows")
    (folder / "report.html").write_text("a report")
    return folder


def test_an_earlier_demo_is_made_anew(made: Path):
    settings = make_workspace(made)
    assert sorted(contents(made)) == [MARK, ".lakeloop.lock", "lakeloop.yml"]
    assert list(settings.landing_path.iterdir()) == []


def test_a_demo_may_be_asked_and_run_on_before_it_is_made_anew(made: Path):
    for name in ("logs", "mlartifacts", "quality", "index"):
        (made / name).mkdir()
    (made / "mlflow.db").write_bytes(b"")
    check_folder(made)


def own_document(folder: Path) -> None:
    (folder / "landing" / "mine.md").write_text("# Mine\n")


def edited_document(folder: Path) -> None:
    (folder / "landing" / "how" / "index.rst").write_text("Mine\n====\n")


def own_settings(folder: Path) -> None:
    (folder / "lakeloop.yml").write_text("landing: elsewhere\n")


def own_file(folder: Path) -> None:
    (folder / "thesis.docx").write_bytes(b"years of work")


def a_link(folder: Path) -> None:
    (folder / "landing" / "linked").symlink_to(folder.parent, target_is_directory=True)


def a_linked_table(folder: Path) -> None:
    (folder.parent / "shared").mkdir()
    shutil.rmtree(folder / "lakehouse")
    (folder / "lakehouse").symlink_to(folder.parent / "shared")


def no_mark(folder: Path) -> None:
    (folder / MARK).unlink()


def a_cut_mark(folder: Path) -> None:
    (folder / MARK).write_text((folder / MARK).read_text()[:40])


@pytest.mark.parametrize(
    "change",
    [own_document, edited_document, own_settings, own_file, a_link, a_linked_table, no_mark, a_cut_mark],
)
def test_what_the_demo_did_not_make_is_left_alone(made: Path, change):
    change(made)
    before = contents(made.parent)
    with pytest.raises(ConfigurationError, match="left alone"):
        make_workspace(made)
    assert contents(made.parent) == before


def test_somebodys_workspace_is_left_alone_even_when_empty_of_documents(tmp_path: Path):
    (tmp_path / "lakeloop.yml").write_text("landing: landing\n")
    with pytest.raises(ConfigurationError, match=r"no \.lakeloop-demo\.json"):
        make_workspace(tmp_path)
    assert contents(tmp_path) == {"lakeloop.yml": b"landing: landing\n"}


def test_a_link_to_a_folder_is_left_alone(made: Path, tmp_path: Path):
    link = tmp_path / "link"
    link.symlink_to(made)
    with pytest.raises(ConfigurationError, match="no folder of its own"):
        make_workspace(link)
    assert (made / "report.html").is_file()


def test_a_demo_that_is_running_is_not_removed(made: Path):
    before = contents(made)
    with only_writer(Settings(root=made)), pytest.raises(RefusedError, match="another lakeloop run"):
        make_workspace(made)
    assert {k: v for k, v in contents(made).items() if k != ".lakeloop.lock"} == before


def test_nothing_is_removed_where_the_new_demo_cannot_start(made: Path, monkeypatch: pytest.MonkeyPatch):
    before = contents(made)
    with pytest.raises(ConfigurationError, match="name the versions"):
        run_demo(made, "nobody-knows-it", versions=None)

    def no_java() -> Path:
        raise ConfigurationError("no Java")

    monkeypatch.setattr(demo, "find_java", no_java)
    with pytest.raises(ConfigurationError, match="no Java"):
        run_demo(made, "pytest", versions=None)
    assert contents(made) == before


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LAKELOOP__LAKEHOUSE", "{own}/lakehouse"),
        ("LAKELOOP__LANDING", "{own}/landing"),
        ("LAKELOOP__CATALOG", "main"),
        ("LAKELOOP__RECORDS__TRIPS__LOCATION", "{own}/trips"),
        ("LAKELOOP__INDEX__URI", "{own}/index"),
        ("LAKELOOP__INDEX", "{{uri: '{own}/index'}}"),
    ],
)
def test_a_demo_works_on_nobodys_own_tables(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
):
    monkeypatch.setenv(variable, value.format(own=tmp_path / "own"))
    before = contents(tmp_path)
    for begin in (lambda: make_workspace(made), lambda: run_demo(made, "pytest", versions=None)):
        with pytest.raises(ConfigurationError, match=rf"\({variable}\).*env -u {variable} lakeloop demo"):
            begin()
    assert contents(tmp_path) == before


def test_a_demo_keeps_to_what_the_environment_says_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAKELOOP__SPARK__DRIVER_MEMORY", "3g")
    settings = make_workspace(tmp_path / "demo")
    assert settings.spark.driver_memory == "3g"
    assert settings.path(settings.lakehouse) == tmp_path / "demo" / "lakehouse"


def test_a_removal_that_was_killed_half_way_goes_on(made: Path):
    (made / "lakeloop.yml").unlink()  # the mark goes last
    shutil.rmtree(made / "landing")
    make_workspace(made)
    assert (made / "lakeloop.yml").is_file()
