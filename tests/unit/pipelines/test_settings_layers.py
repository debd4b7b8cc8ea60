"""Settings are input: bounded, never believed from afar, and their secrets are shown nowhere."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipelines.settings import redaction
from pipelines.settings.layers import read_yaml, trust
from pipelines.settings.load import load_settings
from pipelines.settings.redaction import SafeFormatter, printable, redacted, safe
from transformations.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAKELOOP_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(redaction, "_secrets", set())


def test_a_file_above_is_used_when_it_is_named_or_trusted_and_not_before(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PRIVATE_KEY", "the private key")
    planted = tmp_path / "lakeloop.yml"
    planted.write_text("language_model: {base_url: 'http://evil.example.test', api_key: '${PRIVATE_KEY}'}\n")
    below = tmp_path / "work" / "here"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    with pytest.raises(ConfigurationError, match="nobody has trusted it") as refused:
        load_settings()
    assert f"lakeloop trust {tmp_path}" in str(refused.value)
    assert load_settings(planted).root == tmp_path
    trust(planted)
    assert load_settings().root == tmp_path
    (tmp_path / "work" / "lakeloop.yml").write_text("{}")
    with pytest.raises(ConfigurationError, match="nobody has trusted it"):  # trust is of one file, not of what is near
        load_settings()


def test_the_file_of_the_folder_itself_is_used(tmp_path: Path, monkeypatch):
    (tmp_path / "lakeloop.yml").write_text("landing: files\n")
    monkeypatch.chdir(tmp_path)
    assert load_settings().landing == "files"


def test_a_variable_serves_every_setting_and_its_value_is_shown_nowhere(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("STORE_PASSWORD", "correct horse")
    file = tmp_path / "lakeloop.yml"
    file.write_text(
        "spark: {conf: {secret.key: '${STORE_PASSWORD}', kept: '$${STORE_PASSWORD}', own: '${a.b}'}}\n"
        "language_model: {base_url: 'https://me:${STORE_PASSWORD}@models.example/v1'}\n"
        "ingest: {include: ['${STORE_PASSWORD}']}\n"
    )
    settings = load_settings(file)
    assert settings.spark.conf == {
        "secret.key": "correct horse",
        "kept": "${STORE_PASSWORD}",
        "own": "${a.b}",
    }
    assert settings.ingest.include == ("correct horse",)
    assert "correct horse" not in redacted(repr(settings))


@pytest.mark.parametrize(
    ("given_text", "said"),
    [
        ("index: {secret: hunter2}", "index.secret must name an environment variable"),
        ("index: {uri: 'postgresql://ada:hunter2@db/x'}", "it holds a password: name that as index.secret"),
        ("index: {uri: 'https://db/x?token=hunter2'}", "it holds a password: name that as index.secret"),
        ("language_model: {api_key: [a]}", "language_model.api_key must name an environment variable"),
        ("records: {a: {location: '${NOT_SET}'}}", "records.a.location names the environment variable ${NOT_SET}"),
    ],
)
def test_a_secret_is_a_reference_to_a_variable_that_is_set(tmp_path: Path, given_text: str, said: str):
    file = tmp_path / "lakeloop.yml"
    file.write_text(given_text)
    with pytest.raises(ConfigurationError, match=re.escape(said)) as refused:
        load_settings(file)
    assert "hunter2" not in str(refused.value)


GROWING = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(8)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GROWING, "values once its aliases are followed"),
        ("a: &a [*a]", "refers to itself"),
        ("a: " + "[" * 5_000, "nested deeper"),
        ("index: {name: a, name: b}", "the key 'name' stands twice"),
        ("? [a, b]\n: 1", "a key must be a text"),
        ("a: {{x}}", "a key must be a text"),
        ("a: 2024-99-99", "not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("a: [", "not valid YAML"),
        ("- a", "must hold keys and values"),
        ("x" * 4_000_001, "is larger than"),
        ("index: {name: " + "x" * 100_000 + "}", "index.name"),
        ("x" * 1_000 + ": 1", "unknown setting"),
        ("ingest: {include: [" + ", ".join(map(str, range(5_000))) + "]}", "and 4990 more"),
        ("ingest: {max_file_mb: {" + ", ".join(f"a{n}: b" for n in range(5_000)) + "}}", "a dict of 5,000"),
    ],
)
def test_settings_that_are_none_are_refused_in_a_few_words(tmp_path: Path, text: str, said: str):
    file = tmp_path / "lakeloop.yml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(said)) as refused:
        load_settings(file)
    assert len(str(refused.value)) < 3_000


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    file = tmp_path / "lakeloop.yml"
    file.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigurationError, match="it is no UTF-8"):
        load_settings(file)


@pytest.mark.parametrize("override", ["index.name={{x}}", "=x", "index.name", ".".join("a" * 200) + "=1", "a={b: [}"])
def test_an_override_that_is_none_is_a_configuration_error(override: str):
    with pytest.raises(ConfigurationError, match=r"--set|unknown setting|nested deeper"):
        load_settings(overrides=[override])


def test_layers_are_merged_and_an_empty_mapping_empties(tmp_path: Path):
    file = tmp_path / "lakeloop.yml"
    file.write_text("index: {name: docs, options: {base_rows: 7, candidates: 8}}\n")
    more = load_settings(file, overrides=["index.options.base_rows=9"])
    assert more.index.options == {"base_rows": "9", "candidates": "8"}
    none = load_settings(file, overrides=["index.options={}"])
    assert (none.index.name, none.index.options) == ("docs", {})


def test_a_variable_that_is_no_yaml_is_named(monkeypatch):
    monkeypatch.setenv("LAKELOOP__INDEX__NAME", "{{x}}")
    with pytest.raises(ConfigurationError, match="LAKELOOP__INDEX__NAME"):
        load_settings()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda of: st.lists(of, max_size=4) | st.dictionaries(st.text(max_size=8), of, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_yaml_is_read_as_the_library_reads_it(value: object):
    text = yaml.safe_dump(value, allow_unicode=True)
    assert read_yaml(text, of="it") == yaml.safe_load(text)


def test_merge_keys_and_aliases_work():
    assert read_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", of="it") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


def test_passwords_in_addresses_are_hidden():
    text = "no server at https://ada:hunter2@models.example/v1, nor pg+psycopg://ada:p%40ss@db:5432/x; see https://a.b:80/c"
    assert redacted(text) == (
        "no server at https://ada:***@models.example/v1, nor pg+psycopg://ada:***@db:5432/x; see https://a.b:80/c"
    )


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://ada@db/x?password=hunter2&sslmode=require", "postgresql://ada@db/x?password=***&sslmode=require"),
        ("https://h.example/v1?Access_Token=hunter2#top", "https://h.example/v1?Access_Token=***#top"),
        ("jdbc:sqlserver://h;user=ada;Password=hunter2;encrypt=true", "jdbc:sqlserver://h;user=ada;Password=***;encrypt=true"),
        ("https://s3.example/a?X-Amz-Signature=hunter2", "https://s3.example/a?X-Amz-Signature=***"),
        ("https://h.example/?max_tokens=5&page=2", "https://h.example/?max_tokens=5&page=2"),
    ],
)  # fmt: skip
def test_passwords_and_tokens_behind_an_address_are_hidden(address: str, shown: str):
    assert redacted(f'no server at "{address}"') == f'no server at "{shown}"'
    facts = {"warnings": [f'no server at "{address}"\nnext']}
    assert json.loads(redacted(json.dumps(facts))) == {"warnings": [f'no server at "{shown}"\nnext']}


@pytest.mark.parametrize("secret", ['cor"rect', "back\\slash", "pässwörd", "two\nlines", "a b/c@d"])
def test_a_secret_is_hidden_in_each_form_that_a_text_gives_it(secret: str):
    redaction.note_secret(secret)
    facts = {"error": f"wrong: {secret}."}
    for is_ascii in (True, False):
        assert json.loads(redacted(json.dumps(facts, ensure_ascii=is_ascii))) == {"error": "wrong: ***."}
    assert redacted(repr([secret]))[2:-2] == "***"
    assert redacted(f"https://h/{quote(secret, safe='')}/x?q={quote_plus(secret)}") == "https://h/***/x?q=***"


@given(st.text(st.characters(codec=None)))
def test_nothing_that_is_printed_steers_a_terminal(text: str):
    shown = printable(text)
    shown.encode("utf-8")
    assert all(c in "\t\n" or unicodedata.category(c) != "Cc" for c in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


def test_an_escape_can_be_read_as_one():
    assert safe("a\x1b[31mred\x9b0m\x07\r\u202ecod.exe") == r"a\x1b[31mred\x9b0m\x07\x0d\u202ecod.exe"


def test_what_libraries_tell_goes_to_the_file_and_not_to_the_screen(tmp_path: Path):
    program = (
        "import logging; from pathlib import Path; from pipelines.cli.options import log_to;"
        f"from pipelines.settings.sections import Settings; log_to(Settings(root=Path({str(tmp_path)!r})));"
        "logging.error('a story of a library'); logging.getLogger('py4j').error('another')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    told = (tmp_path / "logs" / "lakeloop.log").read_text()
    assert told.count("a story of a library") == told.count("another") == 1


def test_a_name_forges_no_record_of_the_log_and_a_traceback_tells_no_secret(monkeypatch):
    redaction.note_secret("hunter2hunter2")
    formatter = SafeFormatter("%(levelname)s %(message)s")
    try:
        raise ValueError("the password hunter2hunter2 is wrong")
    except ValueError:
        story = sys.exc_info()
    record = logging.LogRecord("x", logging.INFO, "", 1, "read %s", ("a\nERROR forged\x1b[2J",), story)
    lines = formatter.format(record).split("\n")
    assert lines[:2] == ["INFO read a", r"    ERROR forged\x1b[2J"]
    assert all(line.startswith("    ") for line in lines[1:])
    assert lines[-1] == "    ValueError: the password *** is wrong"
