"""A number and Excel's format code in, the number as a reader of the sheet sees it, but with all of its digits, out."""

from __future__ import annotations

import re
from decimal import Decimal

# In order: literals in quotes, escaped characters, currencies, what only lays out or colours, digits, other characters.
_TOKEN = re.compile(
    r'"([^"]*)"|\\(.)|\[\$([^\]-]*)[^\]]*\]|\[[^\]]*\]|[_*].|([0#?][0#?,. ]*[0#?]|[0#?.][0#?,.]*)|(.)', re.DOTALL
)
_PIECE = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]|.', re.DOTALL)
_CONDITION = re.compile(r"\[[<>=]")
_LITERAL = frozenset("$-+/():!^&'~{}<>= %€£¥¢₹")


def shown(value: float | int, code: str) -> str:
    """`value` with the signs, zeros and groups of `code`.

    Digits that a format would round away are kept. If the format is not one of plain numbers (dates, fractions, powers,
    numbers in thousands), the number is returned as `general` writes it.

    >>> shown(0.075, "0.0%"), shown(1234.5, '#,##0.00 "EUR"'), shown(7, "0000"), shown(2.345, "0.0")
    ('7.5%', '1,234.50 EUR', '0007', '2.345')
    """
    plain = general(value)
    if code in ("General", "@", "") or not plain.lstrip("-").replace(".", "", 1).isdigit() or _CONDITION.search(code):
        return plain
    sections = [""]
    for piece in _PIECE.findall(code):
        sections = [*sections, ""] if piece == ";" else [*sections[:-1], sections[-1] + piece]
    is_negative, is_zero, section = value < 0, False, sections[0]
    if is_negative and len(sections) > 1 and sections[1]:
        is_negative, section = False, sections[1]
    elif value == 0 and len(sections) > 2 and sections[2]:
        is_zero, section = True, sections[2]
    parts: list[tuple[bool, str]] = []
    for quoted, escaped, currency, digits, other in _TOKEN.findall(section):
        if other and other not in _LITERAL:
            return plain  # letters of a date, a power, a fraction of text
        if digits:
            parts.append((True, digits))
        elif quoted or escaped or currency or other:
            parts.append((False, quoted or escaped or currency or other))
    places = [at for at, (is_digits, _) in enumerate(parts) if is_digits]
    if is_zero and not any("0" in parts[at][1] for at in places):
        return "0"  # an accountant's "-", with blanks for digits
    if not places or "/" in [text for is_digits, text in parts if not is_digits]:
        return plain
    percents = sum(text.count("%") for is_digits, text in parts if not is_digits)
    number = abs(Decimal(plain)) * 100**percents
    if len(places) > 1:
        filled = _filled(parts, number)
        return plain if filled is None else ("-" if is_negative else "") + filled
    pattern = parts[places[0]][1]
    if pattern.endswith(","):
        return plain
    parts[places[0]] = (True, ("-" if is_negative else "") + _number(number, pattern))
    return "".join(text for _, text in parts).strip()


def general(value: float | int) -> str:
    """A number without a format: at most 15 significant digits, so that no binary noise shows."""
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _number(number: Decimal, pattern: str) -> str:
    whole, _, fraction = pattern.partition(".")
    text = f"{number:f}"
    before, _, after = text.partition(".")
    after = after.rstrip("0").ljust(fraction.count("0"), "0")
    before = before.lstrip("0").rjust(max(whole.count("0"), 1), "0")
    if "," in whole:
        before = re.sub(r"(?<=\d)(?=(?:\d{3})+$)", ",", before)
    return f"{before}.{after}" if after else before


def _filled(parts: list[tuple[bool, str]], number: Decimal) -> str | None:
    """A whole number with signs between its digits, such as 012-34-5678; None if it is no whole number."""
    if number != number.to_integral_value() or any(is_digits and set(text) & set(".,") for is_digits, text in parts):
        return None
    left = f"{number:f}".partition(".")[0]
    written: list[str] = []
    places = [at for at, (is_digits, _) in enumerate(parts) if is_digits]
    for at in range(len(parts) - 1, -1, -1):
        is_digits, text = parts[at]
        if not is_digits:
            written.append(text)
            continue
        width = len(left) if at == places[0] else len(text)
        taken = left[len(left) - width :] if width <= len(left) else left
        left = left[: len(left) - len(taken)]
        written.append(taken.rjust(text.count("0"), "0"))
    return "".join(reversed(written)).strip()
