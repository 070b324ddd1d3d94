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
PAIRED = {"sources": "apart", "class_weights": "estimated", "ramp": True}


@pytest.mark.parametrize("names", ["ecan", "cdan+sdat", "mcd", "atdoc", "can_cdd", "adda", "dsbn", "fixbi", "aglrls"])
def test_a_run_with_every_option(names, make_context, tmp_path, listener):
    first, heard = names.partition("+")[0], listener()
    layers = (LAYER, {first: PAIRED} if first in ("ecan", "cdan") else {})
    result = run(make_context(*names.split("+"), layers=layers), tmp_path / "run", heard)
    assert all(math.isfinite(value) for report in heard.reports for value in report.terms.values())
    assert result.target.labelled.n == 14
    if first in ("ecan", "cdan"):
        lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
        shares = [line for line in lines if line["kind"] == "refresh"]
        assert len(shares) == 2  # none before the first step
        assert sum(value for key, value in shares[0].items() if "/share_" in key) == pytest.approx(1, abs=1e-5)
