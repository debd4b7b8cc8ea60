"""A schedule in, a sentence for whatever of it Quartz or Java would refuse out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
# Name, lowest, highest, names of values, and what may stand there besides.
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...], str], ...] = (
    ("seconds", 0, 59, (), r"(?!)"),
    ("minutes", 0, 59, (), r"(?!)"),
    ("hours", 0, 23, (), r"(?!)"),
    ("day of month", 1, 31, (), r"\?|L(-\d+)?|LW|\d+W"),
    ("month", 1, 12, _MONTHS, r"(?!)"),
    ("day of week", 1, 7, _DAYS, r"\?|L|\w+L|\w+#[1-5]"),
    ("year", 1970, 2199, (), r"(?!)"),
)
_PART = re.compile(r"(?P<low>\*|\w+)(-(?P<high>\w+))?(/(?P<step>\d+))?")


def cron_problems(expression: str) -> Iterator[str]:
    """What is wrong with a Quartz expression: 6 fields from seconds to the day of the week, or 7 with a year."""
    values = expression.upper().split()
    if not 6 <= len(values) <= 7:
        yield f"the cron expression {expression!r} has {len(values)} fields; Quartz needs 6, or 7 with a year"
        return
    for (name, low, high, names, special), value in zip(_FIELDS, values, strict=False):
        for part in value.split(","):
            if not re.fullmatch(special, part) and not _is_range(part, low, high, names):
                yield f"the cron expression {expression!r} has {part!r} as {name}"
    if (values[3] == "?") == (values[5] == "?"):
        yield f"the cron expression {expression!r} must have '?' as either the day of month or the day of week"


def time_zone_problems(name: str) -> Iterator[str]:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        yield f"{name!r} is no time zone"


def _is_range(part: str, low: int, high: int, names: tuple[str, ...]) -> bool:
    match = _PART.fullmatch(part)
    if not match:
        return False
    ends = [match["low"], match["high"] or match["low"]]
    numbers = [low + names.index(end) if end in names else end for end in ends if end != "*"]
    return all(str(number).isdecimal() and low <= int(number) <= high for number in numbers) and match["step"] != "0"
