"""Words to tokens: open_clip's byte pairs, whole or cut to the most frequent, and sentences with room for prompts."""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from torch import Tensor

from fercore.errors import UserInputError

if TYPE_CHECKING:
    pass

PLACEHOLDER = "X"
"""One token of its own in CLIP's byte pairs; prompts take its place."""


class Tokenizer:
    """open_clip's tokenizer at a fixed length.

    Args:
        vocabulary: rows of the text tower's embedding; fewer than CLIP's 49408 keep the most frequent byte pairs.
        context_length: L, tokens of a sentence, start and end among them.
    """

    def __init__(self, vocabulary: int, context_length: int) -> None:
        self.vocabulary, self.context_length = vocabulary, context_length
        self._words = _byte_pairs(vocabulary)

    @property
    def ends(self) -> tuple[int, int]:
        """Tokens that begin and end a sentence."""
        return self._words.sot_token_id, self._words.eot_token_id

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Turn texts into tokens i64[N,L]: start, words, end, zeros.

        Raises:
            UserInputError: if a text has more tokens than fit.
        """
        rows = torch.zeros(len(texts), self.context_length, dtype=torch.int64)
        start, end = self.ends
        for row, text in zip(rows, texts, strict=True):
            tokens = [start, *self.encode(text), end]
            if len(tokens) > self.context_length:
                what = f"{len(tokens)} tokens with start and end, the model takes {self.context_length}"
                raise UserInputError(f"text is too long: {what}", where=repr(text), fix="shorten it")
            row[: len(tokens)] = torch.tensor(tokens)
        return rows

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text without start and end."""
        tokens: list[int] = self._words.encode(text)
        return tokens


@cache
def _byte_pairs(vocabulary: int) -> Any:
    whole = SimpleTokenizer()  # open_clip.get_tokenizer, which makes it, sets up logging for the whole program
    if vocabulary == whole.vocab_size:
        return whole
    # 256 bytes, each also as the end of a word, and the two tokens of start and end.
    smallest = 2 * 256 + 2
    if not smallest <= vocabulary < whole.vocab_size:
        raise UserInputError(f"a vocabulary of {vocabulary} is not within {smallest} to {whole.vocab_size}")
    with gzip.open(default_bpe()) as merges:
        # One line of header, then merges by falling frequency.
        lines = merges.read().split(b"\n")[: 1 + vocabulary - smallest]
    return SimpleTokenizer(bpe_path=io.BytesIO(gzip.compress(b"\n".join(lines))))
