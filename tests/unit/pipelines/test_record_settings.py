"""Sources of records as lakeloop.yml names them: what is taken, what is refused, and what the readers are told."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml

from pipelines.records.streams import auto_loader_options
from pipelines.settings.load import load_settings
from pipelines.settings.records import RecordSettings
from pipelines.settings.sections import Settings
from pipelines.settings.template import settings_template
from transformations.errors import ConfigurationError
from transformations.tables.text_values import Reading

ORDERS = {"format": "csv", "location": "orders", "key": ["id"], "columns": {"id": "LONG", "at": "timestamp"}}


def refusal(**changed: object) -> str:
    with pytest.raises(ConfigurationError) as raised:
        load_settings(overrides=[f"records.orders={yaml.safe_dump({**ORDERS, **changed}, default_flow_style=True)}"])
    return str(raised.value)


def test_types_are_named_in_one_way_and_the_template_loads():
    assert RecordSettings(**ORDERS).types == {"id": "bigint", "at": "timestamp"}
    template = settings_template()
    assert "records: {}\n#   NAME:" in template
    assert Settings.model_validate({k: v for k, v in yaml.safe_load(template).items() if v is not None}).records == {}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"formt": "csv"}, "unknown setting 'records.orders.formt'. Did you mean 'records.orders.format'"),
        ({"key": ["ident"]}, "key names 'ident', which is not among the columns"),
        ({"columns": {"id": "lng"}}, "'lng' is not the type of a column"),
        ({"columns": {"id; DROP TABLE x": "int"}}, "cannot be the name of a column"),
        ({"columns": {"Order ID": "int"}}, "a_name: {type: …, from: 'Order ID'}"),
        (
            {"columns": {"id": {"type": "int", "form": "x"}}},
            "unknown setting 'records.orders.columns.id.form'. Did you mean",
        ),
        ({"columns": {"id": {"from": "x"}}}, "records.orders.columns.id.type: Field required"),
        (
            {"columns": {"id": "int", "b": {"type": "int", "from": "ID"}}},
            "read from the same one of the source: ['id']",
        ),
        ({"columns": {"id": {"type": "int", "format": "yyyy"}}}, "format is of dates and timestamps"),
        (
            {"columns": {"id": "int", "d": {"type": "date", "format": "HH:mm"}}},
            "a year, a month and a day must be in it",
        ),
        ({"columns": {"id": {"type": "string", "decimal_mark": ","}}}, "are of numbers, and the column is string"),
        ({"columns": {"id": {"type": "int", "thousands_mark": "."}}}, "must differ"),
        ({"options": {"sep": "", "x": "y"}}, "options ['x'] are not among"),
        ({"options": {"quote": "''"}}, "the option quote is \"''\"; it is one sign"),
        ({"options": {"encoding": "utf-9"}}, "the option encoding is no name of one"),
        ({"columns": {"id": "int", "ID": "int"}}, "differ only in their case"),
        ({"columns": {"id": "double"}}, "'id' is double, which cannot be compared"),
        ({"columns": {"id": "int", "valid_to": "int"}}, "'valid_to' cannot be the name of a column"),
        ({"options": {"path": "/etc"}}, r"options ['path'] are not among those of csv"),
        ({"op": {"column": "id"}}, "op.column 'id' is among the columns"),
        ({"format": "delta", "order_by": ["at"]}, "a Delta table's own commits order its changes"),
        ({"format": "delta", "location": "main.x; DROP"}, "location of a Delta table"),
        ({"format": "kafka"}, "kafka needs the option bootstrap.servers"),
        ({"rules": [{"name": "Bad name", "predicate": "true"}]}, "records.orders.rules.0.name"),
    ],
)
def test_what_is_wrong_is_refused_with_the_setting_that_it_is_about(changed, told):
    assert told in refusal(**changed)


def test_a_column_says_how_its_source_writes_it():
    columns = {
        "id": {"type": "LONG", "from": "Order ID"},
        "at": {"type": "timestamp", "format": "dd.MM.yyyy HH:mm", "null_texts": ["-"]},
        "price": {"type": "decimal(10,2)", "thousands_mark": ".", "decimal_mark": ","},
    }
    options = {"sep": "\\t", "nullValue": "NULL", "multiLine": False}
    source = RecordSettings(**{**ORDERS, "columns": columns, "options": options})
    assert source.types == {"id": "bigint", "at": "timestamp", "price": "decimal(10,2)"}
    assert source.options == {"sep": "\t", "nullValue": "NULL", "multiLine": "false"}
    assert source.readings == {
        "id": Reading(source="Order ID", null_texts=("NULL",)),
        "at": Reading(format="dd.MM.yyyy HH:mm", null_texts=("NULL", "-")),
        "price": Reading(null_texts=("NULL",), thousands_mark=".", decimal_mark=","),
    }


def test_two_sources_never_have_a_table_in_common():
    with pytest.raises(ConfigurationError, match="ends as a table of another source does"):
        load_settings(overrides=[f"records.orders_history={yaml.safe_dump(ORDERS, default_flow_style=True)}"])


def test_auto_loader_finds_files_where_the_settings_say_so_as_a_listing_does():
    source = RecordSettings(**ORDERS)
    assert not source.is_stream
    assert source.model_copy(update={"discovery": "auto_loader"}).is_stream
    table = {**ORDERS, "format": "delta", "location": "./table", "discovery": "auto_loader"}
    assert not RecordSettings(**table).is_stream
    assert auto_loader_options(source) == {
        "cloudFiles.format": "binaryFile",
        "cloudFiles.includeExistingFiles": "true",
        "cloudFiles.allowOverwrites": "true",
        "recursiveFileLookup": "true",
        "pathGlobFilter": "{*.[cC][sS][vV],*.[cC][sS][vV].[gG][zZ]}",
    }
    two = source.model_copy(update={"include": ("*.[ab]", "*.7")})
    assert auto_loader_options(two)["pathGlobFilter"] == "{*.[ab],*.7}"
    # The same files as a listing finds.
    json = auto_loader_options(RecordSettings(**{**ORDERS, "format": "json"}))["pathGlobFilter"][1:-1].split(",")
    names = ["a.ndjson", "A.JSONL.GZ", "a.json", "a.ndjson.gz", "a.json.bak"]
    assert [any(fnmatchcase(name, pattern) for pattern in json) for name in names] == [True] * 4 + [False]


def test_settings_are_read_from_a_file_as_the_docs_show_them(tmp_path: Path):
    page = (Path(__file__).parents[3] / "docs/records.md").read_text(encoding="utf-8")
    shown = page.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "lakeloop.yml").write_text(shown, encoding="utf-8")
    assert set(load_settings(tmp_path / "lakeloop.yml").records) == {"orders"}
