"""Markdown of one document in, its chunks out: what is embedded, indexed and shown as a source.

A chunk never crosses a heading. If a section is too long for one chunk, its content decides where it is cut, not a
counter: it is cut before the block whose beginning has the smallest hash, and both parts are cut again until everything
fits. So a boundary far from an edit stays where it was, and an edit changes the chunk that it touches and rarely a
neighbour. Packing from the front would shift every chunk after the edit.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b, sha256
from itertools import accumulate, groupby

from transformations.text.blocks import Block, split_blocks
from transformations.text.canonical_text import normalise_text, text_hash
from transformations.text.chunk_parts import Part, part_of, render_parts, split_part

CountTokens = Callable[[Sequence[str]], list[int]]

MIN_MAX_TOKENS = 16
# A chunk has a limit in characters too, because a model takes a long unknown word, or a run of a script without blanks,
# for a single token. Prose has some five characters for each token, and never eight.
CHARACTERS_PER_TOKEN = 8
# A cut leaves at least a sixth of the limit on both sides, if there is such a cut.
_MIN_SHARE = 6
# Added to a boundary's rank: a cut inside one block (a paragraph too long for a chunk) comes after every cut between
# two blocks, and a cut before a line of code that is indented or closes a bracket comes last.
_INNER = 1 << 64
_CONTINUES_CODE = tuple(" \t)]}")
# How many characters of a block's beginning decide whether a chunk begins there.
_KEY_CHARACTERS = 64


@dataclass(frozen=True)
class Chunk:
    """One chunk of one document.

    Attributes:
        ordinal: place in the document, from 0. Edits change it, so it is no key.
        heading_path: the headings above, outermost first; if all together take more than half of a chunk, outer ones
            are left out.
        text: Markdown.
        embed_text: the heading path, a newline and the text (the text alone without headings): what is embedded.
        text_hash: `text_hash(embed_text)`.
        token_count: tokens of `embed_text`, at most the limit.
        occurrence: 0 for the first chunk of the document with this `text_hash`, 1 for the next.
    """

    ordinal: int
    heading_path: tuple[str, ...]
    text: str
    embed_text: str
    text_hash: str
    token_count: int
    occurrence: int


def chunk_id(document_id: str, *, text_hash: str, occurrence: int) -> str:
    """Return the chunk's key, 32 hex digits, made from document and text: a move inside the document keeps it."""
    return sha256(f"{document_id}\0{text_hash}\0{occurrence}".encode()).hexdigest()[:32]


def chunk_markdown(
    text: str, *, max_tokens: int, count_tokens: CountTokens, max_characters: int | None = None
) -> list[Chunk]:
    """Split the Markdown of one document into chunks of at most `max_tokens` tokens and `max_characters` characters.

    Every word of the text is in a chunk (as text or as heading path). The same text gives the same chunks on every
    platform. A text too long for one chunk is cut between blocks, then between sentences or lines, then words, and last
    between characters; a letter is separated from its marks only if nothing else is left.

    Args:
        text: Markdown.
        max_tokens: limit for `embed_text`, at least 16, in the unit of `count_tokens`.
        count_tokens: gives the number of tokens of each text of a batch, as the embedding model counts them. It is
            called a few times for a document, with many texts each. Tokens that it adds to every text ("[CLS]",
            "[SEP]") may be in the count.
        max_characters: limit for `embed_text` in Unicode code points, at least `max_tokens`; None: eight for each
            token.

    Raises:
        ValueError: `max_tokens` is under 16, `max_characters` is under `max_tokens`, or a single character does not
            fit.

    >>> words = lambda texts: [len(t.split()) for t in texts]
    >>> [c.embed_text for c in chunk_markdown("# A\\n\\none\\n\\n## B\\n\\ntwo", max_tokens=16, count_tokens=words)]
    ['A\\none', 'A > B\\ntwo']
    """
    if max_tokens < MIN_MAX_TOKENS:
        raise ValueError(f"max_tokens={max_tokens} is too small for a chunk; use {MIN_MAX_TOKENS} or more")
    max_characters = CHARACTERS_PER_TOKEN * max_tokens if max_characters is None else max_characters
    if max_characters < max_tokens:
        raise ValueError(f"max_characters={max_characters} is less than max_tokens={max_tokens}: a token has one")
    blocks = split_blocks(normalise_text(text))
    if not blocks:
        return []
    counter = _Counter(count_tokens, max_tokens=max_tokens, max_characters=max_characters)
    paths = _short_paths(blocks, max_tokens=max_tokens, counter=counter)
    spare = {path: max_tokens - counter.fixed - counter.costs[_path_text(short)] for path, short in paths.items()}
    parts = [part_of(block, number) for number, block in enumerate(_with_lost_headings(blocks, paths))]
    parts = _small_parts(parts, spare=spare, counter=counter)
    groups: list[list[Part]] = []
    for _, section in groupby(parts, key=lambda part: part.section):
        units = _with_lead_ins(list(section), spare=spare, counter=counter)
        groups += _cut(units, limit=spare[units[0][0].heading_path], counter=counter)
    return _fitting_chunks(groups, paths=paths, max_tokens=max_tokens, counter=counter)


class _Counter:
    """Counts, once for each text, how much of a chunk it takes: its tokens, or its share of the characters if more.

    `costs` are without the tokens that the tokenizer adds to every text; `totals` and `tokens` are with them.
    """

    def __init__(self, count_tokens: CountTokens, *, max_tokens: int, max_characters: int) -> None:
        self._count_tokens = count_tokens
        self._max_tokens, self._max_characters = max_tokens, max_characters
        self.costs: dict[str, int] = {}
        self.tokens: dict[str, int] = {}
        self.fixed = count_tokens([""])[0]

    def load(self, texts: Sequence[str]) -> None:
        new = list(dict.fromkeys(text for text in texts if text not in self.costs))
        if new:
            for text, count in zip(new, self._count_tokens(new), strict=True):
                self.tokens[text] = count
                self.costs[text] = max(count - self.fixed, self._of_characters(text))

    def totals(self, texts: Sequence[str]) -> list[int]:
        self.load(texts)
        return [max(self.tokens[text], self._of_characters(text)) for text in texts]

    def _of_characters(self, text: str) -> int:
        return -(-len(text) * self._max_tokens // self._max_characters)


def _path_text(path: tuple[str, ...]) -> str:
    return " > ".join(path)


def _short_paths(
    blocks: Sequence[Block], *, max_tokens: int, counter: _Counter
) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Each heading path -> the longest part of its end that takes at most half of a chunk, possibly nothing."""
    paths = list(dict.fromkeys(block.heading_path for block in blocks))
    short = {path: path for path in paths}
    while True:
        counter.load([_path_text(path) for path in short.values()])
        long = [p for p, s in short.items() if s and counter.costs[_path_text(s)] + counter.fixed > max_tokens // 2]
        if not long:
            return short
        short.update((path, short[path][1:]) for path in long)


def _with_lost_headings(blocks: Sequence[Block], paths: dict[tuple[str, ...], tuple[str, ...]]) -> list[Block]:
    """Put headings that were left out of the path in front of their section, as a paragraph."""
    complete: list[Block] = []
    for block in blocks:
        is_first = not complete or complete[-1].section != block.section
        lost = block.heading_path[: len(block.heading_path) - len(paths[block.heading_path])]
        if is_first and lost:
            complete.append(Block(block.section, block.heading_path, "paragraph", _path_text(lost)))
        complete.append(block)
    return complete


def _small_parts(parts: list[Part], *, spare: dict[tuple[str, ...], int], counter: _Counter) -> list[Part]:
    """Split every part that no chunk can hold: in each round one level finer, with one batch of counts."""
    while True:
        counter.load([part.text for part in parts])
        small: list[Part] = []
        for part in parts:
            if counter.costs[part.text] <= spare[part.heading_path]:
                small.append(part)
            else:
                small += split_part(part)
        if len(small) == len(parts) and all(new.level == old.level for new, old in zip(small, parts, strict=True)):
            return small
        parts = small


def _with_lead_ins(parts: list[Part], *, spare: dict[tuple[str, ...], int], counter: _Counter) -> list[list[Part]]:
    """Group parts into units that are not cut: a paragraph that ends with a colon stays with the next part, if both
    fit."""
    units: list[list[Part]] = []
    for part in parts:
        if units and units[-1][-1].is_lead_in and units[-1][-1].origin != part.origin:
            cost = sum(counter.costs[p.text] for p in units[-1]) + counter.costs[part.text]
            if cost <= spare[part.heading_path]:
                units[-1].append(part)
                continue
        units.append([part])
    return units


def _cut(units: list[list[Part]], *, limit: int, counter: _Counter) -> list[list[Part]]:
    """Cut the units of one section into runs of at most `limit` tokens, at boundaries chosen by content.

    It takes O(n log n) for n units: the smallest hash of a range comes from a sparse table, and the range itself (all
    cuts that leave enough on both sides) from a bisection of the running totals.
    """
    sums = [0, *accumulate(sum(counter.costs[part.text] for part in unit) for unit in units)]
    if sums[-1] <= limit:
        return [[part for unit in units for part in unit]]
    smallest = _SmallestInRange([_boundary_key(units[i - 1], units[i]) for i in range(1, len(units))])
    minimum = max(limit // _MIN_SHARE, 1)
    runs: list[list[Part]] = []
    pending = [(0, len(units))]
    while pending:
        start, end = pending.pop()
        if sums[end] - sums[start] <= limit or end - start == 1:
            runs.append([part for unit in units[start:end] for part in unit])
            continue
        first = max(bisect_left(sums, sums[start] + minimum), start + 1)
        last = min(bisect_right(sums, sums[end] - minimum) - 1, end - 1)
        if first > last:  # one unit outweighs all others, so every boundary is allowed
            first, last = start + 1, end - 1
        cut = smallest.index(first - 1, last) + 1  # boundary i lies before unit i + 1
        pending += [(cut, end), (start, cut)]
    return runs


def _boundary_key(left: list[Part], right: list[Part]) -> int:
    """The rank of a boundary, from the beginning of the text after it; the smallest is cut first.

    Nothing else of the text counts, so an edit further on in that block, or in the block before, leaves the boundary
    where it is.
    """
    first = right[0]
    digest = blake2b(first.text[:_KEY_CHARACTERS].encode(), digest_size=8).digest()
    is_inner = left[-1].origin == first.origin
    is_inside_code = is_inner and first.kind == "code" and first.text[:1] in _CONTINUES_CODE
    return int.from_bytes(digest, "big") + _INNER * (is_inner + is_inside_code)


class _SmallestInRange:
    """Finds the index of the smallest of `keys[start:end]` (of equal ones the first) in a sparse table of indices."""

    def __init__(self, keys: list[int]) -> None:
        self._keys = keys
        self._table = [list(range(len(keys)))]
        width = 1
        while 2 * width <= len(keys):
            row = self._table[-1]
            self._table.append([self._better(row[i], row[i + width]) for i in range(len(row) - width)])
            width *= 2

    def _better(self, i: int, j: int) -> int:
        return j if self._keys[j] < self._keys[i] else i

    def index(self, start: int, end: int) -> int:
        level = (end - start).bit_length() - 1
        row = self._table[level]
        return self._better(row[start], row[end - (1 << level)])


def _fitting_chunks(
    groups: list[list[Part]],
    *,
    paths: dict[tuple[str, ...], tuple[str, ...]],
    max_tokens: int,
    counter: _Counter,
) -> list[Chunk]:
    """Render the groups, and cut again those that are over the limit as a whole: fences add tokens, and joined texts
    can have more tokens than their parts."""
    while True:
        rendered = []
        for group in groups:
            path, text = paths[group[0].heading_path], render_parts(group)
            rendered.append((path, text, f"{_path_text(path)}\n{text}" if path else text))
        totals = counter.totals([embed_text for _, _, embed_text in rendered])
        if all(total <= max_tokens for total in totals):
            break
        finer: list[list[Part]] = []
        for group, total in zip(groups, totals, strict=True):
            finer += [group] if total <= max_tokens else _halves(group, max_tokens=max_tokens, counter=counter)
        groups = finer
    seen: Counter[str] = Counter()
    chunks: list[Chunk] = []
    for ordinal, (path, text, embed_text) in enumerate(rendered):
        hash_ = text_hash(embed_text)
        chunks.append(Chunk(ordinal, path, text, embed_text, hash_, counter.tokens[embed_text], seen[hash_]))
        seen[hash_] += 1
    return chunks


def _halves(group: list[Part], *, max_tokens: int, counter: _Counter) -> list[list[Part]]:
    """Cut a group that is too long as a whole into two or more."""
    if len(group) == 1:
        finer = split_part(group[0])
        if finer == group and group[0].fence:  # the last resort: it is the fence that does not fit
            finer = [replace(group[0], fence=None)]
        if finer == group:
            raise ValueError(f"{group[0].text!r} is more than max_tokens={max_tokens} tokens; use a larger limit")
        if len(finer) == 1:
            return [finer]
        group = finer
    counter.load([part.text for part in group])
    total = sum(counter.costs[part.text] for part in group)
    runs = _cut([[part] for part in group], limit=max(total - 1, 1), counter=counter)
    return runs if len(runs) > 1 else [[part] for part in group]
