"""Tokenizers of text towers: files from a local folder or the hub, or a stand-in that needs none.

Weights that were trained need the vocabulary they were trained with (:func:`load_tokenizer`). ``random`` and ``tiny``
weights mean nothing whatever the numbers of the words are, so they take :class:`StandInTokenizer` and work offline.
"""

from __future__ import annotations

import functools
import hashlib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fairmedfm_monai.networks.integrity import WeightsError, damage
from fairmedfm_monai.networks.tokenizer_files import VOCABULARIES, fetch_tokenizer
from fairmedfm_monai.networks.weights import weights_kind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Tokens(NamedTuple):
    """Tokenized texts.

    Attributes:
        ids: (N, L) int64, padded on the right.
        mask: (N, L) int64, 1 = a token, 0 = padding.
    """

    ids: Tensor
    mask: Tensor


class Tokenizer(Protocol):
    """What :func:`tokenize` needs."""

    pad: int

    def numbers(self, text: str) -> list[int]:
        """Numbers of all tokens of ``text``, special ones included, never cut."""
        ...

    def pieces(self, numbers: Sequence[int]) -> list[str]:
        """Names of tokens, e.g. ``["[CLS]", "pleura", "##l", "[SEP]"]``."""
        ...


@dataclass(frozen=True)
class TokenizerSource:
    """Where the tokenizer of one model is found, and the layout that its stand-in copies.

    Args:
        repo: Hugging Face repository.
        folder: folder inside the folder of weights for its files.
        cls: name of a tokenizer class of transformers, one of ``VOCABULARIES``.
        options: further arguments of that class's ``from_pretrained``.
        begin: special tokens before a text (BERT's [CLS]).
        end: special tokens after it (BERT's [SEP]).
        pad: number of the padding.
        first: smallest number of an ordinary word.
    """

    repo: str
    folder: str
    cls: str = "BertTokenizer"
    options: Mapping[str, Any] = field(default_factory=dict)
    begin: tuple[int, ...] = (101,)
    end: tuple[int, ...] = (102,)
    pad: int = 0
    first: int = 104


def find_tokenizer(source: TokenizerSource, weights: str | Path, *, words: int) -> Tokenizer:
    """The published tokenizer, or a stand-in where ``weights`` is ``random`` or ``tiny``. Call it on first use.

    Args:
        source: where it is found.
        weights: as given to the encoder.
        words: size of the encoder's vocabulary.

    Raises:
        WeightsError: see :func:`load_tokenizer`.
    """
    if weights_kind(weights) in {"random", "tiny"}:
        return StandInTokenizer(words, begin=source.begin, end=source.end, pad=source.pad, first=source.first)
    return load_tokenizer(source.repo, source.folder, source.cls, **source.options)


def load_tokenizer(repo: str, folder: str, cls: str, **options: Any) -> Tokenizer:
    """The tokenizer in ``<FAIRMEDFM_HOME>/weights/<folder>``, whose files come from the hub if they are not there.

    Only data is read: the class is one of transformers' own, code of a repository is never run.

    Args:
        repo: Hugging Face repository.
        folder: folder inside the folder of weights.
        cls: name of a tokenizer class of transformers, one of ``VOCABULARIES``.
        options: further arguments of its ``from_pretrained``.

    Raises:
        WeightsError: if there is no vocabulary and none can be fetched, or it cannot be read.
    """
    return _read(fetch_tokenizer(repo, folder, VOCABULARIES[cls]).parent, cls, tuple(sorted(options.items())))


@functools.cache
def _read(place: Path, cls: str, options: tuple[tuple[str, Any], ...]) -> Tokenizer:
    import transformers

    try:
        loaded = getattr(transformers, cls).from_pretrained(str(place), local_files_only=True, **dict(options))
    except Exception as error:
        broken = [(file.name, damage(file)) for file in sorted(place.iterdir()) if file.suffix in {".model", ".txt"}]
        seen = next((f"; {name} is {noun}" for name, noun in broken if noun), "")
        msg = (
            f"the tokenizer files in {place} cannot be read as {cls} ({type(error).__name__}: {error}{seen}); "
            "delete them and fetch them again"
        )
        raise WeightsError(msg) from error
    return LibraryTokenizer(loaded)


class LibraryTokenizer:
    """A tokenizer of transformers.

    Args:
        tokenizer: any of them that has a padding token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.pad = int(tokenizer.pad_token_id)

    def numbers(self, text: str) -> list[int]:
        """Numbers of all tokens of ``text``, special ones included, never cut."""
        return list(self._tokenizer(text, verbose=False)["input_ids"])

    def pieces(self, numbers: Sequence[int]) -> list[str]:
        """Names of tokens."""
        return list(self._tokenizer.convert_ids_to_tokens(list(numbers)))


class StandInTokenizer:
    """One token for each word and punctuation mark, whose number is a hash of it: the same on every machine.

    For weights that were never trained; it knows no vocabulary and splits no word.

    Args:
        words: size of the vocabulary.
        begin: special tokens before a text.
        end: special tokens after it.
        pad: number of the padding.
        first: smallest number of an ordinary word.

    Raises:
        ValueError: if ``words`` leaves no number for ordinary words.
    """

    def __init__(
        self,
        words: int,
        *,
        begin: Sequence[int] = (101,),
        end: Sequence[int] = (102,),
        pad: int = 0,
        first: int = 104,
    ) -> None:
        if words <= first:
            msg = f"`words` must be above `first` ({first}), but got {words}"
            raise ValueError(msg)
        self.pad = pad
        self._words, self._begin, self._end, self._first = words, list(begin), list(end), first

    def numbers(self, text: str) -> list[int]:
        """Numbers of all tokens of ``text``, special ones included, never cut. Case is ignored."""
        return [*self._begin, *map(self._number, re.findall(r"\w+|[^\w\s]", text.lower())), *self._end]

    def _number(self, word: str) -> int:
        digest = hashlib.sha256(word.encode()).digest()
        return self._first + int.from_bytes(digest[:8], "big") % (self._words - self._first)

    def pieces(self, numbers: Sequence[int]) -> list[str]:
        """Names of tokens: BERT's for the special ones, ``w<number>`` for the others."""
        names = dict.fromkeys(self._begin, "[CLS]") | dict.fromkeys(self._end, "[SEP]") | {self.pad: "[PAD]"}
        return [names.get(number, f"w{number}") for number in numbers]


def tokenize(
    tokenizer: Tokenizer, texts: Sequence[str], *, limit: int, model: str, pad_to: int | None = None
) -> Tokens:
    """Numbers of N texts, cut to ``limit`` tokens (the last token stays) and padded on the right.

    A warning counts the texts that were cut.

    Args:
        tokenizer: of the model.
        texts: N texts.
        limit: largest number of tokens, special ones included.
        model: name for the warning.
        pad_to: length of the result; None = that of the longest text.

    Raises:
        ValueError: see :func:`check_texts`.
    """
    check_texts(texts)
    rows = [tokenizer.numbers(text) for text in texts]
    warn_cut(texts, [len(row) for row in rows], limit=limit, model=model)
    rows = [row if len(row) <= limit else [*row[: limit - 1], row[-1]] for row in rows]
    width = max(pad_to or 0, *map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad] * (width - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return Tokens(ids, (torch.arange(width) < lengths[:, None]).long())


def check_texts(texts: Sequence[str]) -> None:
    """Refuse what is no list of prompts: a single string, an empty list, an empty prompt.

    Raises:
        ValueError: naming the prompt by its place.
    """
    if isinstance(texts, str) or not texts:
        msg = f"`texts` must be a non-empty list of strings, but got {texts!r}"
        raise ValueError(msg)
    empty = [place for place, text in enumerate(texts) if not isinstance(text, str) or not text.strip()]
    if empty:
        msg = (
            f"`texts` must hold prompts of at least one word, but number {empty[0] + 1} of {len(texts)} is "
            f"{texts[empty[0]]!r}; give each class at least one prompt"
        )
        raise ValueError(msg)


def warn_cut(texts: Sequence[str], lengths: Sequence[int], *, limit: int, model: str) -> None:
    """Warn how many of ``texts`` have more than ``limit`` tokens, and refuse empty ones.

    Args:
        texts: N texts.
        lengths: their numbers of tokens, special ones included.
        limit: what the model takes.
        model: its name.

    Raises:
        ValueError: see :func:`check_texts`.
    """
    check_texts(texts)
    cut = [text for text, length in zip(texts, lengths, strict=True) if length > limit]
    if cut:
        warnings.warn(
            f"{len(cut)} of {len(lengths)} prompts are longer than {model}'s {limit} tokens and were "
            f"cut (longest: {max(lengths)}); the first begins {cut[0][:60]!r}",
            stacklevel=4,
        )
