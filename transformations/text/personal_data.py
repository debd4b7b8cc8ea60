"""A text in, the places where it names personal data, and the text with these places masked, out.

Presidio does the search: it has patterns, and checks what they find by checksum, length and the words around. Nothing
is ever downloaded: the list of public suffixes is the one that comes with its library, and a spaCy model must be
installed already.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from transformations.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

# Kinds that can be told apart from version numbers, hashes and identifiers without a model. IP_ADDRESS is not among
# them: manuals are full of 127.0.0.1, 1.2.3.4 may be a version, and only a part of a shortened IPv6 address is found.
KINDS = ("CREDIT_CARD", "EMAIL_ADDRESS", "IBAN_CODE", "PHONE_NUMBER", "US_SSN")
MIN_SCORE = 0.5
# Regions whose national phone numbers are looked for; each costs a pass over the text.
REGIONS = ("US", "GB", "DE", "FR", "IN")
_PHONE_WORDS = ("cell", "cellphone", "dial", "fax", "mobile", "phone", "tel", "telephone")
# Users of version control and of package hosts: nobody reads mail at their addresses.
_PROGRAM_USER = re.compile(r"git|hg|svn|ssh|gitea|forgejo|org-\d+", re.IGNORECASE)
# A version begins with a number, a dot and another number; a host never does.
_VERSION = re.compile(r"v?\d+(?:\.\d+)+(?:[^A-Za-z]|$)|v?\d+\.(?:x(?![a-z])|\d+)", re.IGNORECASE)
_OPEN_WORD = re.compile(r"[^\s\"'<>()\[\]{},;|`]*$")
# What comes before an address inside a URL: a scheme, or a host and its path.
_IN_URL = re.compile(r"[A-Za-z][\w+.-]*:/|(?<![@\w.-])(?:[\w-]+\.)+[A-Za-z]{2,}/|^/")
# What follows the host in scp's form: a colon and at once a path, and no port, password or further sentence.
_SCP_PATH = re.compile(r":(?:[/~]|[\w.-]+/)")
_MAIL_URL = re.compile(r"[?&=][^/]*$|^mailto:", re.IGNORECASE)
# Characters in a piece that is searched at once: patterns can take more than linear time, and a model's memory grows
# with the length of a text.
_PIECE = 50_000


class PersonalSpan(NamedTuple):
    """Personal data in a text: characters [start, end) in code points, their kind, and a score from 0 to 1."""

    kind: str
    start: int
    end: int
    score: float


def find_personal_data(
    text: str | None,
    *,
    kinds: Collection[str] = KINDS,
    min_score: float = MIN_SCORE,
    model: str | None = None,
    regions: Sequence[str] = REGIONS,
) -> tuple[PersonalSpan, ...]:
    """The personal data that `text` names, in order and without overlap.

    A card or an account number with a wrong checksum is not reported. A phone number is found in its international
    form; in a national form it is found only if a word before it says that it is a phone number ("phone", "tel",
    "mobile": English words only). Names of persons and places need a model, and are found as well as that model finds
    them. Spans that overlap become one, of the kind with the highest score (then of the longest span, then of the first
    name).

    Args:
        kinds: Presidio's names, such as PERSON (needs `model`) or IP_ADDRESS.
        min_score: the least score, 0 to 1; an address, a checked number, or a number with a word before it has at least
            0.5.
        model: an installed spaCy pipeline's name or folder; None: no model.
        regions: ISO 3166 codes of the regions whose national phone numbers are looked for.

    Raises:
        MissingDependencyError: Presidio is not installed.
        ConfigurationError: the kind is unknown, or the model cannot be loaded.
    """
    engine = _engine(model, tuple(regions))
    wanted = sorted(kinds)
    known = _kinds(model, tuple(regions))
    for kind in wanted:
        if kind not in known:
            raise ConfigurationError.unknown_name("kind of personal data", kind, known)
    if not text or not wanted:
        return ()
    found = [
        PersonalSpan(result.entity_type, start + result.start, start + result.end, round(float(result.score), 4))
        for start, piece in _pieces(text)
        for result in engine.analyze(piece, language="en", entities=wanted, score_threshold=min_score)
    ]
    return merge_spans(found)


def merge_spans(spans: Iterable[PersonalSpan]) -> tuple[PersonalSpan, ...]:
    """Merge spans that overlap into one that covers them, of the kind with the best score; their order is of no effect.

    >>> merge_spans([PersonalSpan("URL", 3, 9, 0.5), PersonalSpan("EMAIL_ADDRESS", 0, 9, 1.0)])
    (PersonalSpan(kind='EMAIL_ADDRESS', start=0, end=9, score=1.0),)
    """
    merged: list[list[PersonalSpan]] = []
    end = 0
    for span in sorted(spans, key=lambda s: (s.start, s.end, s.kind)):
        if merged and span.start < end:
            merged[-1].append(span)
        else:
            merged.append([span])
            end = 0
        end = max(end, span.end)
    return tuple(_one(group) for group in merged)


def mask(text: str, spans: Iterable[PersonalSpan]) -> str:
    """`text` with each span replaced by its kind; spans must not overlap (those of `find_personal_data` do not).

    >>> mask("Ask ann@example.com.", [PersonalSpan("EMAIL_ADDRESS", 4, 19, 1.0)])
    'Ask <EMAIL_ADDRESS>.'
    """
    parts, end = [], 0
    for span in sorted(spans, key=lambda s: s.start):
        parts += [text[end : span.start], f"<{span.kind}>"]
        end = span.end
    return "".join([*parts, text[end:]])


def is_address(text: str, start: int, end: int) -> bool:
    """Whether the text at a place, which looks like an e-mail address, is one and not a part of something else.

    These are none: a version of a package (`x@5.3.0`, `x@latest.js`), the user in a server's address
    (`git@github.com:owner/name`, `ssh://ann@host.com/x`), a handle after a path (`site.com/@ann.lee`).

    >>> is_address("mailto:ann@example.com", 7, 22), is_address("git@github.com", 0, 14)
    (True, False)
    """
    user, _, host = text[start:end].rpartition("@")
    before, after = text[max(start - 200, 0) : start], text[end : end + 200]
    if _PROGRAM_USER.fullmatch(user) or _VERSION.match(host):
        return False
    if _SCP_PATH.match(after):
        return False
    word = _OPEN_WORD.search(before)
    # A parameter of a URL (`?to=ann@example.com`) is an address.
    is_value = "=" in user or bool(word and _MAIL_URL.search(word.group()))
    return is_value or not (word and _IN_URL.search(word.group()))


def _one(group: list[PersonalSpan]) -> PersonalSpan:
    best = min(group, key=lambda s: (-s.score, s.start - s.end, s.kind))
    return best._replace(start=group[0].start, end=max(span.end for span in group))


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """`text` in pieces with their places, cut at the end of a line, or else of a word, so that no number is cut."""
    start = 0
    while start < len(text):
        end = start + _PIECE
        if end < len(text):
            half = start + _PIECE // 2
            cut = max(text.rfind("\n", half, end), 0) or max(text.rfind(" ", half, end), 0)
            end = cut + 1 if cut else end
        yield start, text[start:end]
        start = end


@cache
def _kinds(model: str | None, regions: tuple[str, ...]) -> frozenset[str]:
    return frozenset(_engine(model, regions).get_supported_entities("en"))


@cache
def _engine(model: str | None, regions: tuple[str, ...]) -> AnalyzerEngine:
    try:
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
        from presidio_analyzer.context_aware_enhancers import LemmaContextAwareEnhancer
        from presidio_analyzer.predefined_recognizers import EmailRecognizer, PhoneRecognizer
        from tldextract import TLDExtract
    except ImportError:
        raise MissingDependencyError.for_extra("presidio_analyzer", "pii") from None
    # tldextract.extract, which Presidio would use, downloads the list of suffixes and keeps it in the user's home.
    extract = TLDExtract(suffix_list_urls=(), cache_dir=None)

    class BundledSuffixes(EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            # Only the host is checked: Presidio takes text before a slash for a part of the user.
            return extract(pattern_text.rpartition("@")[2]).fqdn != ""

        def analyze(
            self, text: str, entities: list[str], nlp_artifacts: Any = None, regex_flags: int | None = None
        ) -> list[Any]:
            found = super().analyze(text, entities, nlp_artifacts, regex_flags)
            return [result for result in found if is_address(text, result.start, result.end)]

    class International(PhoneRecognizer):
        """Finds numbers with + and a country code; a valid one is no accident, so it needs no word before it."""

        SCORE = 0.6

    nlp = _language_engine(model)
    registry = RecognizerRegistry(supported_languages=["en"])
    registry.load_predefined_recognizers(languages=["en"], nlp_engine=nlp)
    for name in ("EmailRecognizer", "PhoneRecognizer", *([] if model else ["SpacyRecognizer"])):
        registry.remove_recognizer(name)
    registry.add_recognizer(BundledSuffixes())
    registry.add_recognizer(International(supported_regions=(None,)))
    registry.add_recognizer(PhoneRecognizer(supported_regions=regions, context=list(_PHONE_WORDS)))
    return AnalyzerEngine(
        registry=registry,
        nlp_engine=nlp,
        supported_languages=["en"],
        # By default "cell" would be found in "cancelled", too.
        context_aware_enhancer=LemmaContextAwareEnhancer(context_matching_mode="whole_word"),
    )


def _language_engine(model: str | None) -> SpacyNlpEngine:
    """Presidio's engine around a spaCy pipeline that is installed; Presidio itself would download a missing one."""
    import spacy
    from presidio_analyzer.nlp_engine import SpacyNlpEngine
    from spacy.language import Language
    from spacy.tokens import Doc

    @Language.component("lakeloop_words_as_lemmas")
    def words_as_lemmas(doc: Doc) -> Doc:
        for token in doc:
            token.lemma_ = token.lower_
        return doc

    engine = SpacyNlpEngine()
    try:
        if model is None:
            pipeline = spacy.blank("en")
            pipeline.add_pipe("lakeloop_words_as_lemmas")
        else:
            pipeline = spacy.load(model)
    except OSError as error:
        raise ConfigurationError(
            f"the spaCy model {model!r} cannot be loaded ({str(error).splitlines()[0]}). "
            "Install it, name its folder, or search without a model."
        ) from None
    engine.nlp = {"en": pipeline}  # type: ignore[assignment]
    return engine
