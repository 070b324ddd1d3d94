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
    from fercore.models.clip.load import Clip

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
    smallest = 2 * 256 + 2
    if not smallest <= vocabulary < whole.vocab_size:
        raise UserInputError(f"a vocabulary of {vocabulary} is not within {smallest} to {whole.vocab_size}")
    with gzip.open(default_bpe()) as merges:
        lines = merges.read().split(b"\n")[: 1 + vocabulary - smallest]
    return SimpleTokenizer(bpe_path=io.BytesIO(gzip.compress(b"\n".join(lines))))


def context_tokens(
    clip: Clip, class_names: Sequence[str], *, k: int, template: str = "a photo of a {}.", words: str = ""
) -> Tensor:
    """Write one sentence a class, with room for prompts (CoOp, Zhou et al. 2022; MaPLe, Khattak et al. 2023).

    Args:
        clip: whose tokenizer.
        class_names: C names; underscores are read as spaces.
        k: placeholder tokens behind the start token, which `encode_text` replaces by prompts; 0 = `template` as it is.
        template: sentence with one `{}` for the name; used with k = 0 alone.
        words: begin the sentence with these; k placeholders take the place of their first k tokens, the rest stays.

    Returns:
        i64[C,L]: start, k placeholders, what is left of `words`, class name, ".", end, zeros.

    Raises:
        UserInputError: for k below 0 or more than fit, a template without exactly one `{}`, or a sentence that is too
            long.
    """
    if k < 0:
        raise UserInputError(f"{k} prompts a layer", where="k", fix="0 or more")
    if template.count("{}") != 1:
        raise UserInputError(f"template {template!r} needs {{}} once, for the class name", where="template")
    names = [name.replace("_", " ") for name in class_names]
    most = clip.context_length - 2 - max((len(clip.tokenizer.encode(f"{name}.")) for name in names), default=1)
    if k > most > 0:
        what = f"{k} prompts a layer do not fit into the {clip.context_length} tokens of CLIP model {clip.model!r}"
        raise UserInputError(what, where="k", fix=f"{most} at most beside these classes")
    if not k:
        return clip.tokenize([template.replace("{}", name) for name in names])
    missing = k - len(clip.tokenizer.encode(words))
    lead = " ".join([words] * bool(words) + [PLACEHOLDER] * missing)
    tokens = clip.tokenize([f"{lead} {name}." for name in names])
    tokens[:, 1 : 1 + k] = clip.tokenizer.encode(PLACEHOLDER)[0]
    return tokens
