"""One e-mail message in, its subject and its text as Markdown out. Attachments are named, not opened."""

from __future__ import annotations

from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from typing import cast

from transformations.documents.extract import Extract, RefusedDocumentError
from transformations.documents.html import parse_html
from transformations.documents.plain import escape_inline, parse_plain

_ADDRESSED = ("From", "To", "Cc")


def parse_email(content: bytes) -> Extract:
    """Return the subject, the body (plain text where there is one, else HTML), and from, to, date and attachments.

    The text begins with the subject as its heading and ends with the names of the attachments.

    Raises:
        RefusedDocumentError: `unparseable` (no header of a message), `wrong_encoding` (a body that is not in the
            charset that it declares, nor in UTF-8), `empty` (neither subject nor text).
    """
    message = BytesParser(policy=policy.default).parsebytes(content)
    if not any(message[name] for name in ("From", "Date", "Subject", "Message-ID")):
        raise RefusedDocumentError("unparseable: no message: none of the headers From, Date, Subject, Message-ID")
    subject = " ".join(str(message["Subject"] or "").split())
    text = _body(message)
    names = [" ".join((part.get_filename() or "without a name").split()) for part in message.iter_attachments()]
    if not subject and not text.strip():
        raise RefusedDocumentError("empty: a message without subject and text; attachments are not opened")
    blocks = [f"# {escape_inline(subject)}"] if subject else []
    blocks += [text.strip("\n")] if text.strip() else []
    blocks += [f"Attachments: {escape_inline(', '.join(names))}"] if names else []
    date = message["Date"].datetime if message["Date"] else None
    metadata = {
        "author": message["From"],
        **{name.lower(): message[name] for name in _ADDRESSED[1:]},
        "created_at": date.isoformat() if date else None,
        "message_id": message["Message-ID"],
        "attachments": ", ".join(names),
    }
    return Extract(subject or None, "\n\n".join(blocks), metadata)


def _body(message: EmailMessage) -> str:
    part = message.get_body(preferencelist=("plain", "html"))
    if part is None:
        return ""
    payload = cast(bytes, part.get_payload(decode=True) or b"")
    text = _decoded(payload, part.get_content_charset() or "utf-8")
    return (parse_html(text) if part.get_content_subtype() == "html" else parse_plain(text)).markdown


def _decoded(payload: bytes, charset: str) -> str:
    for encoding in (charset, "utf-8"):
        try:
            return payload.decode(encoding)
        except (LookupError, ValueError):
            continue
    raise RefusedDocumentError(f"wrong_encoding: the body is neither in {charset!r}, as it says, nor in UTF-8")
