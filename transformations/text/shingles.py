"""Texts in, hashes of their word shingles, and keys that texts with mostly the same shingles share, out.

Everything is a function of the text alone: no seed, clock or machine changes a hash, so the stored keys of one run can
be compared with those of another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from transformations.errors import ConfigurationError
from transformations.text.canonical_text import nfc

Hashes = npt.NDArray[np.uint64]

# Words in a shingle. With fewer, unrelated texts share common phrases; with more, an edited word spoils more shingles.
WORDS_A_SHINGLE = 3
# How many of a longer text's hashes, the smallest ones, stand for it.
SKETCH_SIZE = 4096
_MINIMA = 128
# The least probability that a pair at the threshold shares a key; a pair above it has a higher one.
_MEETS = 0.995
# In scripts that are written without blanks, each sign counts as a word.
_WORD = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|\\w+")
# Hashes that are worked on at once: 2 MB, which fit into a processor's cache.
_AT_ONCE = 1 << 18


def _constant(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")


# With an odd factor, x → factor * x + term modulo 2^64 is a permutation of the 64-bit numbers.
_FACTORS = np.array([_constant(f"factor {n}") | 1 for n in range(_MINIMA)], dtype=np.uint64)
_TERMS = np.array([_constant(f"term {n}") for n in range(_MINIMA)], dtype=np.uint64)
_MIX = np.uint64(_constant("mix") | 1)
_HALF = np.uint64(32)


class _WordHashes(dict[str, int]):
    """Word → hash; each word is hashed once."""

    def __missing__(self, word: str) -> int:
        value = self[word] = _constant(word)
        return value


def words(text: str) -> list[str]:
    """The words of `text`; case, punctuation, layout and the encoding of a letter do not count.

    >>> words("Ｓtra\u00dfe -- 2nd, caf\u0065\u0301")
    ['strasse', '2nd', 'café']
    """
    return _WORD.findall(nfc(text, "NFKC").casefold())


def shingles(text: str, known: dict[str, int] | None = None) -> Hashes:
    """Hash every run of `WORDS_A_SHINGLE` words of `text`, in order; a shorter text is one shingle, an empty one none.

    Args:
        known: hashes of words that were met already; new ones are added to it.
    """
    found = words(text)
    if not found:
        return np.empty(0, dtype=np.uint64)
    known = _WordHashes() if known is None else known
    hashes = np.fromiter(map(known.__getitem__, found), dtype=np.uint64, count=len(found))
    size = min(WORDS_A_SHINGLE, len(found))
    mixed = np.zeros(len(found) - size + 1, dtype=np.uint64)
    for start in range(size):
        mixed = _mixed(mixed, hashes[start : len(found) - size + 1 + start])
    return mixed


def sketch(text: str) -> npt.NDArray[np.int64]:
    """The `SKETCH_SIZE` smallest distinct hashes of `shingles`, 63 bits each; all of them if there are fewer.

    Of the smallest hashes of two texts together, the share that both have is an unbiased estimate of the Jaccard
    similarity of the two sets; it is exact if both sketches hold all hashes.
    """
    return np.unique(shingles(text) >> np.uint64(1))[:SKETCH_SIZE].view(np.int64)


def meeting_keys(texts: Sequence[str], *, threshold: float) -> list[Hashes]:
    """MinHash with banding: keys for each text. Two texts whose shingles have Jaccard similarity s share a key with
    probability 1 - (1 - s^rows)^bands.

    A band has as many rows as possible while a pair at `threshold` still shares a key with a probability of at least
    99.5 %. A text without words has no keys.

    Raises:
        ConfigurationError: the threshold is not above 0 and at most 1.
    """
    rows = rows_of_a_band(threshold)
    bands = _MINIMA // rows
    none = np.empty(0, dtype=np.uint64)
    keys: list[Hashes] = []
    known, waiting, size = _WordHashes(), [], 0
    for number, text in enumerate(texts):
        hashes = shingles(text, known)
        waiting.append(hashes)
        size += len(hashes)
        if size >= _AT_ONCE or number == len(texts) - 1:
            full = [hashes for hashes in waiting if len(hashes)]
            found = iter(_band_keys(_minima(full, bands * rows), bands) if full else ())
            keys.extend(next(found) if len(hashes) else none for hashes in waiting)
            waiting, size = [], 0
    return keys


def rows_of_a_band(threshold: float) -> int:
    """How many minima of a band two texts must share to have a key in common; with more, fewer pairs share one in vain.

    >>> [rows_of_a_band(threshold) for threshold in (0.5, 0.8, 0.9, 1.0)]
    [3, 6, 9, 128]
    """
    if not 0 < threshold <= 1:
        raise ConfigurationError(f"the threshold of near-duplicates is a share above 0 and at most 1, not {threshold}.")
    fitting = (r for r in range(_MINIMA, 0, -1) if 1 - (1 - threshold**r) ** (_MINIMA // r) >= _MEETS)
    return next(fitting, 1)


def _minima(hashes: Sequence[Hashes], count: int) -> Hashes:
    """(count, texts): the smallest hash of each non-empty text under each of `count` permutations."""
    starts = np.cumsum([0, *map(len, hashes[:-1])])
    together = np.concatenate(hashes)
    minima = np.empty((count, len(hashes)), dtype=np.uint64)
    for number in range(count):
        np.minimum.reduceat(together * _FACTORS[number] + _TERMS[number], starts, out=minima[number])
    return minima


def _band_keys(minima: Hashes, bands: int) -> Hashes:
    """(texts, bands): one hash for each band of minima; the number of the band is part of it."""
    by_band = minima.reshape(bands, -1, minima.shape[1])
    keys = np.repeat(np.arange(bands, dtype=np.uint64)[:, None], minima.shape[1], axis=1)
    for row in range(by_band.shape[1]):
        keys = _mixed(keys, by_band[:, row])
    return np.ascontiguousarray(keys.T)


def _mixed(hashes: Hashes, more: Hashes) -> Hashes:
    """One hash of both; their order counts."""
    mixed: Hashes = (hashes ^ more) * _MIX
    mixed ^= mixed >> _HALF
    mixed *= _MIX
    mixed ^= mixed >> _HALF
    return mixed
