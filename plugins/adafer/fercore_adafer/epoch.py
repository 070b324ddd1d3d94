"""What is done before an epoch: learn the domains' action units, label the target, mine triplets, lay out batches."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fercore.plugin import CODES, SCORES, SIDES, BatchPolicy, EncodedDataset, Side, UserInputError
from fercore.retrieval import (
    code_histogram,
    code_keys,
    join_codes,
    last_match,
    majority,
    mine_triplets,
    neighbour_codes,
    pack_codes,
    random_match,
)
from fercore_adafer.batches import balance, plan_epoch, triplets_a_step
from fercore_adafer.modules import State
from fercore_adafer.settings import AdaFerSettings

log = logging.getLogger(__name__)
NO_MATCH, NO_TRIPLET = 0, 1


def begin(state: State, source: EncodedDataset, target: EncodedDataset) -> None:
    """Take over the action units of both domains and the source's labels.

    Raises:
        UserInputError: if the data carries no action units.
    """
    for side, data in (("source", source), ("target", target)):
        if SCORES not in data.extras:
            raise UserInputError(f"no action units on the {side}", where="data.au")
        state.put(f"{side}_scores", data.extras[SCORES])
        state.put(f"{side}_codes", data.extras[CODES])
    state.put("source_labels", source.labels)
    state.put("source_domain", source.domain)
    state.put("known", torch.tensor(True))


def annotate(state: State, settings: AdaFerSettings) -> dict[str, float]:
    """Write T-soft, T-hard and S-hard labels of the target into the state; return the share of targets with one.

    T-soft and T-hard are worked out once. S-hard is drawn again where the paired label needs a match to fall back on.
    """
    aga, conflict = settings.aga, settings.s_hard.conflict
    redrawn = "s_hard" in aga.schemes and conflict == "pair"
    if not aga.on or (bool(state.annotated) and not redrawn):
        return {}
    codes = [pack_codes(_array(getattr(state, f"{side}_codes")).astype(bool)) for side in ("source", "target")]
    labels, classes = _array(state.source_labels), state.q.shape[1]
    join = join_codes(*code_keys(*codes))
    inexact = aga.radius > 0 or aga.unmatched == "nearest"
    near = neighbour_codes(join, *codes, radius=aga.radius, nearest=aga.unmatched == "nearest") if inexact else None
    q, matched = code_histogram(join, labels, classes, neighbours=near)
    t_hard = majority(q, matched)
    if conflict == "majority":
        s_hard = t_hard
    else:
        rows = last_match(join, neighbours=near) if conflict == "last" else random_match(join, _seed(), neighbours=near)
        # Row -1 reads the last label, which `where` drops.
        s_hard = np.where(rows >= 0, labels[rows], -1)
    state.put("s_hard", torch.from_numpy(s_hard))
    if not bool(state.annotated):
        state.put("q", torch.from_numpy(q))
        state.put("t_hard", torch.from_numpy(t_hard))
        state.put("matched", torch.from_numpy(matched))
        state.put("annotated", torch.tensor(True))
        if not matched.any():
            _warn(state, NO_MATCH, "no target image has the action units of a source image: no pseudo label is given")
    return {"coverage": float(matched.mean())}


def fresh_epoch(state: State, settings: AdaFerSettings, policy: BatchPolicy) -> dict[str, float]:
    """Mine triplets where it is time to, and draw the samples of the epoch's steps as the run draws them.

    An epoch without a length of its own is a pass over the triplets, or without any over the side that lasts longer.
    """
    agt, batch = settings.agt, (policy.source, policy.target)
    if not agt.on:
        return {}
    counts: dict[str, float] = {}
    if agt.resample == "epoch" or not bool(state.mined):
        counts = _mine(state, settings)
        state.put("mined", torch.tensor(True))
    wanted = triplets_a_step(*batch, agt.anchors)
    held = state.triplets_source.shape[1], state.triplets_target.shape[1]
    shares = tuple(share if there else 0 for share, there in zip(wanted, held, strict=True))
    if not sum(shares):
        why = "no image has a partner with its action units in the other domain and another without"
        _warn(state, NO_TRIPLET, f"{why}: the triplet loss is left out")
    state.put("layout", torch.tensor(shares))
    # The generator that draws is the CPU's, on every device.
    labels, domain = state.source_labels.cpu(), state.source_domain.cpu()
    sizes = len(labels), len(state.target_scores)
    images = [size // of_step for size, of_step in zip(sizes, batch, strict=True)]
    codes = {side: _array(getattr(state, f"{side}_codes")) for side in SIDES}
    triplets = steps_of_a_pass(codes, batch, agt.anchors)
    source, target = plan_epoch(
        state.triplets_source.cpu(),
        state.triplets_target.cpu(),
        sizes=sizes,
        batch=batch,
        shares=(int(shares[0]), int(shares[1])),
        steps=policy.steps_per_epoch or triplets or max(1, *images),
        weights=balance(labels, domain, by_class=policy.class_balanced, by_domain=policy.domain_balanced),
    )
    state.put("order_source", source)
    state.put("order_target", target)
    return counts


def steps_of_a_pass(
    codes: Mapping[Side, np.ndarray], batch: tuple[int, int], anchors: Literal["source", "target", "both"]
) -> int | None:
    """Return the steps in which every triplet, one an anchor, comes once; the domain with more of them counts.

    Args:
        codes: uint8[N,A] of source and target. batch: images a step of source and target. anchors: whose anchors.

    Returns:
        None where no anchor has a triplet.
    """
    keys = dict(zip(SIDES, code_keys(*(pack_codes(codes[side].astype(bool)) for side in SIDES)), strict=True))
    steps = []
    for side, other, share in zip(SIDES, reversed(SIDES), triplets_a_step(*batch, anchors), strict=True):
        known = np.unique(keys[other])
        # With one code alone the other domain has a positive or a negative, never both.
        held = int(np.isin(keys[side], known).sum()) if len(known) > 1 else 0
        steps.append(-(-held // share) if share else 0)
    return max(steps) or None


def _mine(state: State, settings: AdaFerSettings) -> dict[str, float]:
    """Mine one triplet for every anchor that has a positive and a negative; return counts."""
    agt = settings.agt
    scores = {side: _array(getattr(state, f"{side}_scores")) for side in ("source", "target")}
    packed = {side: pack_codes(_array(getattr(state, f"{side}_codes")).astype(bool)) for side in scores}
    # In one call: keys of wide codes compare only within it.
    keys = dict(zip(packed, code_keys(*packed.values()), strict=True))
    counts: dict[str, float] = {}
    for side, other in (("source", "target"), ("target", "source")):
        if agt.anchors not in (side, "both"):
            continue
        exclude = None
        if side == "target" and agt.exclude_same_label:
            exclude = (_array(state.t_hard), _array(state.source_labels))
        mined = mine_triplets(
            scores[side],
            keys[side],
            scores[other],
            keys[other],
            similarity=agt.sim,
            tau_n=agt.tau_n,
            seed=_seed(),
            exclude=exclude,
        )
        rows = np.stack([mined.anchor, mined.positive, mined.negative])
        state.put(f"triplets_{side}", torch.from_numpy(rows))
        counts[f"{side}_triplets"] = len(mined)
        counts[f"{side}_without_positive"] = mined.without_positive
        counts[f"{side}_without_negative"] = mined.without_negative
        counts[f"{side}_negatives_below_tau"] = mined.fallbacks
    return counts


def _warn(state: State, which: int, text: str) -> None:
    """Say something once a run."""
    if not bool(state.warned[which]):
        state.warned[which] = True
        log.warning("adafer: %s", text)


def _seed() -> int:
    """Draw a seed from torch's global generator, which the engine restores on resume."""
    return int(torch.randint(2**31 - 1, ()))


def _array(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().cpu().numpy())
