"""The report of a comparison sets its rows beside each other, and each beside the first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import fercore
from fercore.errors import UserInputError
from fercore.reporting import report as making
from fercore.reporting.collect import RunFiles

pytestmark = pytest.mark.slow


def test_rows_stand_side_by_side(compared, tmp_path, monkeypatch, page_of):
    monkeypatch.setattr(making, "POINTS", 20)
    page = page_of(fercore.report(compared, out=tmp_path / "report.html"))
    slow, fast = (RunFiles(compared / f"{row}-s0") for row in ("slow-rate", "fast"))
    gap = fast.result.target.accuracy - slow.result.target.accuracy
    assert f"fast {100 * fast.result.target.accuracy:.1f} ± 0.0 {100 * gap:+.1f} ± 0.0" in page.text
    assert f"fast {gap:+.4f} {gap:+.4f} to {gap:+.4f} {gap:+.4f} {gap:+.4f}" in page.text
    for title in ("2 methods compared", "1. slow rate", "2. fast", "balanced accuracy: differences to slow rate",
                  "Features before training, by class", "Features of slow rate, by class", "optim.lr"):  # fmt: skip
        assert title in page.text
    same = slow.predictions.of("test").probs.argmax(axis=1) == fast.predictions.of("test").probs.argmax(axis=1)
    assert f"fast and slow rate agree on {same.mean():.1%} of {len(same)} images." in page.text
    shown = [attrs["alt"] for attrs in page.all("img") if ", not " in attrs["alt"]]
    assert bool(shown) == (not same.all())
    ids = [attrs["id"] for attrs in page.all("h2")]
    assert len(set(ids)) == len(ids)
    assert (tmp_path / "report.html").stat().st_size < 5_000_000


def edit(out: Path, change) -> None:
    record = json.loads((out / "compare.json").read_text())
    change(record)
    (out / "compare.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda out: (out / "compare.json").write_text("{"), "cannot read compare.json: Expecting property name"),
        (
            lambda out: edit(out, lambda f: f["rows"][1]["accuracy"]["by_seed"].pop()),
            "a score for every seed is wanted",
        ),
        (lambda out: edit(out, lambda f: f.update(rows=[])), "compare.json is damaged: rows"),
        (lambda out: edit(out, lambda f: f["rows"][0].pop("label")), "compare.json is damaged: rows.0.label"),
        (lambda out: shutil.rmtree(out / "fast-s1"), "no run or comparison in this folder"),
    ],
)
def test_a_damaged_comparison_is_one_line(compared, tmp_path, damage, message):
    out = tmp_path / "compared"
    shutil.copytree(compared, out)
    damage(out)
    with pytest.raises(UserInputError) as caught:
        fercore.report(out)
    assert message in str(caught.value)
    assert not (out / "report.html").exists()
