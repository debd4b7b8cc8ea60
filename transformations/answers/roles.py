"""A sentence of an answer and its source in, whether the sentence exchanges who did what to whom out.

The same words in another order say something else: "Alpha bought Beta" does not support "Beta bought Alpha".
"""

from __future__ import annotations

import re
from itertools import combinations

from transformations.text.stems import STOP_WORDS, stem

_TOKEN = re.compile(r"[^\W_]+(?:['’.\-][^\W_]+)*|[,;&]")
# A passive ("Beta was bought by Alpha") exchanges the two.
_PASSIVE = re.compile(r"\bby\b", re.IGNORECASE)
_BETWEEN = frozenset({"and", "or", "nor", "of", "the", "a", "an", "with", ",", ";", "&"})


def has_reversed_roles(sentence: str, source: str) -> bool:
    """Whether two names or numbers stand around a verb in the order opposite to every such place in `source`.

    >>> has_reversed_roles("Beta bought Alpha.", "In 2001 Alpha bought Beta for a dollar.")
    True
    >>> has_reversed_roles("Beta was bought by Alpha.", "In 2001 Alpha bought Beta for a dollar.")
    False
    """
    answer_words, source_words = _tokens(sentence), _tokens(source)
    is_turned = bool(_PASSIVE.search(sentence)) != bool(_PASSIVE.search(source))
    names = {key: place for place, (key, is_name) in enumerate(answer_words) if is_name}
    for one, other in combinations(names, 2):
        left, right = sorted((one, other), key=names.__getitem__)
        verbs = [
            key for key, is_name in answer_words[names[left] + 1 : names[right]] if not is_name and key not in _BETWEEN
        ]
        verbs = [key for key in verbs if key not in STOP_WORDS]
        here = [place for place, (key, _) in enumerate(source_words) if key == left]
        there = [place for place, (key, _) in enumerate(source_words) if key == right]
        if not verbs or not here or not there:
            continue
        # Whether `left` comes first, for each place where the source has a verb of the answer between the two.
        orders = {
            h < t
            for h in here
            for t in there
            if any(key in verbs for key, _ in source_words[min(h, t) + 1 : max(h, t)])
        }
        if orders == {is_turned}:
            return True
    return False


def _tokens(text: str) -> list[tuple[str, bool]]:
    """(stem, whether it is a name or a number) of every word, in order; the first word of a sentence counts as a name,
    since it has a capital."""
    found = []
    for match in _TOKEN.finditer(text):
        word = match[0]
        lower = word.lower()
        is_name = (word[0].isupper() or word[0].isdigit()) and lower not in STOP_WORDS
        found.append((lower if is_name or lower in STOP_WORDS else stem(lower), is_name))
    return found
