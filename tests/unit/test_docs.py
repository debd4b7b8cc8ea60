"""What the documents say, against the code: commands, tables, exit codes and the settings that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from pipelines.cli import app
from pipelines.schemas import TABLES
from pipelines.settings import described
from transformations import errors
from transformations.documents import FORMATS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_target_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"`lakeloop ([a-z-]+)", text)) <= commands
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", text)) & {"demo", "test", "help", "lock", "replay"} <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_page_of_tables_lists_all_of_them_with_their_keys() -> None:
    rows = re.findall(
        r"^\| ([a-z]+\.[a-z_]+) \| .*? \| (.*?) \| .*\|$", (ROOT / "docs/tables.md").read_text(), re.MULTILINE
    )
    assert {name for name, _ in rows} == set(TABLES)
    for name, key in rows:
        expected = ", ".join(TABLES[name].key) or "append-only"
        assert key in (expected, "see the module"), name


def test_the_table_of_exit_codes_is_that_of_the_errors() -> None:
    codes = {int(c) for c in re.findall(r"^\| (\d) \|", (ROOT / "docs/index.md").read_text(), re.MULTILINE)}
    kinds = (errors.ExpectationFailedError, errors.ConfigurationError, errors.RefusedError)
    assert codes == {errors.EXIT_DONE, errors.EXIT_NOTHING_TO_DO, errors.EXIT_SET_ASIDE} | {k.exit_code for k in kinds}


def test_the_first_page_tells_how_many_formats_are_read() -> None:
    assert len(FORMATS) == 17, "then docs/index.md tells another number"
    assert "documents, in seventeen formats" in (ROOT / "docs/index.md").read_text(encoding="utf-8")


def test_every_setting_is_described() -> None:
    without = [key for _, key, _, text in described() if not text]
    assert without == []
