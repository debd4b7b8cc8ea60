"""What index.options may hold, by store: right values are taken as meant, wrong ones named; no store is asked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from pipelines.settings.sections import Settings
from pipelines.stores import STORES, adapter_named, open_store
from pipelines.stores.place import parse_options
from transformations.errors import ConfigurationError

PAGE = Path(__file__).resolve().parents[3] / "docs/vector-index.md"
ADDRESSES = {"pgvector": "postgresql://me@db.example/x", "databricks": "databricks://search/main.rag"}
OPTIONS = [(store, name) for store in STORES for name in adapter_named(store).options.model_fields]


def opened(store: str, tmp_path: Path, **options: str) -> None:
    uri = ADDRESSES.get(store.removesuffix("_delta_sync"), "index")
    open_store(Settings(root=tmp_path, index={"store": store, "uri": uri, "options": options}), dimension=16).close()


@pytest.mark.parametrize("store", STORES)
def test_every_store_declares_its_options(store: str):
    model = adapter_named(store).options
    assert issubclass(model, BaseModel)
    assert (model.model_config["frozen"], model.model_config["extra"]) == (True, "forbid")
    assert all(field.description and not field.is_required() for field in model.model_fields.values())


@pytest.mark.parametrize("store", STORES)
def test_a_store_opens_with_its_defaults_written_out(store: str, tmp_path: Path):
    model = adapter_named(store).options
    written = {name: str(field.default) for name, field in model.model_fields.items()}
    assert parse_options(store, written, model=model) == model()
    opened(store, tmp_path, **written)


@settings(max_examples=40)
@given(
    option=st.sampled_from(OPTIONS), value=st.one_of(st.text(max_size=8), st.integers().map(str), st.floats().map(str))
)
def test_a_value_is_taken_as_it_is_meant_or_named(option: tuple[str, str], value: str):
    """A number that is taken is the number that was written; every refusal says which, of what, and what it takes."""
    store, name = option
    model = adapter_named(store).options
    try:
        taken, refused = getattr(parse_options(store, {name: value}, model=model), name), None
    except ConfigurationError as error:
        taken, refused = None, error
    if refused is None:
        assert taken == (value if isinstance(taken, str) else float(value.replace("_", "")))
    else:
        field = model.model_fields[name]
        assert str(refused).startswith(f"index.options.{name} of {store} is {value!r}: ")
        assert f"It says {field.description} (default: {field.default!r})." in str(refused)
        assert refused.exit_code == 5


@settings(max_examples=40)
@given(option=st.sampled_from(OPTIONS), place=st.integers(0, 30))
def test_an_unknown_option_is_named_with_the_one_that_was_meant(option: tuple[str, str], place: int):
    store, name = option
    wrong = name[: place % len(name)] + "x" + name[place % len(name) :]
    with pytest.raises(ConfigurationError, match=f"unknown option of {store} '{wrong}'. Did you mean .*'{name}'"):
        parse_options(store, {wrong: "1"}, model=adapter_named(store).options)


@pytest.mark.parametrize(("store", "name"), [(s, n) for s, n in OPTIONS if n == "timeout_seconds"])
@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
def test_no_store_waits_for_a_time_that_is_none(store: str, name: str, value: str, tmp_path: Path):
    with pytest.raises(ConfigurationError, match=rf"index\.options\.{name} of {store} is '{value}'.*default: 60"):
        opened(store, tmp_path, **{name: value})


def test_the_page_lists_the_options_of_every_store():
    written = re.findall(r"^\| (\w+) \| `(\w+)` \| `(.*?)` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    declared = {
        (store, name, str(field.default), field.description)
        for store in STORES
        for name, field in adapter_named(store).options.model_fields.items()
    }
    assert {(s, n, "" if default == "empty" else default, text) for s, n, default, text in written} == declared
    assert len(written) == len(declared)
