"""Shingles and the keys under which similar texts meet, without Spark."""

from __future__ import annotations

import random

import numpy as np
import pytest

from transformations.errors import ConfigurationError
from transformations.text.shingles import SKETCH_SIZE, _band_keys, _minima, meeting_keys, shingles, sketch, words


def test_a_text_is_its_words_whatever_their_case_punctuation_and_layout():
    assert words("The quick,\n  BROWN fox!") == ["the", "quick", "brown", "fox"]
    assert words("caf\u00e9 \uff21\uff22\uff23") == words("cafe\u0301 ABC") == ["café", "abc"]
    assert words("東京タワー 2024") == [*"東京タワー", "2024"]
    assert words(" -- !? \n") == []


def test_hashes_of_a_release_are_those_of_the_next_one():
    """Stored keys are compared with new ones: a change here means a new version of the stage's definition."""
    assert [f"{h:016x}" for h in shingles("the quick brown fox")] == ["b7b79440523748cb", "6ea0cc23238a9551"]
    [keys] = meeting_keys(["the quick brown fox"], threshold=0.8)
    assert (len(keys), f"{keys[0]:016x}", f"{keys[20]:016x}") == (21, "256c720ce6187b77", "3869fd5a4e09d5db")


def test_a_text_shorter_than_a_shingle_is_one_and_a_text_without_words_is_none():
    assert len(shingles("two words")) == len(shingles("now three words")) == 1
    assert shingles("two words") != shingles("words two")
    assert len(shingles("?!")) == len(sketch("")) == 0
    one, none, two = meeting_keys(["two words", "...", "Two, words."], threshold=0.8)
    assert len(none) == 0
    np.testing.assert_array_equal(one, two)


def test_keys_do_not_depend_on_what_else_is_in_the_batch():
    texts = [" ".join(random.Random(n).choices("abcdefgh", k=n * 40)) for n in range(200)]
    together = meeting_keys(texts, threshold=0.8)
    assert sum(map(len, texts)) > 1 << 20, "several rounds of hashing"
    for number in (0, 1, 7, 199):
        np.testing.assert_array_equal(together[number], meeting_keys([texts[number]], threshold=0.8)[0])


@pytest.mark.parametrize("similarity", [0.3, 0.6, 0.8, 0.9])
def test_pairs_meet_as_often_as_the_theory_says(similarity: float):
    chance = random.Random(1)
    size, pairs, met = 300, 400, 0
    for _ in range(pairs):
        shared = round(2 * size * similarity / (1 + similarity))
        common = [chance.getrandbits(60) for _ in range(shared)]
        texts = []
        for _ in range(2):
            # Each "sentence" of three words of its own is one shingle of the kind that counts; those across are noise.
            own = [chance.getrandbits(60) for _ in range(size - shared)]
            texts.append(_Shingles(np.array([*common, *own], dtype=np.uint64)))
        met += _meet(*texts)
    expected = 1 - (1 - similarity**6) ** 21
    assert met / pairs == pytest.approx(expected, abs=0.06)


class _Shingles:
    """A set of shingles that are random hashes, as those of a text are."""

    def __init__(self, hashes: np.ndarray) -> None:
        self.hashes = hashes * np.uint64(0x9E3779B97F4A7C15)


def _meet(left: _Shingles, right: _Shingles) -> bool:

    a, b = _band_keys(_minima([left.hashes, right.hashes], 126), 21)
    return bool((a == b).any())


def test_the_sketch_of_a_long_text_estimates_its_similarity():
    chance = random.Random(5)
    left = [str(chance.getrandbits(40)) for _ in range(20_000)]
    right = [word if chance.random() > 0.03 else "changed" for word in left]
    exact = {tuple(t[i : i + 3]) for t in (left,) for i in range(len(t) - 2)}
    other = {tuple(t[i : i + 3]) for t in (right,) for i in range(len(t) - 2)}
    a, b = sketch(" ".join(left)), sketch(" ".join(right))
    assert len(a) == len(b) == SKETCH_SIZE
    compared = np.union1d(a, b)[:SKETCH_SIZE]
    estimate = np.isin(compared, np.intersect1d(a, b)).mean()
    assert estimate == pytest.approx(len(exact & other) / len(exact | other), abs=0.03)


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(threshold: float):
    with pytest.raises(ConfigurationError, match="above 0 and at most 1"):
        meeting_keys([], threshold=threshold)
