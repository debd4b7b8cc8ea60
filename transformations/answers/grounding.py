"""An answer and its sources in, whether the sources support it, or the passage to quote instead, out.

A small model invents. So most content words of an answer must stand in its sources, each sentence compared with the
one passage (two neighbouring sentences) that fits it best, and all its numbers, identifiers and code must stand in the
sources. A negation needs one in its passage. Words are compared by stem. Words of the question do not count, since
repeating them says nothing.

This is a check of words, not of meaning: an answer that recombines a passage's words into something wrong passes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, log

from transformations.answers.answer_spans import Reading
from transformations.answers.roles import has_reversed_roles
from transformations.answers.span_weights import LEAST, LEAST_OF_SENTENCE
from transformations.text.stems import IDENTIFIER, STOP_WORDS, content_stems, stem

# A passage is a window of this many neighbouring sentences.
_PASSAGE_SENTENCES = 2
_QUOTE_CHARS = 500
_SHORT_CHARS = 60
# The share of the question's words that a source must have; with less, its passages say nothing about the question.
_LEAST_COVERED = 0.2
_LATER_COSTS = 0.15
_LONGER_COSTS = 0.05
_FENCE = re.compile(r"^[ \t]*(```|~~~)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"(`+)(?=[^`])(.+?)\1")
_LIST_MARK = re.compile(r"^[ \t]*(?:[-*+]|\d{1,3}[.)])[ \t]+", re.MULTILINE)
_SENTENCE_END = re.compile(
    r"(?<=[.!?:])[\"')\]]*\s+(?=[\"'(\[`*A-Z0-9])|\n\s*\n|\n(?=[ \t]*(?:[-*+]|\d{1,3}[.)])[ \t])"
)
# A row begins and ends with a bar; a chunk may begin in the middle of a row that was too long for it.
_TABLE_ROW = re.compile(r"^[ \t]*(\|[^\n]*\|)[ \t]*$", re.MULTILINE)
_ENDS_WELL = re.compile(r"[.!?`]['\")\]*]*$")
_NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*(?![\w])")
_WORD = re.compile(r"\w+")
_NEGATION = re.compile(r"\b(?:not|never|cannot|none|neither|nor|without)\b|n['’]t\b", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(?:i (?:don['’]t|do not|cannot|can['’]t|am not|['’]m not|am sorry|apologi[sz]e)|i['’]m (?:sorry|not)|as an ai"
    r"|(?:sources?|context|passages?|text) (?:do(?:es)? not|don['’]t|doesn['’]t)|not (?:mentioned|provided|specified)"
    r"|no (?:information|answer)|unable to answer)\b",
    re.IGNORECASE,
)
# What small models write around an answer: headings, the sources' delimiters, "The answer is:".
_HEADING_LINE = re.compile(r"^[ \t]*(?:#{2,6}[ \t][^\n]*|</?source[^>\n]*>)[ \t]*$\n?", re.MULTILINE)
_PREAMBLE = re.compile(
    r"^\s*(?:the\s+)?(?:short\s+)?answer(?:\s+to\s+your\s+question)?(?:\s+is)?\s*:\s*", re.IGNORECASE
)
_SAYS_THAT_IT_ANSWERS = re.compile(
    r"^\s*(?:(?:the\s+)?(?:short\s+|correct\s+)?answer(?:\s+to\s+(?:your|the|this)\s+question)?\s*(?:is|was|:)\s*:?"
    r"|(?:it|that|this)\s+(?:is|was))\s+",
    re.IGNORECASE,
)
# A short answer has at most this share of the content words of its sentence; one with more is judged as a sentence.
_SHORT_SHARE = 0.6
# An answer says something if it names one fact, or has this many content words that the question does not have.
_LEAST_NEW_WORDS = 3


@dataclass(frozen=True)
class Grounding:
    """How well an answer's sources support it.

    Attributes:
        is_grounded: whether the answer may be given as it is.
        ratio: share of its content words that stand in the supporting passages, 0 to 1.
        reason: why it is not grounded, in words; "" if it is.
    """

    is_grounded: bool
    ratio: float
    reason: str = ""


@dataclass(frozen=True)
class Quotation:
    """Sentences as they stand in a source. `source` is its place in the list of sources."""

    text: str
    source: int


def check_grounding(
    answer: str, *, question: str, sources: Sequence[str], min_ratio: float, is_judged_elsewhere: bool = False
) -> Grounding:
    """Whether `sources` support `answer` as an answer to `question`.

    A short answer that stands in a source is judged by its place there (`answer_spans`). A longer one is judged
    sentence by sentence: by its words and their order, and by how well the passages behind it answer the question.

    Args:
        answer: what the model wrote; see `finished` for an answer that was cut off.
        question: its words are not counted.
        sources: the texts that the answer may rest on, whole, even if the model was shown less of them.
        min_ratio: least share of content words that the passages must contain, 0 to 1.
        is_judged_elsewhere: if true, only the support by the sources is judged; whether the answer fits the question is
            somebody else's to judge.

    >>> source = "Use the capsys fixture. Its readouterr() method returns the captured output so far."
    >>> asked = {"question": "?", "sources": [source], "min_ratio": 0.6}
    >>> check_grounding("The readouterr() method of capsys returns it.", **asked).ratio
    1.0
    >>> check_grounding("Call capsys.flush_all().", **asked).reason
    "the sources do not contain 'capsys.flush_all'"
    """
    answer = answer.strip()
    if not answer:
        return Grounding(False, 0.0, "the answer is empty")
    if _REFUSAL.search(answer):
        return Grounding(False, 0.0, "the answer refuses")
    plain = "\n\n".join(map(_unmarked, sources))
    reading = Reading(question, plain, tuple(split_spans(plain)))
    if not reading.sentences:
        return Grounding(False, 0.0, "there are no sources")
    short = _short_answer(answer, reading)
    if short is not None:
        if _is_cut(short, [short]):
            return Grounding(False, 0.0, "the answer does not come to an end")
        return _judge_short(short, reading, least=-inf if is_judged_elsewhere else LEAST)
    sentences = split_sentences(answer)
    if _is_cut(answer, sentences) or len(set(sentences)) < len(sentences):
        return Grounding(False, 0.0, "the answer does not come to an end")
    least = -inf if is_judged_elsewhere else LEAST_OF_SENTENCE
    return _judge_sentences(answer, sentences, reading, sources=sources, min_ratio=min_ratio, least=least)


def _is_cut(answer: str, sentences: Sequence[str]) -> bool:
    """Whether the answer breaks off. A name or a number alone has no full stop; a phrase may lack it, too."""
    if _ENDS_WELL.search(answer):
        return False
    words = _WORD.findall(answer)
    return len(sentences) > 1 or answer[-1:] in ":,;-" or (len(words) > 1 and words[-1] in STOP_WORDS)


def _short_answer(answer: str, reading: Reading) -> str | None:
    """The answer without its lead ("The answer is"), if it stands in a source as a part of a sentence; else None."""
    short = _unmarked(_SAYS_THAT_IT_ANSWERS.sub("", answer)).strip().rstrip(".").strip()
    if "\n" in short:
        return None
    for start, end in reading.places(short):  # it may be the whole of a title, and a part of a sentence further down
        first, last = reading.sentences[reading.sentence_of(start)]
        whole = len(content_stems(reading.text[first:last]))
        if end <= last and len(content_stems(short)) <= _SHORT_SHARE * whole:
            return short
    return None


def _judge_short(answer: str, reading: Reading, *, least: float) -> Grounding:
    asked = set(content_stems(reading.question))
    stems = content_stems(answer)
    if stems and asked.issuperset(stems):
        return Grounding(False, 0.0, "the answer only repeats the question")
    support = reading.support(answer)
    if support is None or support < least:
        return Grounding(False, 1.0, f"where {_shown(answer)} stands, the sources answer another question")
    return Grounding(True, 1.0)


def _judge_sentences(
    answer: str,
    sentences: Sequence[str],
    reading: Reading,
    *,
    sources: Sequence[str],
    min_ratio: float,
    least: float,
) -> Grounding:
    question = reading.question
    whole = _plain("\n".join(sources))
    for fact in _facts(answer):
        if not _contains(whole, fact):
            return Grounding(False, 0.0, f"the sources do not contain {fact!r}")
    asked = frozenset(content_stems(question))
    passages = list(_passages(reading))
    counted = found = 0
    best = None
    for sentence in sentences:
        stems = [s for s in content_stems(sentence) if s not in asked]
        passage = max(passages, key=lambda p: sum(s in p.stems for s in stems))
        counted, found = counted + len(stems), found + sum(s in passage.stems for s in stems)
        if not stems:
            continue
        if _NEGATION.search(sentence) and not _NEGATION.search(passage.text):
            return Grounding(False, found / counted, "the answer denies what its source does not")
        if has_reversed_roles(sentence, passage.text):
            return Grounding(False, found / counted, "the answer exchanges who did what to whom")
        supports = [reading.support_of_sentence(number) for number in passage.numbers]
        best = max([*supports, *([] if best is None else [best])])
    if counted < _LEAST_NEW_WORDS and not any(fact not in question for fact in _facts(answer)):
        return Grounding(False, 0.0, "the answer only repeats the question")
    ratio = found / counted if counted else 0.0
    if ratio < min_ratio:
        return Grounding(False, ratio, f"only {ratio:.0%} of the answer's words stand in its sources")
    is_about = len(asked & _stems_of_source(reading.text)) >= _LEAST_COVERED * len(asked)
    if not is_about or (best is not None and best < least):
        return Grounding(False, ratio, "the answer's source is not about the question")
    return Grounding(True, ratio)


def quote(question: str, *, sources: Sequence[str], max_chars: int = _QUOTE_CHARS) -> Quotation | None:
    """The run of whole sentences that shares most with the question, or None if no source shares enough with it.

    Rare words of the question weigh more than common ones; an earlier source, and an earlier sentence, wins a tie.
    The text is cut out of its source unchanged. It is at most `max_chars` characters long, unless one sentence alone is
    longer, or it ends with a colon and the sentence that follows is added.
    """
    split = [(i, spans) for i, source in enumerate(sources) if (spans := split_spans(source))]
    if not split:
        return None
    stems = {(i, span): set(content_stems(sources[i][slice(*span)])) for i, spans in split for span in spans}
    known = Counter(s for found in stems.values() for s in found)
    weights = {s: log(1 + len(stems) / known[s]) for s in set(content_stems(question)) if known[s]}
    best: tuple[float, int, int, int] | None = None
    for i, spans in split:
        for first in range(len(spans)):
            covered: set[str] = set()
            for last in range(first, len(spans)):
                if last > first and spans[last][1] - spans[first][0] > max_chars:
                    break
                covered |= stems[i, spans[last]]
                # A later source was found less relevant, and a longer run says less by the word.
                score = sum(weight for s, weight in weights.items() if s in covered)
                score /= (1 + _LATER_COSTS * i) * (1 + _LONGER_COSTS * (last - first))
                if best is None or score > best[0]:
                    best = (score, i, first, last)
    if best is None:
        return None
    _, i, first, last = best
    asked = set(content_stems(question))
    if len(asked & _stems_of_source(sources[i])) < max(_LEAST_COVERED * len(asked), 1):
        return None
    spans = dict(split)[i]
    # What comes after a colon is what was asked for, and a very short passage is hard to understand alone.
    first, last = _with_whole_table(sources[i], spans, first, last, max_chars=max_chars)
    start, end = spans[first][0], spans[last][1]
    while last + 1 < len(spans) and (
        sources[i][:end].endswith(":") or (end - start < _SHORT_CHARS and spans[last + 1][1] - start <= max_chars)
    ):
        last += 1
        end = spans[last][1]
    return Quotation(sources[i][start:end], i)


def _with_whole_table(
    source: str, spans: Sequence[tuple[int, int]], first: int, last: int, *, max_chars: int
) -> tuple[int, int]:
    """The run, with the rest of the table in which it begins or ends: a row says little without its header."""

    def is_row(number: int) -> bool:
        return source[spans[number][0]] == "|"

    top, bottom = first, last
    while is_row(first) and top > 0 and is_row(top - 1) and "\n\n" not in source[spans[top - 1][1] : spans[top][0]]:
        top -= 1
    while is_row(last) and bottom + 1 < len(spans) and is_row(bottom + 1):
        if "\n\n" in source[spans[bottom][1] : spans[bottom + 1][0]]:
            break
        bottom += 1
    if spans[bottom][1] - spans[top][0] <= max_chars:
        return top, bottom
    return (top, last) if spans[last][1] - spans[top][0] <= max_chars else (first, last)


def finished(text: str, *, is_cut: bool = False) -> str:
    r"""What a model wrote, up to its last whole sentence, without headings, a lead ("The answer is:") and repeats.

    A single phrase is whole without a full stop, unless the model was cut off (`is_cut`). Returns "" if nothing is
    whole.

    >>> finished("The answer is:\n### Capturing\nUse capsys. Use capsys. Then call")
    'Use capsys.'
    >>> finished("Short answer: 291 episodes")
    '291 episodes'
    """
    text = _HEADING_LINE.sub("", _PREAMBLE.sub("", _HEADING_LINE.sub("", text))).strip()
    kept: list[str] = []
    for start, end in split_spans(text):
        sentence = text[start:end]
        if sentence in kept:
            break
        kept.append(sentence)
        cut = end
    if not is_cut and len(kept) == 1 and not _is_cut(kept[0], kept):
        return text[:cut].strip()
    while kept and not _ENDS_WELL.search(kept[-1]):
        cut -= len(kept.pop())
        cut = len(text[:cut].rstrip())
    return text[:cut].strip() if kept else ""


def split_sentences(text: str) -> list[str]:
    """Sentences, list items and fenced blocks of `text`, in order."""
    return [text[start:end] for start, end in split_spans(text)]


@dataclass(frozen=True)
class _Passage:
    text: str
    stems: frozenset[str]
    numbers: tuple[int, ...]  # of its sentences


def _passages(reading: Reading) -> Iterable[_Passage]:
    sentences = reading.sentences
    for start in range(max(1, len(sentences) - _PASSAGE_SENTENCES + 1)):
        numbers = tuple(range(start, min(start + _PASSAGE_SENTENCES, len(sentences))))
        text = reading.text[sentences[numbers[0]][0] : sentences[numbers[-1]][1]]
        yield _Passage(text, _stems_of_source(text), numbers)


def _stems_of_source(text: str) -> frozenset[str]:
    """Stems of a source; an identifier gives itself and its parts, since prose writes its name in several words."""
    stems = set(content_stems(text))
    return frozenset(stems | {stem(word.lower()) for one in stems for word in re.findall(r"[A-Za-z]{2,}", one)})


def _facts(answer: str) -> list[str]:
    """The parts of an answer that must stand in the sources letter by letter: code, then identifiers, then numbers."""
    facts = [line for block in _FENCE.finditer(answer) for line in block[2].splitlines()]
    prose = _FENCE.sub("\n", answer)
    facts += [m[2] for m in _INLINE_CODE.finditer(prose)]
    prose = _LIST_MARK.sub("", prose)
    facts += [m[0] for m in IDENTIFIER.finditer(prose) if m[0].lower() not in STOP_WORDS]
    facts += [m[0] for m in _NUMBER.finditer(prose)]
    return [f for fact in facts if (f := _plain(fact))]


def _unmarked(text: str) -> str:
    """`text` without the marks of Markdown around words."""
    return re.sub(r"[`*]", "", text)


def _shown(text: str, width: int = 60) -> str:
    return repr(text if len(text) <= width else text[: width - 1] + "…")


def _plain(text: str) -> str:
    """`text` without the marks of Markdown, and with one blank for each run of white space."""
    return " ".join(re.sub(r"[`*]", "", text).split())


def _contains(text: str, fact: str) -> bool:
    pattern = re.escape(fact)
    before = r"(?<!\w)" if re.match(r"\w", fact) else ""
    after = r"(?!\w)" if re.search(r"\w$", fact) else ""
    return re.search(f"{before}{pattern}{after}", text) is not None


def split_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of every sentence; a fenced block counts as one."""
    spans: list[tuple[int, int]] = []
    position = 0
    for block in _FENCE.finditer(text):
        spans += _prose_spans(text, position, block.start())
        spans.append((block.start(), block.start() + len(block[0].rstrip())))
        position = block.end()
    return spans + _prose_spans(text, position, len(text))


def _prose_spans(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Start and end of sentences and list items; a row of a table counts as one, whatever stands in its cells."""
    spans: list[tuple[int, int]] = []
    position = start
    for row in _TABLE_ROW.finditer(text, start, end):
        spans += _sentence_spans(text, position, row.start())
        spans.append((row.start(1), row.end(1)))
        position = row.end()
    return spans + _sentence_spans(text, position, end)


def _sentence_spans(text: str, start: int, end: int) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    edges = [start, *(e for m in _SENTENCE_END.finditer(text, start, end) for e in (m.start(), m.end())), end]
    for left, right in zip(edges[::2], edges[1::2], strict=True):
        piece = text[left:right]
        stripped = piece.strip()
        if stripped:
            first = left + len(piece) - len(piece.lstrip())
            spans.append((first, first + len(stripped)))
    return spans
