"""Sentences of class names, with room for learnable prompts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fercore.errors import UserInputError
from fercore.models.clip.load import Clip
from fercore.models.clip.tokens import PLACEHOLDER


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
    # Two for start and end.
    most = clip.context_length - 2 - max((len(clip.tokenizer.encode(f"{name}.")) for name in names), default=1)
    if k > most > 0:
        what = f"{k} prompts a layer do not fit into the {clip.context_length} tokens of CLIP model {clip.model!r}"
        raise UserInputError(what, where="k", fix=f"{most} at most beside these classes")
    if not k:
        return clip.tokenize([template.replace("{}", name) for name in names])
    missing = k - len(clip.tokenizer.encode(words))
    lead = " ".join([words] * bool(words) + [PLACEHOLDER] * missing)
    tokens = clip.tokenize([f"{lead} {name}." for name in names])
    # Position 0 is the start token. What stands here is replaced by prompts, but each must be one token.
    tokens[:, 1 : 1 + k] = clip.tokenizer.encode(PLACEHOLDER)[0]
    return tokens
