"""A question and a passage in, a score for each name, number or phrase of the passage as an answer out.

A short answer can stand in its source and still be the answer to another question. So its place is judged: how many
rare words of the question are in its sentence, how near they are to it, whether it is of the kind that the question
asks for (a date for "when"), and how much better it scores than its rivals in the same passage.
The weights are fitted by benchmarks/grounding.py, which also publishes how often they are right and wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, log

from transformations.answers.span_weights import BIAS, WEIGHTS
from transformations.text.stems import STOP_WORDS, content_stems, stem

# The weights of an answer's own score, and of its lead over all its rivals together.
_OF_ITSELF, _OF_LEAD = 0.65, 0.35
_OF_BEST_SPAN = 0.42
_NO_RIVAL = -6.0
_FAR = 50
_MONTHS = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t|tember)?|oct(?:ober)?"
    "|nov(?:ember)?|dec(?:ember)?"
)
_NUMBER_WORDS = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen"
    "|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million|billion|dozen"
)
_PLACES = "city|country|state|place|location|town|county|region|continent|river|island|province|district"
# The first pattern that is found in a question says what the question asks for.
_ASKED: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        ("number", r"\bhow (?:many|much|old|long|tall|far|big|large|high|deep|often|fast|heavy)\b"),
        ("time", r"\bwhen\b|\b(?:what|which)\b.{0,20}\b(?:year|date|day|month|time|century|decade)\b"),
        ("name", r"\bwho(?:se|m)?\b"),
        ("place", rf"\bwhere\b|\b(?:what|which) (?:{_PLACES})\b"),
        ("number", r"\b(?:what|which) (?:number|percent|percentage|population|age|temperature|amount|size|rate)\b"),
        ("reason", r"\bwhy\b"),
        ("way", r"\bhow\b"),
    )
)
_TRAITS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (trait, re.compile(pattern, re.IGNORECASE))
    for trait, pattern in (
        ("year", r"\b(?:1\d|20)\d\d\b"),
        ("month", rf"\b(?:{_MONTHS})\b"),
        ("digit", r"\d"),
        ("number_word", rf"\b(?:{_NUMBER_WORDS})\b"),
        ("ordinal", r"\b(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|\d+(?:st|nd|rd|th))\b"),
        ("percent", r"%|\bpercent\b"),
        ("reason", r"\b(?:because|due|so|to|caus\w+|result\w*)\b"),
        ("preposition", r"^(?:in|at|on|from|to|by|for|near|between|of|with|as|into|under|within|through|along)\b"),
    )
)
_FORMS = ("all_capital", "no_capital", "one_word", "long")
_KINDS = (*dict.fromkeys(kind for kind, _ in _ASKED), "thing")
FEATURES: tuple[str, ...] = (
    *("share", "lead", "lead_with_context", "near", "far", "nearest", "repeats"),
    *(trait for trait, _ in _TRAITS),
    *_FORMS,
    *(f"{kind}: {trait}" for kind in _KINDS for trait in (*(trait for trait, _ in _TRAITS), *_FORMS)),
)
_TOKEN = re.compile(r"\w+(?:['’.\-]\w+)*|[^\w\s]")
_RUN_OF_NAMES = re.compile(
    r"(?<!\w)[A-Z][\w'’.-]*(?:(?:\s+(?:of|the|and|de|von|van|for|in|&))*\s+[A-Z][\w'’.-]*)*(?!\w)"
)
_NUMERIC = re.compile(
    rf"(?<![\w.])\d[\d.,]*(?:\s*%|\s+(?:{_MONTHS})\b[ \d,]*|\s+(?:{_NUMBER_WORDS}|percent)\b)?"
    rf"|(?<!\w)(?:{_MONTHS})\s+\d[\d ,]*|(?<!\w)(?:{_NUMBER_WORDS})(?!\w)",
    re.IGNORECASE,
)
_EDGES = " .,;:'\"’()"
_LONGEST_RIVAL = 5


@dataclass(frozen=True)
class Reading:
    """One passage, read for one question. `sentences` are (start, end) in `text`."""

    question: str
    text: str
    sentences: tuple[tuple[int, int], ...]

    def support(self, answer: str) -> float | None:
        """How well `answer` answers the question, judged by its place in the passage; None if it is not in the passage.

        If it stands in several places, the best one counts. From `span_weights.LEAST` on it is taken for right.
        """
        places = self.places(answer)
        if not places:
            return None
        own = max(self._score(start, end) for start, end in places)
        apart = [score for start, end, score in self._rivals if not _meet(start, end, places)]
        return _OF_ITSELF * own + _OF_LEAD * (own - _together(apart))

    def support_of_sentence(self, number: int) -> float:
        """The same for the sentence of that number: its share of the question's words and the best span in it count,
        against all other sentences together."""
        return self._of_sentences[number] - _together([z for n, z in enumerate(self._of_sentences) if n != number])

    def places(self, answer: str) -> list[tuple[int, int]]:
        """The (start, end) of each place of `answer` in the text; case, blanks and a leading article do not count."""
        words = [re.escape(word) for word in _TOKEN.findall(answer.strip(_EDGES))]
        if len(words) > 1 and words[0].lower() in ("the", "a", "an"):
            words = words[1:]
        if not words:
            return []
        pattern = r"\s*".join(words)
        pattern = (r"(?<!\w)" if re.match(r"\w", words[0].lstrip("\\")) else "") + pattern
        pattern += r"(?!\w)" if re.search(r"\w$", words[-1]) else ""
        return [match.span() for match in re.finditer(pattern, self.text, re.IGNORECASE)]

    def sentence_of(self, position: int) -> int:
        """The number of the sentence in which `position` is."""
        return max((n for n, (start, _) in enumerate(self.sentences) if start <= position), default=0)

    @cached_property
    def _rivals(self) -> list[tuple[int, int, float]]:
        return [(start, end, self._score(start, end)) for start, end in rivals(self.text)]

    @cached_property
    def _of_sentences(self) -> list[float]:
        best = [_NO_RIVAL] * len(self._shares)
        for start, _, score in self._rivals:
            number = self.sentence_of(start)
            best[number] = max(best[number], score)
        return [share + _OF_BEST_SPAN * b for (share, _), b in zip(self._shares, best, strict=True)]

    @cached_property
    def _words(self) -> list[tuple[str, int, int]]:
        return [(stem(m[0].lower()), m.start(), m.end()) for m in _TOKEN.finditer(self.text)]

    @cached_property
    def _asked(self) -> Mapping[str, float]:
        """Stem that question and passage share → its weight: rarer in the passage weighs more, and the sum is 1."""
        found = [frozenset(content_stems(self.text[start:end])) for start, end in self.sentences]
        held = {s: sum(s in of for of in found) for s in dict.fromkeys(content_stems(self.question))}
        weights = {s: log(1 + len(found) / count) for s, count in held.items() if count}
        whole = sum(weights.values()) or 1.0
        return {s: weight / whole for s, weight in weights.items()}

    @cached_property
    def _shares(self) -> list[tuple[float, float]]:
        """For each sentence its share of the question's words, and that share plus half of what only the sentence
        before it has."""
        found: list[tuple[float, float]] = []
        before: frozenset[str] = frozenset()
        for start, end in self.sentences:
            here = frozenset(content_stems(self.text[start:end]))
            share = sum(weight for s, weight in self._asked.items() if s in here)
            also = sum(weight for s, weight in self._asked.items() if s in before and s not in here)
            found.append((share, share + also / 2))
            before = here
        return found or [(0.0, 0.0)]

    @cached_property
    def _asked_at(self) -> Mapping[str, list[int]]:
        return {s: [n for n, (word, _, _) in enumerate(self._words) if word == s] for s in self._asked}

    @cached_property
    def _stems_of_question(self) -> frozenset[str]:
        return frozenset(content_stems(self.question))

    @cached_property
    def _kind(self) -> str:
        return next((kind for kind, pattern in _ASKED if pattern.search(self.question)), "thing")

    def _score(self, start: int, end: int) -> float:
        return BIAS + sum(WEIGHTS.get(name, 0.0) * value for name, value in self.features(start, end).items())

    def features(self, start: int, end: int) -> dict[str, float]:
        """The traits of the span as an answer: name → value, as `span_weights.WEIGHTS` names them."""
        number = self.sentence_of(start)
        share, with_context = self._shares[min(number, len(self._shares) - 1)]
        inside = [n for n, (_, left, right) in enumerate(self._words) if left < end and right > start]
        first, last = (inside[0], inside[-1]) if inside else (0, 0)
        near = far = 0.0
        nearest = _FAR
        for s, at in self._asked_at.items():
            apart = min((first - n if n < first else n - last for n in at if n < first or n > last), default=_FAR)
            near += self._asked[s] * exp(-apart / 6)
            far += self._asked[s] * exp(-apart / 20)
            nearest = min(nearest, apart)
        text = self.text[start:end]
        stems = set(content_stems(text))
        traits = dict(_traits(text))
        return {
            "share": share,
            "lead": share - max(s for s, _ in self._shares),
            "lead_with_context": with_context - max(s for _, s in self._shares),
            "near": near,
            "far": far,
            "nearest": log(1 + nearest) / 4,
            "repeats": len(stems & self._stems_of_question) / len(stems)
            if stems
            else float(text.lower() in self.question.lower()),
            **traits,
            **{f"{self._kind}: {trait}": value for trait, value in traits.items()},
        }


def _meet(start: int, end: int, places: Sequence[tuple[int, int]]) -> bool:
    return any(start < stop and begin < end for begin, stop in places)


def _together(scores: Sequence[float]) -> float:
    """The logarithm of the sum of the scores' exponentials: many middling rivals count as much as one good one."""
    return log(sum(exp(max(min(score, 20.0), -20.0)) for score in scores)) if scores else _NO_RIVAL


def rivals(text: str) -> Iterator[tuple[int, int]]:
    """Spans of `text` that could answer some question: names, numbers, dates, and runs of words that carry content."""
    seen = set()
    for start, end in _spans_of_rivals(text):
        while start < end and text[start] in _EDGES:
            start += 1
        while end > start and text[end - 1] in _EDGES:
            end -= 1
        if (end - start > 1 or text[start:end].isdigit()) and (start, end) not in seen:
            seen.add((start, end))
            yield start, end


def _spans_of_rivals(text: str) -> Iterator[tuple[int, int]]:
    for pattern in (_RUN_OF_NAMES, _NUMERIC):
        yield from (match.span() for match in pattern.finditer(text))
    run: list[re.Match[str]] = []
    for match in _TOKEN.finditer(text):
        if re.match(r"\w", match[0]) and match[0].lower() not in STOP_WORDS:
            run.append(match)
            continue
        if 0 < len(run) <= _LONGEST_RIVAL:
            yield run[0].start(), run[-1].end()
        run = []
    if 0 < len(run) <= _LONGEST_RIVAL:
        yield run[0].start(), run[-1].end()


def _traits(text: str) -> Iterator[tuple[str, float]]:
    yield from ((trait, float(pattern.search(text) is not None)) for trait, pattern in _TRAITS)
    words = _TOKEN.findall(text)
    carrying = [w for w in words if re.match(r"\w", w) and w.lower() not in STOP_WORDS]
    has_digit = any(c.isdigit() for c in text)
    yield "all_capital", float(bool(carrying) and not has_digit and all(w[:1].isupper() for w in carrying))
    yield "no_capital", float(bool(carrying) and not has_digit and not any(w[:1].isupper() for w in carrying))
    yield "one_word", float(len(words) == 1)
    yield "long", min(len(words), 20) / 10
