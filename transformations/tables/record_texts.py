"""Lines of CSV or JSON in, their records as texts, or why a piece is no record, out.

No text is changed: numbers keep their digits, nested JSON stays JSON (without the blanks between its tokens). A piece
that is no record is a `Refused` with the reason (for CSV also its first line), so that nothing that was read is lost.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

MOST_CHARACTERS = 64 << 20
"""The most characters of one record: a longer one is not held in memory."""
_SHOWN = 100_000
_BLANKS = re.compile(r"[ \t\n\r]*")
_STRING_OR_BLANKS = re.compile(r'("(?:[^"\\]|\\.)*")|[ \t\n\r]+')
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_INTEGER = re.compile(r"-?\d+")
# Beyond this a double cannot hold every integer.
_EXACT = 2**53


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written.

    Attributes:
        escape: the character that makes the next one plain; if it is the quote itself, a quote is written twice.
        spans_lines: whether a quoted value may have line breaks; if not, each line is a record, whatever its quotes.
    """

    sep: str = ","
    quote: str = '"'
    escape: str = '"'
    trims_left: bool = False
    trims_right: bool = False
    spans_lines: bool = True


@dataclass(frozen=True)
class Refused:
    """A piece that is no record: why, and its text."""

    why: str
    text: str = ""

    def __str__(self) -> str:
        more = len(self.text) - _SHOWN
        shown = self.text if more <= 0 else f"{self.text[:_SHOWN]} … and {more} characters more"
        return f"{self.why}: {shown}" if self.text else self.why


@dataclass(frozen=True)
class JsonRecord:
    """One object.

    Attributes:
        texts: name → text; None for null.
        kinds: name → kind of value, as `json_records` says; empty unless kinds were asked for.
    """

    texts: dict[str, str | None]
    kinds: dict[str, str]


class _Lines:
    """Iterates over lines with their line ends, as `csv` wants them; keeps those of the record that is being read."""

    def __init__(self, read_line: Callable[[int], str], sep: str) -> None:
        self._read_line, self._sep = read_line, sep
        self.number, self.size, self.taken = 0, 0, [""]
        self.begin()

    def begin(self) -> None:
        self.taken, self.size, self.first = [], 0, self.number + 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._read_line(MOST_CHARACTERS + 1)
        self.size += len(line)
        if self.size > MOST_CHARACTERS:
            raise _TooLongError
        if not line:
            raise StopIteration
        self.number += 1
        self.taken.append(line)
        return line if len(self._sep) == 1 else line.replace(self._sep, _JOINT)

    @property
    def text(self) -> str:
        return "".join(self.taken).rstrip("\r\n")


class _TooLongError(Exception):
    pass


# Stands for a separator of several characters, which `csv` cannot handle; a text that holds it is refused.
_JOINT = "\x1f"


def csv_records(read_line: Callable[[int], str], dialect: Dialect) -> Iterator[list[str] | Refused]:
    """The records of a CSV file, the header first. Blank lines are left out.

    Bytes that cannot be decoded must come as lone surrogates (errors="surrogateescape"): their record is refused.
    Quotes follow RFC 4180. A quote that is never closed takes all lines up to the end of the file, since each of them
    could be part of the value.
    """
    csv.field_size_limit(MOST_CHARACTERS)
    lines = _Lines(read_line, dialect.sep)
    sep = dialect.sep if len(dialect.sep) == 1 else _JOINT
    form: dict[str, Any] = {"delimiter": sep, "skipinitialspace": dialect.trims_left, "strict": True}
    if not dialect.quote:
        form |= {"quoting": csv.QUOTE_NONE}
    elif dialect.escape in ("", dialect.quote):
        form |= {"quotechar": dialect.quote, "doublequote": True}
    else:
        form |= {"quotechar": dialect.quote, "doublequote": False, "escapechar": dialect.escape}
    reader = csv.reader(lines, **form)
    while True:
        lines.begin()
        try:
            row = next(reader if dialect.spans_lines else csv.reader([next(lines)], **form))
        except StopIteration:
            return
        except _TooLongError:
            yield Refused(f"line {lines.first}: a record of more than {MOST_CHARACTERS:,} characters; not read further")
            return
        except csv.Error as error:
            span = f"line {lines.first}" if lines.number == lines.first else f"lines {lines.first} to {lines.number}"
            yield Refused(f"{span}: {_why(error)}", _shown(lines.text))
            continue
        text = lines.text
        if not text.strip():
            continue
        if _HALF_CHARACTER.search(text):
            yield Refused(f"line {lines.first}: bytes that are no text in the file's encoding", _shown(text))
        elif len(dialect.sep) > 1 and _JOINT in text:
            yield Refused(f"line {lines.first}: the sign U+001F, which cannot be read with such a sep", text)
        else:
            if len(dialect.sep) > 1:
                row = [value.replace(_JOINT, dialect.sep) for value in row]
            yield [value.rstrip(" \t") for value in row] if dialect.trims_right else row


def _why(error: Exception) -> str:
    if "unexpected end of data" in str(error):
        return "a quote that is opened and not closed (or escaped with nothing after it)"
    return f"not CSV ({error})"


def _shown(text: str) -> str:
    """`text` in a form that every engine can hold: bytes that could not be decoded are written as \\xNN."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") if text else text


def json_records(
    text: str, *, names: Mapping[str, str], wants_kinds: bool = False
) -> list[JsonRecord | Refused] | Refused:
    """The objects of a text: one, several after each other, or arrays of them.

    Args:
        text: a line, or a file. If a part of it is no JSON, the whole is refused.
        names: lower-case name → the name that is wanted: names match whatever their case.
        wants_kinds: whether to say, for names that are not in `names`, what their values are: "bigint", "long" (an
            integer that no double holds exactly), "double", "boolean" or "string".
    """
    found: list[JsonRecord | Refused] = []
    at = _skip(text, 0)
    try:
        if _HALF_CHARACTER.search(text):
            return Refused("bytes that are no text in the file's encoding", _shown(text.strip()))
        while at < len(text):
            if text[at] == "[":
                at = _skip(text, at + 1)
                while text[at : at + 1] != "]":
                    record, at = _element(text, at, names, wants_kinds)
                    found.append(record)
                    at = _skip(text, at)
                    if text[at : at + 1] == ",":
                        at = _skip(text, at + 1)
                        if text[at : at + 1] == "]":
                            raise _fault("a comma with nothing after it", text, at)
                    elif text[at : at + 1] != "]":
                        raise _fault("expected , or ]", text, at)
                at += 1
            else:
                record, at = _element(text, at, names, wants_kinds)
                found.append(record)
            at = _skip(text, at)
    except (json.JSONDecodeError, StopIteration) as error:
        return Refused(f"no JSON ({error})", _shown(text.strip()))
    except RecursionError:
        return Refused("JSON that is nested too deeply", text)
    return found


class _TwiceError(Exception):
    pass


def _element(text: str, at: int, names: Mapping[str, str], wants_kinds: bool) -> tuple[JsonRecord | Refused, int]:
    """The object at a place, and where it ends. A value that is no object, or an object with a name twice (whatever
    its case), is refused alone."""
    if text[at : at + 1] != "{":
        _, end = _lenient.raw_decode(text, at)
        return Refused("not an object", text[at:end]), end
    try:
        return _object(text, at, names, wants_kinds)
    except _TwiceError as error:
        _, end = _lenient.raw_decode(text, at)
        return Refused(str(error), text[at:end]), end


def _object(text: str, start: int, names: Mapping[str, str], wants_kinds: bool) -> tuple[JsonRecord | Refused, int]:
    texts: dict[str, str | None] = {}
    kinds: dict[str, str] = {}
    taken: set[str] = set()
    at = _skip(text, start + 1)
    is_half = False
    while text[at : at + 1] != "}":
        if text[at : at + 1] != '"':
            raise _fault("expected a name in double quotes", text, at)
        name, at = scanstring(text, at + 1, True)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise _fault("expected :", text, at)
        at = _skip(text, at + 1)
        value: str | None
        if text[at : at + 1] == '"':
            value, at = scanstring(text, at + 1, True)
            kind = "string"
        else:
            _, end = _strict.raw_decode(text, at)
            raw, at = text[at:end], end
            value = None if raw == "null" else _STRING_OR_BLANKS.sub(r"\1", raw) if raw[0] in "[{" else raw
            kind = ""
        wanted = names.get(name.lower(), name)
        if name.lower() in taken:
            raise _TwiceError(f"the name {name!r} is there twice")
        taken.add(name.lower())
        texts[wanted] = value
        is_half = is_half or bool(_HALF_CHARACTER.search(name) or (value and _HALF_CHARACTER.search(value)))
        if wants_kinds and value is not None and name.lower() not in names:
            kinds[wanted] = kind or _kind(value)
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
            if text[at : at + 1] == "}":
                raise _fault("a comma with nothing after it", text, at)
        elif text[at : at + 1] != "}":
            raise _fault("expected , or }", text, at)
    if is_half:
        return Refused("half of a character (an escape \\ud800 to \\udfff alone)", text[start : at + 1]), at + 1
    return JsonRecord(texts, kinds), at + 1


def _skip(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    return match.end() if match else at


def _fault(why: str, text: str, at: int) -> json.JSONDecodeError:
    return json.JSONDecodeError(why, text, at)


def _once(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise _TwiceError(f"the name {twice!r} is there twice")


# Numbers stay texts, since Python's own do not hold them all.
_strict = json.JSONDecoder(object_pairs_hook=_once, parse_float=str, parse_int=str, parse_constant=str)
_lenient = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)


def _kind(raw: str) -> str:
    if raw in ("true", "false"):
        return "boolean"
    if raw[0] in "[{":
        return "string"
    if _INTEGER.fullmatch(raw):
        value = int(raw) if len(raw) < 21 else _EXACT << 20
        return "bigint" if abs(value) <= _EXACT else "long" if -(2**63) <= value < 2**63 else "string"
    try:
        is_exact = Decimal(raw) == Decimal(repr(float(raw)))
    except (ArithmeticError, ValueError):
        return "string"
    return "double" if is_exact or raw in ("NaN", "Infinity", "-Infinity") else "string"


def type_of_kinds(kinds: set[str]) -> str:
    """The type that holds every value of these kinds; "string" if no other does."""
    if kinds <= {"bigint", "long"}:
        return "bigint"
    if kinds <= {"bigint", "double"}:
        return "double"
    return "boolean" if kinds == {"boolean"} else "string"
