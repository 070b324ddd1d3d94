"""Whole runs in company of the engine's options: several sources, few labels of the target, even classes, bfloat16."""

from __future__ import annotations

import json
import math

import pytest

from fercore.engine.run import run

pytestmark = pytest.mark.slow

FEW = "synthfer:wild?n=112&seed=2&shots=2"
LAYER = {
    "data": {"sources": ["synthfer:studio?n=84", FEW], "target": FEW, "class_balanced": True},
    "train": {"steps": 3, "steps_per_epoch": 1, "precision": "bf16-mixed"},
}
PAIRED = {"sources": "apart", "ramp": True}
WEIGHED = {"align": {"class_weights": "source_to_estimated"}}


@pytest.mark.parametrize("names", ["ecan", "cdan+sdat", "mcd", "atdoc", "can_cdd", "adda", "dsbn", "fixbi", "aglrls"])
def test_a_run_with_every_option(names, make_context, tmp_path, listener):
    first, heard = names.partition("+")[0], listener()
    layers = (LAYER, {first: PAIRED, **WEIGHED} if first in ("ecan", "cdan") else {})
    result = run(make_context(*names.split("+"), layers=layers), tmp_path / "run", heard)
    assert all(math.isfinite(value) for report in heard.reports for value in report.terms.values())
    assert result.target.labelled.n == 14
    if first in ("ecan", "cdan"):
        lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
        shares = [line for line in lines if line["kind"] == "refresh"]
        assert len(shares) == 2  # none before the first step
        named = {key: value for key, value in shares[0].items() if key.startswith("align/share_")}
        assert sum(named.values()) == pytest.approx(1, abs=1e-5)
        used = result.class_weights
        assert (used.rule, used.uses_target_labels) == ("source_to_estimated", False)
        assert sum(used.target_shares.values()) == pytest.approx(1, abs=1e-5)


def test_the_oracle_counts_labels_and_says_so(make_context, tmp_path, listener):
    """Shares are those of the adaptation part's labels, which nobody else may read."""
    import numpy as np

    layer = {"align": {"class_weights": "oracle"}, "data": {"target": "synthfer:wild?n=112&seed=2&prior=natural"}}
    context = make_context("ddc", layers=(layer, {"train": {"steps": 2}}))
    result = run(context, tmp_path / "run", listener())
    counts = np.bincount(context.domains.truth, minlength=7)
    assert [*result.class_weights.target_shares.values()] == pytest.approx(counts / counts.sum(), abs=1e-6)
    assert result.class_weights.uses_target_labels is True
    assert not any("align/" in name for name in tensors(tmp_path / "run/model/model.safetensors"))


def tensors(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return list(file.keys())
