"""The embedding model of the settings: texts in, vectors out.

A model is one of ours, or a class of yours, named as `package.module:Class`. Its constructor takes no arguments. It has
the attributes `revision`, `dimension` and (optional) `instruction`, and a method `embed(texts, *, batch_size)` that
returns float32 [len(texts), dimension]. If it raises for a text, that text is set aside. It may also have `max_tokens`,
the number of tokens that it reads of a text; `count_tokens(texts)`, which counts by its own tokenizer, so that chunks
keep to the model's own limit; and `unknown_ratios(texts)`, the share of each text's letters that it cannot read. If
these two are static or class methods, texts are cut without loading the weights. If a model has no `count_tokens`,
MiniLM's tokenizer counts.

The default is MiniLM-L6-v2 in full precision, run by onnxruntime. Full precision matters: with a quantised model a
text's vector depends on the other texts of its batch, so an incremental run and a rebuild would disagree.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from inspect import getattr_static
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError
from transformations.text.chunks import CHARACTERS_PER_TOKEN

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MINILM = "all-minilm-l6-v2"
# Name → (revision, dimension). The revision is the release whose files pipelines/machine/assets.py pins by hash.
_REVISIONS = {_MINILM: ("1.20.0-beta30", 384)}


class Embeds(Protocol):
    """A loaded model."""

    def embed(self, texts: Sequence[str], *, batch_size: int = 8) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class EmbeddingModel:
    """The identity of a model: vectors can be compared only if all of it is equal.

    It is sent to executors; the weights are not.

    Attributes:
        name: the model's name in the settings.
        revision: the version of the weights.
        dimension: length of a vector.
        instruction: a prefix that the model wants before each text; "" for none.
        max_tokens: how many tokens of a text it reads; None if it does not say.
    """

    name: str
    revision: str
    dimension: int
    instruction: str = ""
    max_tokens: int | None = None

    @property
    def label(self) -> str:
        return f"{self.name}@{self.revision}/{self.dimension}" + (f"+{self.instruction}" if self.instruction else "")

    def load(self, *, threads: int) -> Embeds:
        """Load the model (ours takes some 0.4 s and 300 MB); a process loads it once for each number of threads."""
        with _loading:
            return _load(self, threads)


def embedding_model(settings: Settings) -> EmbeddingModel:
    """The model that the settings name."""
    return model_named(settings.embedding.model)


def chunk_limits(settings: Settings) -> tuple[int, int]:
    """The most tokens, and the most characters, of a chunk.

    Raises:
        ConfigurationError: a chunk could hold more tokens than the model reads, which would cut its end silently.
    """
    model, chunks = embedding_model(settings), settings.chunks
    if model.max_tokens is not None and chunks.max_tokens > model.max_tokens:
        raise ConfigurationError(
            f"chunks.max_tokens is {chunks.max_tokens}, but {model.name} reads {model.max_tokens} tokens of a text: "
            f"what follows would be found by nobody. Set chunks.max_tokens to {model.max_tokens} or less."
        )
    return chunks.max_tokens, chunks.max_characters or CHARACTERS_PER_TOKEN * chunks.max_tokens


@lru_cache
def model_named(name: str) -> EmbeddingModel:
    """The model of that name. Raises ConfigurationError if it is not one of ours or a class that can be imported."""
    if ":" in name:
        cls = _class_of(name)
        return EmbeddingModel(
            name,
            str(cls.revision),
            int(cls.dimension),
            getattr(cls, "instruction", ""),
            getattr(cls, "max_tokens", None),
        )
    if name not in _REVISIONS:
        raise ConfigurationError.unknown_name("embedding model", name, _REVISIONS)
    return EmbeddingModel(name, *_REVISIONS[name], max_tokens=Embedder.max_tokens)


def _class_of(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        cls = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"the embedding model {name!r} cannot be imported: {error}. It is package.module:Class, and must be on "
            "Python's path here and on the executors."
        ) from None
    if not all(hasattr(cls, needed) for needed in ("revision", "dimension", "embed")):
        raise ConfigurationError(f"the embedding model {name!r} needs revision, dimension and embed(texts, batch_size)")
    return cls


# With the cache alone, each thread that comes while a model is being loaded would load it again.
_loading = threading.Lock()
_reading = threading.Lock()


@lru_cache(maxsize=2)
def _load(model: EmbeddingModel, threads: int) -> Embeds:
    if ":" in model.name:
        loaded: Embeds = _class_of(model.name)()
        return loaded
    return Embedder(model, threads=threads)


@dataclass(frozen=True)
class TextReader:
    """How a model reads texts, before it embeds any.

    Attributes:
        label: the tokenizer's name; chunks that were cut with another tokenizer are cut again.
        count_tokens: gives the number of tokens of each text.
        unknown_ratios: gives the share of each text's letters that the model cannot read; None if it does not say.
    """

    label: str
    count_tokens: Callable[[Sequence[str]], list[int]]
    unknown_ratios: Callable[[Sequence[str]], Sequence[float | None]]


def text_reader(model: EmbeddingModel) -> TextReader:
    """The model's own way to read texts; if it has none, MiniLM's tokenizer as an estimate. Nothing is loaded yet."""
    cls = _class_of(model.name) if ":" in model.name else Embedder
    label = model.label if ":" in model.name and hasattr(cls, "count_tokens") else _MINILM
    return TextReader(
        label,
        _own(model, cls, "count_tokens") or count_tokens,
        _own(model, cls, "unknown_ratios") or (lambda texts: [None] * len(texts)),
    )


def _own(model: EmbeddingModel, cls: Any, method: str) -> Callable[[Sequence[str]], Any] | None:
    if not hasattr(cls, method):
        return None
    if isinstance(getattr_static(cls, method), staticmethod | classmethod):
        found: Callable[[Sequence[str]], Any] = getattr(cls, method)
        return found
    return lambda texts: getattr(model.load(threads=1), method)(texts)


@lru_cache(maxsize=1)
def load_tokenizer() -> Any:
    """MiniLM's tokenizer, without the truncation and padding to 128 tokens that its file asks for."""
    from tokenizers import Tokenizer

    from pipelines.machine.assets import embedding_model_dir

    tokenizer = Tokenizer.from_file(str(embedding_model_dir() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def count_tokens(texts: Sequence[str]) -> list[int]:
    """MiniLM's tokens of each text, without the two that mark its beginning and end."""
    return [sum(word.tokens for word in words) for words in _read_words(texts)]


def unknown_ratios(texts: Sequence[str]) -> list[float]:
    """The share of each text's characters, blanks aside, that MiniLM reads only as "[UNK]"."""
    return [
        min(sum(word.unread for word in words) / max(len("".join(text.split())), 1), 1.0)
        for text, words in zip(texts, _read_words(texts), strict=True)
    ]


class _Word(NamedTuple):
    """A piece of text between two blanks: its number of tokens, and how many characters MiniLM cannot read."""

    tokens: int
    unread: int


# MiniLM's tokenizer cuts at blanks first, and its result for a word does not depend on the neighbours. So each word is
# read once, and not again with each text. At most this many characters of words are kept (some 30 MB), and no word that
# is longer than the second number: in a script without blanks, a line is a word.
_KEPT_CHARACTERS, _LONGEST_KEPT = 1_000_000, 2_000
_BLANKS = re.compile(r"[ \t\r\n]+")
_words: dict[str, _Word] = {}
_kept_characters = 0


def _read_words(texts: Sequence[str]) -> list[list[_Word]]:
    """The words of each text; words that are not known yet are read in one batch."""
    global _kept_characters
    split = [_BLANKS.split(text) for text in texts]
    known = {word: _words.get(word) for words in split for word in words}
    new = [word for word, found in known.items() if found is None]
    if new:
        tokenizer = load_tokenizer()
        unknown = tokenizer.token_to_id("[UNK]")
        encoded = tokenizer.encode_batch(new, add_special_tokens=False)
        read = {word: _word(e, unknown=unknown) for word, e in zip(new, encoded, strict=True)}
        known |= read
        with _reading:
            if _kept_characters > _KEPT_CHARACTERS:
                _words.clear()
                _kept_characters = 0
            kept = {word: found for word, found in read.items() if len(word) <= _LONGEST_KEPT}
            _words.update(kept)
            _kept_characters += sum(map(len, kept))
    return [[found for word in words if (found := known[word])] for words in split]


def _word(encoded: Any, *, unknown: int) -> _Word:
    ids = encoded.ids
    if unknown not in ids:
        return _Word(len(ids), 0)
    places = zip(ids, encoded.offsets, strict=True)
    return _Word(len(ids), sum(end - start for token, (start, end) in places if token == unknown))


class Embedder:
    """MiniLM in this process: a vector is the mean of the last hidden states over the tokens, scaled to norm 1."""

    max_tokens = 512

    def __init__(self, model: EmbeddingModel, *, threads: int) -> None:
        import onnxruntime

        from pipelines.machine.assets import embedding_model_dir

        self.model = model
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The arena would keep the memory of the largest batch; without it a worker needs little more than the weights.
        options.enable_cpu_mem_arena = False
        self._session = onnxruntime.InferenceSession(
            str(embedding_model_dir() / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = load_tokenizer()

    count_tokens = staticmethod(count_tokens)
    unknown_ratios = staticmethod(unknown_ratios)

    def embed(self, texts: Sequence[str], *, batch_size: int = 8) -> NDArray[np.float32]:
        """Vectors of the texts, in their order: float32 [len(texts), dimension], unit norm.

        Texts of similar length are batched together, to save padding. A text is cut after 512 tokens.
        """
        import numpy as np

        vectors = np.empty((len(texts), self.model.dimension), dtype=np.float32)
        encoded = [
            e.ids[: self.max_tokens]
            for e in self._tokenizer.encode_batch_fast([self.model.instruction + t for t in texts])
        ]
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            width = max(len(encoded[i]) for i in rows)
            ids = np.zeros((len(rows), width), dtype=np.int64)
            mask = np.zeros((len(rows), width), dtype=np.int64)
            for row, i in enumerate(rows):
                ids[row, : len(encoded[i])] = encoded[i]
                mask[row, : len(encoded[i])] = 1
            feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            (hidden,) = self._session.run(["last_hidden_state"], feed)
            weights = mask[:, :, None].astype(np.float32)
            mean = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
            vectors[rows] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return vectors
