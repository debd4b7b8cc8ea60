"""Personal data found and masked: what is, what only looks like it, and that nothing is fetched."""

from __future__ import annotations

import random
import socket
import sys

import pytest

from transformations.errors import ConfigurationError, MissingDependencyError
from transformations.text import personal_data
from transformations.text.personal_data import PersonalSpan, find_personal_data, is_address, mask, merge_spans

FOUND = {
    "Write to ann.lee@example.com today.": ("EMAIL_ADDRESS", "ann.lee@example.com"),
    "Her phone: (212) 867-5309.": ("PHONE_NUMBER", "(212) 867-5309"),
    "Please dial 212-867-5309 before noon": ("PHONE_NUMBER", "212-867-5309"),
    "Office +49 30 901820, second floor": ("PHONE_NUMBER", "+49 30 901820"),
    "Ring +44 20 7946 0018": ("PHONE_NUMBER", "+44 20 7946 0018"),
    "Paid by 4111 1111 1111 1111.": ("CREDIT_CARD", "4111 1111 1111 1111"),
    "Paid by 5500-0000-0000-0004.": ("CREDIT_CARD", "5500-0000-0000-0004"),
    "To DE89 3704 0044 0532 0130 00 please": ("IBAN_CODE", "DE89 3704 0044 0532 0130 00"),
    "Account GB82WEST12345698765432": ("IBAN_CODE", "GB82WEST12345698765432"),
    "Her SSN is 536-90-4399.": ("US_SSN", "536-90-4399"),
}
# One digit is wrong, the address has no domain, no word tells that it is a phone's.
NOT_FOUND = [
    "Paid by 4111 1111 1111 1112.", "To DE89 3704 0044 0532 0130 01", "SSN 000-12-3456", "root@localhost",
    "@pytest.mark.parametrize", "git@github", "order 2128675309", "",
]  # fmt: skip
TECHNICAL = """\
# Release 2024.11.05 of numpy 2.4.6 (build 20241105123456, 3.11.9-1~22.04.2)

Commit `9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08`, parent 1b2b0b822cd1, image sha256:e3b0c44298.
Ids: 123e4567-e89b-12d3-a456-426614174000, 0x7ffd5e8c, 1700000000, 1700000000123, 00123456789. ISBN 978-3-16-148410-0.
At 2024-03-01 12:30:00.123456+01:00 or 20240301T123000Z, 127.0.0.1:8080 answered in 0.123456789 s; see RFC 2119, 7231.

| version | size | rows |
|---|---|---|
| 10.15.7 | 1234567890 | 16,777,216 |

    decorated = @functools.cache; matrix = a @ b; x = 3.14159265358979; call(1234567890, "555-0100")
"""


@pytest.mark.parametrize("text", FOUND)
def test_what_is_personal_is_found_where_it_stands(text: str):
    kind, value = FOUND[text]
    [span] = find_personal_data(text)
    assert (span.kind, text[span.start : span.end]) == (kind, value)
    assert 0.5 <= span.score <= 1
    assert mask(text, [span]) == text.replace(value, f"<{kind}>")


# Written like an address, and none.
PLACES = [
    "unpkg.com/x@5.3.0", "see https://unpkg.com/react@18.2.0/umd/react.js", "https://cdn.example.com/npm/x@1.2.3/y.js",
    "git@github.com", "git clone git@github.com:owner/name.git", "deploy@server.example.com:/srv/app", "pkg@v2.1.0.io",
    "ssh://ann@host.example.com/x", "https://ann@dev.example.com/repo", "https://medium.com/@ann.lee@example.com",
    "npm i lodash@4.17.21", "postgres://user@db.example.com/x", "uses: actions/checkout@v4.1.dev",
    "scp a deploy@server.example.com:srv/app", "see medium.com/@ann.lee@example.com", "pkg@1.x.io",
]  # fmt: skip
# An address, though it stands beside what is none.
ADDRESSES = [
    "mailto:ann@example.com", "<ann@example.com>", "[Ann](mailto:ann@example.com)", "Ann (ann@example.com): hello",
    "Mail ann@example.com: it is read.", "ann@example.com/bob", "see https://example.com/ or ann@example.com",
    "https://example.com/?to=ann@example.com", "Ann|ann@example.com|x", "ann@example.com,bob", "ann@123.example.com",
    "sales/ann@example.com", "ann@123456.xyz", "ann@example.com:secret1", "ann@example.com:8080", "ann@example.com:bob",
]  # fmt: skip


@pytest.mark.parametrize("text", PLACES)
def test_versions_of_packages_and_users_of_servers_are_no_addresses(text: str):
    assert find_personal_data(text) == ()


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_is_found_whatever_stands_around_it(text: str):
    assert [span.kind for span in find_personal_data(text)] == ["EMAIL_ADDRESS"]


def test_an_address_behind_another_one_is_found():
    text = "ann@a.com/bob@example.com"
    assert is_address(text, 10, 25)
    assert mask(text, find_personal_data(text)) == "<EMAIL_ADDRESS><EMAIL_ADDRESS>"


@pytest.mark.parametrize("text", NOT_FOUND)
def test_what_only_looks_like_it_is_not(text: str):
    assert find_personal_data(text) == ()


def test_technical_text_full_of_numbers_is_clean():
    assert find_personal_data(TECHNICAL) == ()


def test_all_of_a_text_is_masked_once_and_a_masked_text_stays_as_it_is():
    text = "\n".join(FOUND)
    spans = find_personal_data(text)
    assert [span.kind for span in spans] == [kind for kind, _ in FOUND.values()]
    masked = mask(text, spans)
    assert not any(value in masked for _, value in FOUND.values())
    assert find_personal_data(masked) == ()


def test_places_are_counted_in_characters_whatever_stands_before():
    text = "Ünïcödé 😀 日本 ann@example.com 😀 bob@example.org"
    assert [text[s.start : s.end] for s in find_personal_data(text)] == ["ann@example.com", "bob@example.org"]
    assert mask(text, find_personal_data(text)) == "Ünïcödé 😀 日本 <EMAIL_ADDRESS> 😀 <EMAIL_ADDRESS>"


def test_a_long_text_is_searched_in_pieces_that_cut_nothing():
    line = "Nothing to see here, and nothing there either, for so many words.\n"
    text = "".join(line * 60 + f"mail{n}@example.com +49 30 901820\n" for n in range(30))
    assert len(text) > 2 * personal_data._PIECE
    spans = find_personal_data(text)
    assert [s.kind for s in spans] == ["EMAIL_ADDRESS", "PHONE_NUMBER"] * 30
    assert text[spans[-2].start : spans[-2].end] == "mail29@example.com"
    assert list(personal_data._pieces("x" * 120_000)) == [
        (0, "x" * 50_000),
        (50_000, "x" * 50_000),
        (100_000, "x" * 20_000),
    ]


def test_spans_that_overlap_become_one_in_whatever_order_they_come():
    spans = [
        PersonalSpan("URL", 3, 9, 0.5),
        PersonalSpan("EMAIL_ADDRESS", 0, 8, 1.0),
        PersonalSpan("PHONE_NUMBER", 9, 12, 0.6),
        PersonalSpan("US_SSN", 20, 24, 0.5),
        PersonalSpan("PHONE_NUMBER", 20, 24, 0.5),
        PersonalSpan("URL", 21, 23, 0.4),
    ]
    expected = (
        PersonalSpan("EMAIL_ADDRESS", 0, 9, 1.0),
        PersonalSpan("PHONE_NUMBER", 9, 12, 0.6),
        PersonalSpan("PHONE_NUMBER", 20, 24, 0.5),
    )
    for seed in range(10):
        random.Random(seed).shuffle(spans)
        assert merge_spans(spans) == expected


def test_addresses_of_machines_are_found_only_when_asked_for():
    text = "The server 8.8.8.8 answered, 2001:0db8:0000:0000:0000:ff00:0042:8329 did not."
    assert find_personal_data(text) == ()
    found = find_personal_data(text, kinds=["IP_ADDRESS"])
    assert [text[s.start : s.end] for s in found] == ["8.8.8.8", "2001:0db8:0000:0000:0000:ff00:0042:8329"]


def test_nothing_is_fetched(monkeypatch):
    tried = []

    def refuse(*arguments, **options):
        tried.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    personal_data._engine.cache_clear()
    assert len(find_personal_data("ann@example.co.uk, https://example.com, +49 30 901820")) == 2
    with pytest.raises(ConfigurationError, match=r"en_core_web_lg.*Install it"):
        find_personal_data("Ann", kinds=["PERSON"], model="en_core_web_lg")
    assert tried == []


def test_a_model_of_ones_own_finds_names(tmp_path):
    """A pipeline of spaCy with one rule stands for a trained one: what is tested is that its names are used."""
    import spacy

    pipeline = spacy.blank("en")
    pipeline.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "Ann Lee"}])
    pipeline.to_disk(tmp_path / "model")
    text = "Ask Ann Lee, ann@example.com."
    found = find_personal_data(text, kinds=["PERSON", "EMAIL_ADDRESS"], model=str(tmp_path / "model"))
    assert mask(text, found) == "Ask <PERSON>, <EMAIL_ADDRESS>."
    assert find_personal_data(text, kinds=["EMAIL_ADDRESS"])[0].kind == "EMAIL_ADDRESS"


def test_a_kind_that_is_not_known_is_named():
    with pytest.raises(ConfigurationError, match=r"'EMAIL'. Did you mean 'EMAIL_ADDRESS'"):
        find_personal_data("x", kinds=["EMAIL"])
    with pytest.raises(ConfigurationError, match="unknown kind of personal data 'PERSON'"):
        find_personal_data("x", kinds=["PERSON"])


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    personal_data._engine.cache_clear()
    with pytest.raises(MissingDependencyError, match=r"lakeloop\[pii\]"):
        find_personal_data("ann@example.com")
