"""CSV and JSON as texts: Python's own readers say what each file holds, and what they refuse is refused here."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformations.tables.record_texts import (
    Dialect,
    JsonRecord,
    Refused,
    csv_records,
    json_records,
    type_of_kinds,
)


def _csv(content: str | bytes, **dialect: Any) -> list[list[str] | str]:
    raw = content if isinstance(content, bytes) else content.encode()
    stream = io.TextIOWrapper(io.BytesIO(raw), "utf-8-sig", errors="surrogateescape", newline="")
    return [r if isinstance(r, list) else str(r) for r in csv_records(stream.readline, Dialect(**dialect))]


def _json(text: str, *, wants_kinds: bool = False) -> list[Any] | str:
    found = json_records(text, names={"k": "k"}, wants_kinds=wants_kinds)
    if isinstance(found, Refused):
        return str(found)
    return [r.texts if isinstance(r, JsonRecord) else str(r) for r in found]


# Signs that mean something to a reader, and some that could be taken for line breaks.
_CELLS = st.text(alphabet='ab ,;"\n\r\t\\\u2028\x0b\x85\ufeff\x1fé', max_size=8)
_TABLES = st.lists(st.lists(_CELLS, min_size=2, max_size=4), min_size=1, max_size=6)


@given(_TABLES, st.sampled_from([",", ";", "\t"]), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_what_python_writes_as_csv_is_read_as_it_was(table, sep, end, quotes_all):
    sink = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if quotes_all else csv.QUOTE_MINIMAL
    # Before 3.13 Python quotes only those line breaks that it writes itself.
    end = end if quotes_all else "\r\n"
    csv.writer(sink, delimiter=sep, lineterminator=end, quoting=quoting).writerows(table)
    if sink.getvalue().startswith("\ufeff"):
        return  # a byte-order mark is none of the text
    # A line of blanks alone is passed over.
    kept = [row for row in table if not (sep in "\t" and not quotes_all and not "".join(row).strip())]
    assert [row for row in _csv(sink.getvalue(), sep=sep) if not isinstance(row, str)] == kept


@given(st.text(alphabet='a,"\n', max_size=30))
def test_any_text_is_read_as_python_reads_it_and_what_python_refuses_is_told_of(text):
    found = _csv(text)
    try:
        oracle = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error:
        assert any(isinstance(row, str) for row in found)
    else:
        assert found == oracle


@pytest.mark.parametrize(
    ("content", "records"),
    [
        ('a,b\n1,"Hello\n2,hacked\nbye"\n3,x\n', [["a", "b"], ["1", "Hello\n2,hacked\nbye"], ["3", "x"]]),
        ("\ufeffa,b\n1,2\n", [["a", "b"], ["1", "2"]]),
        ("\n  \na,b\n1,2\n\n", [["a", "b"], ["1", "2"]]),
        ('a,b\n1,5" pipe\n', [["a", "b"], ["1", '5" pipe']]),
    ],
)
def test_the_records_of_a_file(content, records):
    assert _csv(content) == records


@pytest.mark.parametrize(
    ("content", "dialect", "good", "told"),
    [
        ('a,b\n1,"x\n2,y\n3,z\n', {}, [], "lines 2 to 4: a quote that is opened and not closed"),
        ('a,b\n1,"x"y\n2,z\n', {}, [["2", "z"]], "line 2: not CSV"),
        ('a,b\n1,"x\n2,y\n', {"spans_lines": False}, [["2", "y"]], "line 2: a quote that is opened and not closed"),
        (b"a,b\n1,\xff\xe4\n2,z\n", {}, [["2", "z"]], r"line 2: bytes that are no text in the file's encoding: 1,\xff"),
        ("a||b\n1||\x1f\n2||z\n", {"sep": "||"}, [["2", "z"]], "U+001F"),
    ],
)
def test_what_is_no_record_is_told_with_its_line_and_the_rest_is_read(content, dialect, good, told):
    _header, *found = _csv(content, **dialect)
    assert [row for row in found if isinstance(row, list)] == good
    (refused,) = [row for row in found if isinstance(row, str)]
    assert told in refused


def test_other_dialects():
    assert _csv('a||b\n"1||1"||2\n', sep="||") == [["a", "b"], ["1||1", "2"]]
    assert _csv('a,b\n1,"x\\"y"\n', escape="\\") == [["a", "b"], ["1", 'x"y']]
    assert _csv("a,b\n'1,1', 2 \n", quote="'", trims_left=True, trims_right=True) == [["a", "b"], ["1,1", "2"]]
    assert _csv('a,b\n"1,2\n', quote="") == [["a", "b"], ['"1', "2"]]


_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
_OBJECTS = st.lists(st.dictionaries(st.text(max_size=3), _VALUES, max_size=4), min_size=1, max_size=4)


def _is_apart(one: dict[str, Any]) -> bool:
    """Whether no name of a record is there twice but for its case."""
    return len({name.lower() for name in one}) == len(one)


@given(_OBJECTS, st.sampled_from(["array", "one after another", "with blanks"]))
def test_what_python_writes_as_json_is_read_value_for_value(objects, layout):
    one = [json.dumps(o, ensure_ascii=bool(n % 2)) for n, o in enumerate(objects)]
    text = f"[{','.join(one)}]" if layout == "array" else ("" if layout == "one after another" else " \n").join(one)
    found = json_records(text, names={})
    assert isinstance(found, list)
    for record, wanted in zip(found, objects, strict=True):
        if not _is_apart(wanted):
            assert isinstance(record, Refused)
            assert "is there twice" in record.why
            continue
        assert isinstance(record, JsonRecord)
        for (name, text_of), (was, value) in zip(record.texts.items(), wanted.items(), strict=True):
            assert name == was
            if isinstance(value, str) or value is None:
                assert text_of == value
            else:
                assert repr(json.loads(text_of)) == repr(value)


@given(_OBJECTS, st.data())
def test_cut_or_changed_json_is_read_as_python_reads_it_or_refused(objects, data):
    text = json.dumps(objects)
    place = data.draw(st.integers(0, len(text) - 1))
    text = text[:place] + data.draw(st.sampled_from(["", "}", "]", ",", '"', "0", " "])) + text[place + 1 :]
    found = json_records(text, names={})
    try:
        oracle = json.loads(text)
    except json.JSONDecodeError:
        # Of several values after each other Python's reader takes none.
        if isinstance(found, list):
            decoder, at, values = json.JSONDecoder(), 0, 0
            while at < len(text):
                _, at = decoder.raw_decode(text, at)
                at += len(text[at:]) - len(text[at:].lstrip())
                values += 1
            assert values > 1
    else:
        assert isinstance(found, list)
        assert len(found) == (len(oracle) if isinstance(oracle, list) else 1)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"k":"1"}{"k":"2"}', [{"k": "1"}, {"k": "2"}]),
        ('{"K": 1.50e400, "n": [1, {"a": "x y"}]}', [{"k": "1.50e400", "n": '[1,{"a":"x y"}]'}]),
        ('{"k": 1234567890123456.7891}', [{"k": "1234567890123456.7891"}]),
        ('[{"k": null}, 5]', [{"k": None}, "not an object: 5"]),
        ("", []),
        ("[]", []),
    ],
)
def test_the_records_of_a_text(text, found):
    assert _json(text) == found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"k":1} junk', "no JSON"),
        ('{"k":1,}', "a comma with nothing after it"),
        ('[{"k":1},]', "a comma with nothing after it"),
        ('{"k":01}', "expected , or }"),
        ("{'k':1}", "expected a name in double quotes"),
        ('{"k":"a\tb"}', "Invalid control character"),
        ('{"k":1', "no JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"k":"\udcff"}', "bytes that are no text"),
    ],
)
def test_a_text_that_is_no_json_has_no_records(text, told):
    assert told in _json(text)


def test_an_object_that_says_two_things_is_refused_alone():
    assert _json('{"k":1,"k":2} {"k":3}') == ['the name \'k\' is there twice: {"k":1,"k":2}', {"k": "3"}]
    assert "'K' is there twice" in _json('{"k":1,"K":2}')[0]
    assert _json('{"Foo":1,"foo":2} {"k":3}') == ['the name \'foo\' is there twice: {"Foo":1,"foo":2}', {"k": "3"}]
    assert "'a' is there twice" in _json('{"k":{"a":1,"b":[{"a":1,"a":2}]}}')[0]
    assert "half of a character" in _json('{"k":"\\ud800"}')[0]


def test_a_new_column_has_the_type_that_holds_all_its_values():
    def kind(*values: str) -> str:
        kinds = set()
        for value in values:
            (record,) = json_records(f'{{"new": {value}}}', names={}, wants_kinds=True)
            kinds |= set(record.kinds.values())
        return type_of_kinds(kinds)

    assert kind("1", "-9223372036854775808") == "bigint"
    assert kind("1", "1.5", "1e300") == "double"
    assert kind("9007199254740993", "1.5") == "string"
    assert kind("0.12345678901234567891") == "string"
    assert kind("0.1") == "double"
    assert kind("true", "null") == "boolean"
    assert kind("true", "1") == kind('"1"') == kind("[1]") == kind("9223372036854775808") == "string"
