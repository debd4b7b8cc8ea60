"""An answer and its sources in; whether the sources support it, or the passage to quote instead, out.

A small model invents. So every sentence of an answer must be supported by one passage of one source (two
neighbouring sentences): most of its content words stand there, and all its numbers, identifiers, code and negations.
Words are compared by stem; the question's own words count for nothing, since repeating them says nothing.

This is a check of words, not of meaning: an answer that recombines a passage's words into something wrong passes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log

# A window of so many neighbouring sentences is one passage.
_PASSAGE_SENTENCES = 2
_QUOTE_CHARS = 500
_SHORT_CHARS = 60
_LATER_COSTS = 0.15
_LONGER_COSTS = 0.05
_FENCE = re.compile(r"^[ \t]*(```|~~~)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"(`+)(?=[^`])(.+?)\1")
_LIST_MARK = re.compile(r"^[ \t]*(?:[-*+]|\d{1,3}[.)])[ \t]+", re.MULTILINE)
_SENTENCE_END = re.compile(
    r"(?<=[.!?:])[\"')\]]*\s+(?=[\"'(\[`*A-Z0-9])|\n\s*\n|\n(?=[ \t]*(?:[-*+]|\d{1,3}[.)])[ \t])"
)
_ENDS_WELL = re.compile(r"[.!?`]['\")\]*]*$")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*(?![\w])")
_IDENTIFIER = re.compile(
    r"(?<![\w-])--[A-Za-z][\w-]*"  # --option
    r"|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+"  # dotted.name
    r"|(?<!\w)\w*[A-Za-z]\w*_\w*|(?<!\w)_\w*[A-Za-z]\w*"  # snake_case
    r"|(?<!\w)[A-Za-z]\w*(?=\(\))"  # call()
    r"|(?<!\w)[A-Za-z]+[a-z0-9][A-Z]\w*"  # CamelCase
)
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
# An answer says something if it names one thing, or has so many content words that the question has not.
_LEAST_NEW_WORDS = 3
# So much of the question must stand in a source for it to be about the question.
_LEAST_ASKED_RATIO = 0.5
_STOP_WORDS = frozenset(
    """
    a about above after again all also am an and another any are as at be because been before being
    below between both but by can could did do does doing done down during each either etc every few
    following for from further get gets had has have having he her here hers him his how however i
    if in into is it its itself just let like may me might more most must my need needs next no nor
    now of off on once one only or other our out over own per same see she should so some such than
    that the their them then there these they this those through thus to too under until up us use
    used uses using very via want was way we well were what when where whether which while who whom
    whose why will with within would you your yours answer question source sources e.g i.e eg ie
    example following not never cannot none neither without
    """.split()  # noqa: SIM905 - a list of 180 literals would hide what it says
)


@dataclass(frozen=True)
class Grounding:
    """How well an answer's sources support it.

    Attributes:
        is_grounded: whether the answer may be given as it is.
        ratio: share of its content words that stand in the supporting passages, 0 to 1.
        reason: why it is not grounded, in words; "" where it is.
    """

    is_grounded: bool
    ratio: float
    reason: str = ""


@dataclass(frozen=True)
class Quotation:
    """Sentences as they stand in a source. `source` is its place in the list of sources."""

    text: str
    source: int


def judge(answer: str, *, question: str, sources: Sequence[str], min_ratio: float) -> Grounding:
    """Whether `sources` support `answer`, sentence by sentence.

    Args:
        answer: what the model wrote; see `finished` for one that was cut off.
        question: its words are not counted.
        sources: the texts that the model was shown.
        min_ratio: least share of content words that the passages must contain.

    >>> source = "Use the capsys fixture. Its readouterr() method returns the captured output so far."
    >>> judge("The readouterr() method of capsys returns it.", question="?", sources=[source], min_ratio=0.6).ratio
    1.0
    >>> judge("Call capsys.flush_all().", question="?", sources=[source], min_ratio=0.6).reason
    "the sources do not contain 'capsys.flush_all'"
    """
    answer = answer.strip()
    if not answer:
        return Grounding(False, 0.0, "the answer is empty")
    if _REFUSAL.search(answer):
        return Grounding(False, 0.0, "the answer refuses")
    sentences = split_sentences(answer)
    if not _ENDS_WELL.search(answer) or len(set(sentences)) < len(sentences):
        return Grounding(False, 0.0, "the answer does not come to an end")

    whole = _plain("\n".join(sources))
    for fact in _facts(answer):
        if not _contains(whole, fact):
            return Grounding(False, 0.0, f"the sources do not contain {fact!r}")

    asked = frozenset(content_stems(question))
    passages = [p for source in sources for p in _passages(source, asked=asked)]
    if not passages:
        return Grounding(False, 0.0, "there are no sources")
    counted = found = 0
    for sentence in sentences:
        stems = [s for s in content_stems(sentence) if s not in asked]
        passage = max(passages, key=lambda p: sum(s in p.stems for s in stems))
        counted, found = counted + len(stems), found + sum(s in passage.stems for s in stems)
        if stems and _NEGATION.search(sentence) and not _NEGATION.search(passage.text):
            return Grounding(False, found / counted, "the answer denies what its source does not")
        if stems and passage.asked_ratio < _LEAST_ASKED_RATIO:
            return Grounding(False, found / counted, "the answer's source is not about the question")
    if counted < _LEAST_NEW_WORDS and not any(fact not in question for fact in _facts(answer)):
        return Grounding(False, 0.0, "the answer only repeats the question")
    ratio = found / counted if counted else 0.0
    if ratio < min_ratio:
        return Grounding(False, ratio, f"only {ratio:.0%} of the answer's words stand in its sources")
    return Grounding(True, ratio)


def quote(question: str, *, sources: Sequence[str], max_chars: int = _QUOTE_CHARS) -> Quotation | None:
    """The run of whole sentences that shares most with the question, or None where there is no source.

    Rare words of the question weigh more than common ones; an earlier source, and an earlier sentence, wins a tie.
    The text is cut out of its source unchanged, at most `max_chars` long unless one sentence alone is longer, or what
    follows its colon is.
    """
    split = [(i, spans) for i, source in enumerate(sources) if (spans := _spans(source))]
    if not split:
        return None
    stems = {(i, span): set(content_stems(sources[i][slice(*span)])) for i, spans in split for span in spans}
    known = Counter(stem for found in stems.values() for stem in found)
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
                score = sum(weight for stem, weight in weights.items() if stem in covered)
                score /= (1 + _LATER_COSTS * i) * (1 + _LONGER_COSTS * (last - first))
                if best is None or score > best[0]:
                    best = (score, i, first, last)
    assert best is not None
    _, i, first, last = best
    spans = dict(split)[i]
    start, end = spans[first][0], spans[last][1]
    # What comes after a colon is what was asked for, and a very short passage is hard to understand alone.
    while last + 1 < len(spans) and (
        sources[i][:end].endswith(":") or (end - start < _SHORT_CHARS and spans[last + 1][1] - start <= max_chars)
    ):
        last += 1
        end = spans[last][1]
    return Quotation(sources[i][start:end], i)


def finished(text: str) -> str:
    r"""What a model wrote, up to its last whole sentence, without repeats and without what stands around the answer.

    Returns "" where no sentence is whole.

    >>> finished("The answer is:\n### Capturing\nUse capsys. Use capsys. Then call")
    'Use capsys.'
    """
    text = _HEADING_LINE.sub("", _PREAMBLE.sub("", _HEADING_LINE.sub("", text)))
    kept: list[str] = []
    for start, end in _spans(text):
        sentence = text[start:end]
        if sentence in kept:
            break
        kept.append(sentence)
        cut = end
    while kept and not _ENDS_WELL.search(kept[-1]):
        cut -= len(kept.pop())
        cut = len(text[:cut].rstrip())
    return text[:cut].strip() if kept else ""


def split_sentences(text: str) -> list[str]:
    """Sentences, list items and fenced blocks of `text`, in order."""
    return [text[start:end] for start, end in _spans(text)]


def content_stems(text: str) -> list[str]:
    """Stems of the words of `text` that carry content, in order, with repeats; identifiers stay whole.

    >>> content_stems("The captured outputs of tmp_path are captured")
    ['captur', 'output', 'tmp_path', 'captur']
    """
    found: list[str] = []
    position = 0
    for match in _IDENTIFIER.finditer(text):
        found += _word_stems(text[position : match.start()])
        if match[0].lower() not in _STOP_WORDS:
            found.append(match[0])
        position = match.end()
    return found + _word_stems(text[position:])


def _word_stems(text: str) -> list[str]:
    words = (word.lower() for word in _WORD.findall(text))
    return [_stem(word) for word in words if len(word) > 1 and word not in _STOP_WORDS]


@lru_cache(maxsize=20_000)
def _stem(word: str) -> str:
    """English endings off; crude on purpose, since both sides are treated alike."""
    word = re.sub(r"['’].*$", "", word)
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    for ending, least in (
        ("ations", 9),
        ("ation", 8),
        ("ings", 7),
        ("ing", 6),
        ("ed", 5),
        ("es", 5),
        ("ly", 6),
        ("s", 4),
    ):
        if word.endswith(ending) and len(word) >= least and not word.endswith(("ss", "us", "is")):
            word = word[: -len(ending)]
            if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
                word = word[:-1]
            break
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


@dataclass(frozen=True)
class _Passage:
    text: str
    stems: frozenset[str]
    asked_ratio: float  # share of the question's words in the passage's whole source


def _passages(source: str, *, asked: frozenset[str]) -> Iterable[_Passage]:
    sentences = split_sentences(source)
    asked_ratio = len(asked & _stems_of_source(source)) / len(asked) if asked else 1.0
    for start in range(max(1, len(sentences) - _PASSAGE_SENTENCES + 1)):
        text = "\n".join(sentences[start : start + _PASSAGE_SENTENCES])
        yield _Passage(text, _stems_of_source(text), asked_ratio)


def _stems_of_source(text: str) -> frozenset[str]:
    """Stems of a source: identifiers whole and in parts, since code names in one piece what prose names in words."""
    stems = set(content_stems(text))
    return frozenset(stems | {_stem(word.lower()) for stem in stems for word in re.findall(r"[A-Za-z]{2,}", stem)})


def _facts(answer: str) -> list[str]:
    """What must stand in the sources letter by letter: code, then identifiers, then numbers."""
    facts = [line for block in _FENCE.finditer(answer) for line in block[2].splitlines()]
    prose = _FENCE.sub("\n", answer)
    facts += [m[2] for m in _INLINE_CODE.finditer(prose)]
    prose = _LIST_MARK.sub("", prose)
    facts += [m[0] for m in _IDENTIFIER.finditer(prose) if m[0].lower() not in _STOP_WORDS]
    facts += [m[0] for m in _NUMBER.finditer(prose)]
    return [f for fact in facts if (f := _plain(fact))]


def _plain(text: str) -> str:
    """Without the marks of Markdown, and every run of white space one blank."""
    return " ".join(re.sub(r"[`*]", "", text).split())


def _contains(text: str, fact: str) -> bool:
    pattern = re.escape(fact)
    before = r"(?<!\w)" if re.match(r"\w", fact) else ""
    after = r"(?!\w)" if re.search(r"\w$", fact) else ""
    return re.search(f"{before}{pattern}{after}", text) is not None


def _spans(text: str) -> list[tuple[int, int]]:
    """Start and end of every sentence; a fenced block is one."""
    spans: list[tuple[int, int]] = []
    position = 0
    for block in _FENCE.finditer(text):
        spans += _prose_spans(text, position, block.start())
        spans.append((block.start(), block.start() + len(block[0].rstrip())))
        position = block.end()
    return spans + _prose_spans(text, position, len(text))


def _prose_spans(text: str, start: int, end: int) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    edges = [start, *(e for m in _SENTENCE_END.finditer(text, start, end) for e in (m.start(), m.end())), end]
    for left, right in zip(edges[::2], edges[1::2], strict=True):
        piece = text[left:right]
        stripped = piece.strip()
        if stripped:
            first = left + len(piece) - len(piece.lstrip())
            spans.append((first, first + len(stripped)))
    return spans
