"""An iCalendar text (an invitation) in, its events as Markdown out: what, when, where, who."""

from __future__ import annotations

import re

from transformations.documents.extract import Extract
from transformations.documents.plain import escape_block_start, escape_inline

_SHOWN = {
    "SUMMARY": "",
    "DTSTART": "Start",
    "DTEND": "End",
    "DUE": "Due",
    "RRULE": "Repeats",
    "LOCATION": "Where",
    "ORGANIZER": "Organizer",
    "ATTENDEE": "With",
    "STATUS": "Status",
    "DESCRIPTION": "",
}
_LINE = re.compile(r"([A-Za-z-]+)((?:;[^:;\"]*(?:\"[^\"]*\"[^:;\"]*)*)*):(.*)")
_NAMED = re.compile(r";CN=\"?([^;:\"]+)", re.IGNORECASE)
_ESCAPED = re.compile(r"\\([nN,;\\])")
_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(?:T(\d\d)(\d\d)\d\d(Z?))?")
_ZONE = re.compile(r";TZID=\"?([^;:\"]+)", re.IGNORECASE)


def parse_calendar(text: str) -> Extract:
    """Return the title of the first event, and the properties of each event, one paragraph for each property."""
    title: str | None = None
    blocks: list[str] = []
    is_event = False
    for line in re.sub(r"\n[ \t]", "", text).split("\n"):
        match = _LINE.match(line)
        if not match:
            continue
        name, options, value = match.group(1).upper(), match.group(2), match.group(3)
        if name in ("BEGIN", "END"):
            is_event = name == "BEGIN" and value.strip().upper() in ("VEVENT", "VTODO", "VJOURNAL")
        elif is_event and name in _SHOWN:
            shown = _value(name, options, value)
            if name == "SUMMARY":
                title = title or shown
            label = _SHOWN[name]
            paragraphs = [" ".join(part.split()) for part in shown.split("\n") if part.strip()]
            blocks += [escape_block_start(escape_inline(f"{label}: {p}" if label else p)) for p in paragraphs]
    return Extract(title, "\n\n".join(blocks))


def _value(name: str, options: str, value: str) -> str:
    if name in ("DTSTART", "DTEND", "DUE"):
        time, zone = _TIME.match(value), _ZONE.search(options)
        if time:
            year, month, day, hour, minute, utc = time.groups()
            clock = f" {hour}:{minute}" if hour else ""
            return f"{year}-{month}-{day}{clock}{' UTC' if utc else f' {zone.group(1)}' if zone and clock else ''}"
    if name in ("ORGANIZER", "ATTENDEE"):
        person = _NAMED.search(options)
        address = re.sub(r"^mailto:", "", value, flags=re.IGNORECASE)
        return f"{person.group(1)} <{address}>" if person else address
    return _ESCAPED.sub(lambda match: "\n" if match.group(1) in "nN" else match.group(1), value)
