"""Great Expectations is optional, slow to load, and asked in a language in which braces are fields."""

from __future__ import annotations

import subprocess
import sys

import pytest

from expectations.rules.rules import Rule
from expectations.rules.table_rules import references, unique
from expectations.targets.suites import suite
from transformations.errors import ConfigurationError, MissingDependencyError


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "great_expectations", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'lakeloop\[quality\]'"):
        suite("things", rules=[Rule("is_good", "true")])


def test_neither_rules_nor_the_command_load_it_or_spark_before_they_need_it():
    names = ("declared", "alerts", "suites")
    modules = ", ".join(
        ["expectations.tables.stored", "pipelines.cli.quality", *(f"expectations.targets.{n}" for n in names)]
    )
    loaded = "[m for m in ('great_expectations', 'pyspark') if m in sys.modules]"
    program = f"import sys, {modules}, pipelines.quality.results; print({loaded})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_suite_doubles_braces_and_shows_only_the_key_of_a_broken_row():
    pytest.importorskip("great_expectations")
    made = suite(
        "things",
        rules=[Rule("has_no_braces", "text <> '{x}'", "warn")],
        table_rules=[unique("{id}"), references("id", table="others")],
        key=["id"],
        others={"others": "delta.`/a/{b}`"},
    )
    row, key, reference = (each.unexpected_rows_query for each in made.expectations)
    assert row.format(batch="t") == "SELECT `id` FROM t WHERE NOT coalesce((\ntext <> '{x}'\n), false)"
    assert "GROUP BY `{id}`" in key.format(batch="t")
    assert "FROM delta.`/a/{b}`" in reference.format(batch="t")
    assert [each.severity.value for each in made.expectations] == ["info", "critical", "critical"]
    hidden = suite("things", rules=[Rule("has_text", "length(text) > 0")]).expectations[0]
    assert hidden.unexpected_rows_query.startswith("SELECT 1 AS is_broken FROM {batch} ")
    with pytest.raises(ConfigurationError, match="refers to others: say where that is"):
        suite("things", table_rules=[references("id", table="others")])
