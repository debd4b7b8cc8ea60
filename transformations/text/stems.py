"""An English text in, the stems of its words that carry content out; identifiers of code stay whole."""

from __future__ import annotations

import re
from functools import lru_cache

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
IDENTIFIER = re.compile(
    r"(?<![\w-])--[A-Za-z][\w-]*"  # --option
    r"|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+"  # dotted.name
    r"|(?<!\w)\w*[A-Za-z]\w*_\w*|(?<!\w)_\w*[A-Za-z]\w*"  # snake_case
    r"|(?<!\w)[A-Za-z]\w*(?=\(\))"  # call()
    r"|(?<!\w)[A-Za-z]+[a-z0-9][A-Z]\w*"  # CamelCase
)
STOP_WORDS = frozenset(
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


def content_stems(text: str) -> list[str]:
    """Stems of the words of `text` that carry content, in order, with repeats; identifiers stay whole.

    >>> content_stems("The captured outputs of tmp_path are captured")
    ['captur', 'output', 'tmp_path', 'captur']
    """
    found: list[str] = []
    position = 0
    for match in IDENTIFIER.finditer(text):
        found += _word_stems(text[position : match.start()])
        if match[0].lower() not in STOP_WORDS:
            found.append(match[0])
        position = match.end()
    return found + _word_stems(text[position:])


def _word_stems(text: str) -> list[str]:
    words = (word.lower() for word in _WORD.findall(text))
    return [stem(word) for word in words if len(word) > 1 and word not in STOP_WORDS]


@lru_cache(maxsize=20_000)
def stem(word: str) -> str:
    """`word` without its English ending; crude on purpose, since both texts of a comparison are treated alike."""
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
