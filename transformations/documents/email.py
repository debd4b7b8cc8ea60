"""One e-mail message in, its subject and its text as Markdown out. Attachments are named, not opened.

The parts of a message are read as a mail program shows them: one form of an alternative, every other text, and the
messages inside it (forwarded, or of a digest), up to 20 levels deep.
"""

from __future__ import annotations

from datetime import datetime
from email import policy
from email.header import decode_header, make_header
from email.message import EmailMessage, Message
from email.parser import BytesParser
from typing import NamedTuple, cast

from transformations.documents.calendar import parse_calendar
from transformations.documents.decode import decode_declared
from transformations.documents.extract import Extract, RefusedDocumentError
from transformations.documents.html import parse_html
from transformations.documents.plain import escape_block_start, escape_inline, parse_plain

_IDENTIFYING = ("From", "Date", "Subject", "Message-ID")
_MAX_DEPTH = 20
_MAX_HEADING = 6
# A plain text with less than this share of the words of the HTML beside it only says that there is HTML.
_FULL_SHARE = 0.25


class _Body(NamedTuple):
    """What a mail program shows of a message: blocks of Markdown, and the names of the attachments."""

    blocks: list[str]
    attached: list[str]


def parse_email(content: bytes) -> Extract:
    """Return the subject, the text, and from, to, date and attachments.

    The text begins with the subject as its heading and ends with the names of the attachments. The subject of a
    message inside is a heading one level deeper.

    Raises:
        RefusedDocumentError: `unparseable` (no header of a message), `wrong_encoding` or `not_text` (a body that is
            neither UTF-8 nor in the charset that it declares, and has no other form), `empty` (no subject, no text).
    """
    message = BytesParser(policy=policy.default).parsebytes(content)
    if not any(_header(message, name) for name in _IDENTIFYING):
        raise RefusedDocumentError("unparseable: no message: none of the headers From, Date, Subject, Message-ID")
    subject = _header(message, "Subject")
    body = _shown(message, 1, 1)
    if not subject and not body.blocks:
        raise RefusedDocumentError("empty: a message without subject and text; attachments are not opened")
    blocks = [f"# {escape_inline(subject)}"] if subject else []
    blocks += body.blocks
    blocks += [f"Attachments: {escape_inline(', '.join(body.attached))}"] if body.attached else []
    date = _date(message)
    metadata = {
        "author": _header(message, "From"),
        "to": _header(message, "To"),
        "cc": _header(message, "Cc"),
        "created_at": date.isoformat() if date else None,
        "message_id": _header(message, "Message-ID"),
        "attachments": ", ".join(body.attached),
    }
    return Extract(subject or None, "\n\n".join(blocks), metadata)


def _shown(part: Message, depth: int, level: int) -> _Body:
    kind, subtype = part.get_content_maintype(), part.get_content_subtype()
    if depth > _MAX_DEPTH:
        return _Body([], [f"{kind}/{subtype} in more than {_MAX_DEPTH} others"])
    if kind == "multipart":
        parts = [each for each in _parts(part) if isinstance(each, Message)]
        if subtype == "alternative":
            return _alternative(_readable(parts, depth + 1, level))
        if subtype == "encrypted":
            return _Body([], ["an encrypted text"])
        shown = [_shown(each, depth + 1, level) for each in parts]
        return _Body([b for each in shown for b in each.blocks], [a for each in shown for a in each.attached])
    if kind == "message" and subtype in ("rfc822", "global"):
        inner = [_enclosed(each, depth + 1, level + 1) for each in _parts(part) if isinstance(each, Message)]
        return _Body([b for each in inner for b in each.blocks], [a for each in inner for a in each.attached])
    is_attached = part.get_content_disposition() == "attachment" or (kind == "text" and _file_name(part) is not None)
    if subtype == "calendar" or (kind == "text" and not is_attached) or (kind == "message" and not is_attached):
        markdown = _markdown(part)
        return _Body([markdown.strip("\n")] if markdown.strip() else [], [])
    return _Body([], [_file_name(part) or "without a name"])


def _readable(parts: list[Message], depth: int, level: int) -> list[tuple[Message, _Body]]:
    """The forms of a text; a form that cannot be read is listed as an attachment.

    Raises:
        RefusedDocumentError: one could not be read, and none of the others has a text.
    """
    shown, refused = [], []
    for part in parts:
        try:
            shown.append((part, _shown(part, depth, level)))
        except RefusedDocumentError as error:
            refused.append(error)
            shown.append((part, _Body([], [f"{part.get_content_type()} that cannot be read"])))
    if refused and not any(body.blocks for _, body in shown):
        raise refused[0]
    return shown


def _alternative(shown: list[tuple[Message, _Body]]) -> _Body:
    """One of several forms of the same text: the plain one, or another if that is empty or a mere hint at the HTML."""
    texts = {part.get_content_subtype(): body for part, body in shown if body.blocks}
    attached = [name for _, body in shown for name in body.attached]
    plain = texts.pop("plain", None)
    calendar = texts.pop("calendar", None)
    rich = max(texts.values(), key=_words, default=None)
    best = plain if plain and (rich is None or _words(plain) >= _FULL_SHARE * _words(rich)) else rich
    return _Body([*(best.blocks if best else []), *(calendar.blocks if calendar else [])], attached)


def _words(body: _Body) -> int:
    return sum(len(block.split()) for block in body.blocks)


def _enclosed(message: Message, depth: int, level: int) -> _Body:
    body = _shown(message, depth, level)
    subject = _header(message, "Subject") or "A message"
    headers = [f"{name}: {value}" for name in ("From", "To", "Date") if (value := _header(message, name))]
    heading = f"{'#' * min(level, _MAX_HEADING)} {escape_inline(subject)}"
    about = [escape_block_start(escape_inline(", ".join(headers)))] if headers else []
    return _Body([heading, *about, *body.blocks], body.attached)


def _markdown(part: Message) -> str:
    payload = part.get_payload(decode=True)
    if payload is None:  # the report of a mail server, which is blocks of headers
        return parse_plain("\n\n".join(str(each).strip() for each in _parts(part))).markdown
    text, _ = decode_declared(cast(bytes, payload), part.get_content_charset())
    subtype = part.get_content_subtype()
    parse = {"html": parse_html, "calendar": parse_calendar}.get(subtype, parse_plain)
    return parse("\n".join(line.rstrip() for line in text.splitlines())).markdown if text.strip() else ""


def _parts(part: Message) -> list[object]:
    payload = part.get_payload()
    return list(payload) if isinstance(payload, list) else []


def _header(message: Message, name: str) -> str:
    """A header on one line, as Python's parser reads it; if the parser fails, what is written there."""
    try:
        value = " ".join(str(message[name] or "").split())
    except Exception:  # its parser of structured headers fails in many ways
        value = ""
    if value:
        return value
    raw = next((str(v) for k, v in message.raw_items() if k.lower() == name.lower()), "")
    try:
        return " ".join(str(make_header(decode_header(raw))).split())
    except Exception:  # an encoded word names an encoding that does not exist
        return " ".join(raw.split())


def _date(message: EmailMessage) -> datetime | None:
    try:
        return cast("datetime | None", message["Date"].datetime)
    except Exception:  # none, or one that is no date
        return None


def _file_name(part: Message) -> str | None:
    try:
        name = part.get_filename()
    except Exception:  # as in `_header`
        return "without a readable name"
    return " ".join(name.split()) if name else None
