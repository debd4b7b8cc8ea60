"""What the documents say, against the code: commands, tables, exit codes and the settings that they name."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from typer.main import get_command

from pipelines.cli.main import app
from pipelines.conductor.stages import STAGES
from pipelines.lakehouse.schemas import TABLES
from pipelines.settings.sections import Settings
from pipelines.settings.template import described
from transformations import errors
from transformations.documents import FORMATS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("lakeloop", "transformations", "expectations", "pipelines")
COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
# The commands of a group, such as `pipelines run`; none for a command by itself.
PARTS = {name: getattr(command, "commands", {}) for name, command in COMMANDS.items()}
OPTIONS = {
    name: {o for one in (command, *PARTS[name].values()) for p in one.params for o in (*p.opts, "--help")}
    for name, command in COMMANDS.items()
}
# The rows of docs/tables.md: table → its grain, its key and who writes it.
ROWS_OF_TABLES = {
    name: (grain, key, writers.strip())
    for name, grain, key, writers in re.findall(
        r"^\| ([a-z]+\.[a-z_]+) \| (.*?) \| (.*?) \| (.*)\|$",
        (ROOT / "docs/tables.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
}
_NOTEBOOKS = (ROOT / "notebooks").glob("*.ipynb")
_BUNDLE = [ROOT / "databricks.yml", *(ROOT / "resources").glob("*.yml")]
WORDS = {
    word
    for file in [
        *_BUNDLE,
        *_NOTEBOOKS,
        *(f for package in (*PACKAGES, "examples") for f in (ROOT / package).rglob("*.py")),
    ]
    for word in re.findall(r"\w+", file.read_text(encoding="utf-8"))
}
# Folders that commands make, with what is in them.
_MADE = ("build", "dist")
# Names of others.
FOREIGN = {
    "--sandbox",  # an option of pandoc
    "--params",  # options of Databricks' CLI
    "--var",
    "create_auto_cdc_flow",  # Databricks
    "stored_as_scd_type",
    "report.html",  # a file that lakeloop writes, though `report` is a section of the settings
    "spark.speculation",  # Spark
    "verb_noun",  # what stands for a stage's name
    "silver.flights",  # a table of the user's own, in the example of feature tables
}


def unknown_names(text: str) -> list[str]:
    """What a page names and nothing in the project is called: sorted, each once."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for _, block in blocks for line in block.splitlines()]
    lines += re.findall(r"^    (.*)", prose, re.MULTILINE)
    spans = [
        " ".join(span.split()) for span in re.findall(r"`([^`]+)`", re.sub(r"^    .*", "", prose, flags=re.MULTILINE))
    ]
    found = [name for code in (*spans, *lines) for name in _unknown_calls(code.split("   #")[0])]
    found += [
        name for span in spans for name in _unknown_in_span(span, known=set(re.findall(r"\w+", "\n".join(lines))))
    ]
    found += _unknown_tables(text)
    for language, block in blocks:
        if language == "python":
            imports = re.findall(r"^from ([\w.]+) import ([\w, ]+)", block, re.MULTILINE)
            names = [f"{module}.{name.split()[0]}" for module, names in imports for name in names.split(", ")]
            found += [name for name in names if name.startswith(PACKAGES) and not _is_object(name)]
        if language == "yaml":
            found += _unknown_settings(yaml.safe_load(block))
    return sorted(set(found) - FOREIGN)


def _unknown_calls(code: str) -> Iterator[str]:
    """Targets of make and their variables, commands and their options, scripts."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target, rest in re.findall(r"^make ([a-z]+)(.*)", code):
        if not re.search(rf"^{target}:", makefile, re.MULTILINE):
            yield f"make {target}"
        for variable in re.findall(r" ([A-Z]+)=", rest):
            if not re.search(rf"^{variable} \?=", makefile, re.MULTILINE):
                yield f"make {target} {variable}"
    for command, rest in re.findall(r"^(?:bin/in-venv )?lakeloop ([a-z][a-z-]*)(.*)", code):
        if command not in COMMANDS:
            yield f"lakeloop {command}"
            continue
        if PARTS[command] and (part := re.match(r" ([a-z-]+)", rest)) and part[1] not in PARTS[command]:
            yield f"lakeloop {command} {part[1]}"
        for option in re.findall(r"(?<= )-[a-z-]+", rest):
            if option not in OPTIONS[command]:
                yield f"lakeloop {command} {option}"
        for stage in re.findall(r" --until ([a-z-]+)", rest):
            if stage not in {stage.command for stage in STAGES}:
                yield f"lakeloop {command} --until {stage}"
    for module in re.findall(r"python -m ((?:benchmarks|tests)[\w.]*)", code):
        path = ROOT / module.replace(".", "/")
        if not (path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()):
            yield module


def _unknown_in_span(span: str, *, known: set[str]) -> Iterator[str]:
    """Options, settings, variables, files, objects and any word with a low line; `known` are the page's own."""
    if (option := re.match(r"--[a-z-]+", span)) and option[0] not in set().union(*OPTIONS.values()):
        yield option[0]
    settings = [name.lower().split("__")[1:] for name in re.findall(r"LAKELOOP__\w+", span)]
    for name in re.findall(r"(?<![\w./])[a-z_]+\.[a-z_]\w*(?:\.\w+)*", span):
        if name.split(".")[0] in Settings.model_fields and not name.startswith(
            (
                "spark.sql.",
                "spark.driver.",
            )
        ):
            settings.append(name.split("."))
        is_ours = name.startswith(tuple(f"{package}." for package in PACKAGES)) and not name.endswith(".yml")
        if is_ours and not _is_object(name):
            yield name
    for path in settings:
        if not _is_setting(path):
            yield f"LAKELOOP__{'__'.join(path).upper()}" if "LAKELOOP__" in span else ".".join(path)
    if re.fullmatch(r"[\w.]+(/[\w.]+)+/?", span):
        top = span.split("/")[0]
        if top not in _MADE and (ROOT / top).is_dir() and not (ROOT / span).exists():
            yield span
        return
    for word in re.findall(r"(?<![\w.])(?:[a-z0-9]*_[a-z0-9_]+|LAKELOOP_[A-Z][A-Z_]*)(?![\w.])", span):
        if word not in WORDS | known and "__" not in word:
            yield word


def _unknown_tables(text: str) -> Iterator[str]:
    """Names of tables, in code or not; those of records and of features are the user's."""
    for name in re.findall(r"(?<![\w./])(?:bronze|silver|gold|inference|monitoring|ops)\.[a-z]\w*", text):
        if name not in TABLES and not name.startswith(("bronze.records_", "silver.records_", "gold.features_")):
            yield name


def _unknown_settings(values: dict[str, Any]) -> list[str]:
    """Keys of a lakeloop.yml that are no settings; none of another file."""
    if not values.keys() & Settings.model_fields.keys():
        return []
    try:
        Settings.model_validate({"root": ROOT, **values})
    except ValidationError as error:
        return [".".join(map(str, one["loc"])) for one in error.errors()]
    return []


def _is_setting(path: list[str]) -> bool:
    section: Any = Settings
    for name in path:
        field = getattr(section, "model_fields", {}).get(name)
        if field is None:
            return False
        section = field.annotation
    return True


def _is_object(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_on_a_page_is_there(page: Path) -> None:
    assert unknown_names(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("call `make dinner`", "make dinner"),
        ("```bash\nmake crash KILLS=3   # many\n```", "make crash KILLS"),
        ("call `lakeloop fly`", "lakeloop fly"),
        ("call `lakeloop pipelines fly`", "lakeloop pipelines fly"),
        ("```bash\nbin/in-venv lakeloop run --unless monitor\n```", "lakeloop run --unless"),
        ("as in `lakeloop run --until fly`", "lakeloop run --until fly"),
        ("with `--always`", "--always"),
        ("rows of gold.nothing go", "gold.nothing"),
        ("the column `never_there`", "never_there"),
        ("`index.patience` seconds", "index.patience"),
        ("`LAKELOOP__INDEX__NAMES`", "LAKELOOP__INDEX__NAMES"),
        ("set `LAKELOOP_HOUSE`", "LAKELOOP_HOUSE"),
        ("see `pipelines/nowhere.py`", "pipelines/nowhere.py"),
        ("`pipelines.settings.sections.walk` does", "pipelines.settings.sections.walk"),
        ("```python\nfrom pipelines.settings.sections import walk\n```", "pipelines.settings.sections.walk"),
        ("    bin/in-venv python -m benchmarks.nothing", "benchmarks.nothing"),
        ("```yaml\nindex:\n  colour: red\n```", "index.colour"),
    ],
)
def test_a_name_that_is_not_there_is_found(text: str, name: str) -> None:
    assert unknown_names(text) == [name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_page_of_tables_lists_all_of_them_with_their_keys_and_columns() -> None:
    assert set(ROWS_OF_TABLES) == set(TABLES)
    for name, (grain, key, _) in ROWS_OF_TABLES.items():
        expected = ", ".join(TABLES[name].key) or "append-only"
        assert key in (expected, "see the module"), name
        assert set(re.findall(r"`(\w+)`", grain)) <= set(TABLES[name].columns), name


def test_the_page_of_tables_tells_which_stage_writes_each() -> None:
    commands = set(COMMANDS)
    for name, (_, _, writers) in ROWS_OF_TABLES.items():
        told = {word for word in writers.split(", ") if word and not word.startswith(("`", "every "))}
        assert told <= commands, name
        assert {stage.command for stage in STAGES if name in stage.targets} <= told, name


def test_the_table_of_exit_codes_is_that_of_the_errors() -> None:
    codes = {int(c) for c in re.findall(r"^\| (\d) \|", (ROOT / "docs/index.md").read_text(), re.MULTILINE)}
    kinds = (errors.LakeloopError, errors.ExpectationFailedError, errors.ConfigurationError, errors.RefusedError)
    assert codes == {errors.EXIT_DONE, errors.EXIT_NOTHING_TO_DO, errors.EXIT_SET_ASIDE} | {k.exit_code for k in kinds}


def test_the_first_page_tells_how_many_formats_are_read() -> None:
    assert len(FORMATS) == 17, "then docs/index.md tells another number"
    assert "documents, in seventeen formats" in (ROOT / "docs/index.md").read_text(encoding="utf-8")


def test_every_setting_is_described() -> None:
    without = [key for _, key, _, text in described() if not text]
    assert without == []
