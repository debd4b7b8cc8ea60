"""Numbers as a sheet shows them, and never with fewer digits than they have."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transformations.documents.number_format import general, shown


@pytest.mark.parametrize(
    ("value", "code", "expected"),
    [
        (0.075, "0.0%", "7.5%"),
        (0.0755, "0%", "7.55%"),
        (1234.5, "#,##0.00", "1,234.50"),
        (1234567, "#,##0", "1,234,567"),
        (7, "00000", "00007"),
        (-5.5, "0.00;[Red](0.00)", "(5.50)"),
        (-5.5, "0.00", "-5.50"),
        (0, '0;-0;"none"', "0"),
        (0, '_($* #,##0_);_($* (#,##0);_($* "-"??_);_(@_)', "0"),
        (0, '0;-0;"nil" 0.0', "nil 0.0"),
        (12.5, "[$€-407] #,##0.00", "€ 12.50"),
        (12.5, '_("$"* #,##0.00_)', "$12.50"),
        (5, '0 "pieces"', "5 pieces"),
        (5, r"0\ \k\g", "5 kg"),
        (12345678, "000-00-0000", "012-34-5678"),
        (0.5, "# ?/?", "0.5"),
        (1234, "0.00E+00", "1234"),
        (1234567, "0,", "1234567"),
        (1e300, "0.00", "1e+300"),
        (0.1 + 0.2, "General", "0.3"),
        (44000, "yyyy-mm-dd", "44000"),
        (150, '[>100]"many";0', "150"),
        (float("inf"), "0.00", "inf"),
    ],
)
def test_a_number_is_shown_as_its_format_says_with_all_of_its_digits(value: float, code: str, expected: str) -> None:
    assert shown(value, code) == expected


@given(
    st.one_of(st.integers(-(10**12), 10**12), st.floats(-1e9, 1e9)),
    st.one_of(st.text(alphabet='0#?.,;%"\\[]$€-()_* eEyd/@', max_size=14), st.text(max_size=8)),
)
@example(-0.0, "0")
def test_no_format_raises_or_hides_a_digit(value: float, code: str) -> None:
    told = shown(value, code)
    if re.fullmatch(r"[0#,]*0(\.[0#]*)?", code) and "e" not in general(value) and "," not in code[-1:]:
        assert Decimal(told.replace(",", "")) == Decimal(general(value))
