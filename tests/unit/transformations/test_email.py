"""E-mail: every text of a message is read, whatever its parts and its headers are like."""

from __future__ import annotations

from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformations.documents import ParsedDocument, parse_document


def _parsed(mail: EmailMessage | bytes) -> ParsedDocument:
    content = mail if isinstance(mail, bytes) else mail.as_bytes()
    return parse_document(content, path="a.eml")


def _mail(subject: str = "S", text: str | None = "Plain text.") -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["Subject"] = "Ann <ann@example.org>", subject
    if text is not None:
        mail.set_content(text)
    return mail


@pytest.mark.parametrize("plain", ["", " \n\n", "View this in a browser."])
def test_a_plain_part_that_says_nothing_does_not_hide_the_html(plain: str) -> None:
    mail = _mail(text=plain)
    mail.add_alternative(
        "<h2>Pumps</h2><p>One two three four five six of the oil pumps are new.</p>" * 2, subtype="html"
    )
    assert "## Pumps" in _parsed(mail).text
    full = _mail(text="All of the text.")
    full.add_alternative("<p>All of the <b>text</b>.</p>", subtype="html")
    assert _parsed(full).text == "# S\n\nAll of the text."


def test_every_text_and_every_message_in_a_message_is_read() -> None:
    mail = _mail()
    mail.make_mixed()
    second = EmailMessage()
    second.set_content("Second text.")
    mail.attach(second)
    inner = _mail("Forwarded", "Inner text.")
    inner.add_attachment(_mail("Deeper", "Deepest text."))
    mail.add_attachment(inner)
    mail.add_attachment(b"x", maintype="application", subtype="zip", filename="a.zip")
    assert _parsed(mail).text == (
        "# S\n\nPlain text.\n\nSecond text.\n\n## Forwarded\n\nFrom: Ann \\<ann@example.org>\n\nInner text.\n\n"
        "### Deeper\n\nFrom: Ann \\<ann@example.org>\n\nDeepest text.\n\nAttachments: a.zip"
    )


def test_the_messages_of_a_digest_are_read() -> None:
    digest = b"Subject: Digest\nContent-Type: multipart/digest; boundary=B\n\n"
    for number in range(3):
        digest += f"--B\n\nSubject: Part {number}\n\nText {number}.\n".encode()
    text = _parsed(digest + b"--B--\n").text
    assert [f"## Part {n}\n\nText {n}." in text for n in range(3)] == [True] * 3


def test_an_invitation_is_read() -> None:
    lines = [
        *("BEGIN:VCALENDAR", "METHOD:REQUEST", "BEGIN:VEVENT", "SUMMARY:Pump review\\, part 1"),
        *("DTSTART;TZID=Europe/Berlin:20240301T120000", "DTEND:20240301T120000Z", "LOCATION:Room 1"),
        *('ATTENDEE;CN="Bob":mailto:bob@example.org', "DESCRIPTION:Bring", "  oil", "END:VEVENT", "END:VCALENDAR"),
    ]
    mail = _mail(text="You are invited.")
    mail.add_alternative("\r\n".join(lines), subtype="calendar")
    assert _parsed(mail).text == (
        "# S\n\nYou are invited.\n\nPump review, part 1\n\nStart: 2024-03-01 12:00 Europe/Berlin\n\n"
        "End: 2024-03-01 12:00 UTC\n\nWhere: Room 1\n\nWith: Bob \\<bob@example.org>\n\nBring oil"
    )


def _in_two_forms(plain: bytes, html: bytes) -> ParsedDocument:
    """A plain text in an encoding that is none, unless it is UTF-8, and an HTML one in UTF-8."""
    head = b"Subject: S\nContent-Type: multipart/alternative; boundary=B\n\n--B\nContent-Type: text/plain; charset="
    second = b"\n--B\nContent-Type: text/html; charset=utf-8\n\n"
    return _parsed(head + b"klingon\n\n" + plain + second + html + b"\n--B--\n")


def test_a_form_of_a_text_that_cannot_be_read_is_named_beside_the_other_one() -> None:
    broken = b"caf\xe9"
    read = _in_two_forms(broken, b"<p>All of the text.</p>")
    assert (read.error, read.text) == (None, "# S\n\nAll of the text.\n\nAttachments: text/plain that cannot be read")
    assert _in_two_forms(b"All of the text.", broken).text.startswith(
        "# S\n\nAll of the text.\n\nAttachments: text/html"
    )
    for plain, html in ((broken, broken), (broken, b"<p></p>")):
        assert (_in_two_forms(plain, html).error or "").startswith("wrong_encoding: cannot decode as 'klingon'")


HEADERS = st.sampled_from(
    [
        "From",
        "To",
        "Cc",
        "Date",
        "Message-ID",
        "Content-Type",
        "Content-Disposition",
        "Content-Transfer-Encoding",
        "X-Y",
    ]
)
VALUES = st.text(alphabet="a1@<>,;:\"'()[]=?.*/ \\-_é", max_size=30) | st.sampled_from(
    [
        "=?klingon?q?x?=",
        "=?utf-8?b?!!?=",
        "yesterday",
        "<@>",
        "a@[b",
        'text/plain; charset="',
        "attachment; filename*=x''%",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(HEADERS, VALUES), max_size=6))
def test_no_header_however_odd_refuses_a_message(headers: list[tuple[str, str]]) -> None:
    lines = [f"{name}: {value}" for name, value in [("Subject", "The subject"), *headers]]
    document = _parsed("\n".join([*lines, "", "body"]).encode())
    assert document.error is None, document.error
    assert document.title == "The subject"
