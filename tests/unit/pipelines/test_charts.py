"""Numbers in, charts in the colours of their page out."""

from __future__ import annotations

import re

import pytest

from pipelines.reporting import charts


def test_charts_use_only_the_pages_colours_and_tell_their_numbers():
    svg = charts.stacked_bars("c", labels=["$a$ & <b>"], series={"one": [1.5], "two": [250]}, unit="s", title="T")
    assert set(re.findall(r"#[0-9a-f]{6}", svg)) == set()
    assert "var(--series-2)" in svg
    assert "one 1.5, two 250" in svg
    assert "$a$ &amp; &lt;b&gt;" in svg


@pytest.mark.parametrize(
    "values", [[5.0], [3.0, 3.0, 3.0], [float(v) for v in range(1000)]], ids=["one", "same", "many"]
)
def test_histogram_takes_any_values(values):
    assert charts.histogram("h", values=values, marks={"p50": values[0]}, unit="ms", title="T").startswith("<svg")
