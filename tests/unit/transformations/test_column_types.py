"""Types as Spark writes them: read, named in one way, and compared by what they hold."""

from __future__ import annotations

import pyarrow as pa
import pytest

from transformations.errors import ConfigurationError
from transformations.tables.column_types import arrow_type, canonical_type, widens, wider_integers


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (" LONG ", "bigint"),
        ("Integer", "int"),
        ("decimal", "decimal(10,0)"),
        ("NUMERIC( 12 , 2 )", "decimal(12,2)"),
        ("array< struct<a: int, b: map<string, double>> >", "array<struct<a:int,b:map<string,double>>>"),
    ],
)
def test_a_type_has_one_name_and_a_column_of_it_can_be_made(text, canonical):
    assert canonical_type(text) == canonical
    assert canonical_type(canonical) == canonical
    pa.table({"c": pa.array([None], arrow_type(canonical))})


@pytest.mark.parametrize(
    "text", ["", "varchr", "decimal(40,2)", "decimal(2,4)", "array<int,int>", "struct<a>", "map<int>"]
)
def test_what_is_no_type_is_refused_with_those_that_are(text):
    with pytest.raises(ConfigurationError, match="is not the type of a column"):
        canonical_type(text)


def test_wider_means_that_every_value_fits():
    wider = {("tinyint", "bigint"), ("int", "double"), ("float", "double"), ("int", "decimal(12,2)")}
    wider |= {("decimal(10,2)", "decimal(12,2)"), ("decimal(10,2)", "decimal(12,4)"), ("bigint", "decimal(20,0)")}
    assert all(widens(narrow, wide) and not widens(wide, narrow) for narrow, wide in wider)
    neither = {("bigint", "double"), ("int", "string"), ("decimal(10,2)", "decimal(10,4)"), ("int", "decimal(9,0)")}
    assert not any(widens(a, b) or widens(b, a) for a, b in neither)
    assert not widens("int", "int")
    assert wider_integers("smallint") == ("int", "bigint")
    assert wider_integers("string") == ()
