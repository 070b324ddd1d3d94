"""File names that are no UTF-8: a run that has trained is not lost to one, and neither are printed reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import layouts

from fercore.data.domains.domain_set import read_domain
from fercore.data.spec import parse_spec
from fercore.engine.results import write_predictions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    paint = layouts.Painter(tmp_path)
    for k in range(4):
        paint(f"d/{('anger', 'fear')[k % 2]}/{k}.png")
    for old, new in ((b"anger/0.png", b"anger/J\xe4ger.png"), (b"fear/1.png", b"fear/zero.png")):
        os.rename(os.fsencode(tmp_path / "d") + b"/" + old, os.fsencode(tmp_path / "d") + b"/" + new)
    (tmp_path / "d" / "fear" / "copy.png").write_bytes(
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/d/anger/J\xe4ger.png")).read_bytes()
    )
    return tmp_path / "d"


def test_predictions_of_a_run(folder: Path, tmp_path: Path):
    test = read_domain(parse_spec(f"folder:{folder}"))[0]
    parts = ("test",) * len(test)
    context = SimpleNamespace(domains=SimpleNamespace(classes=("anger", "fear"), target=test, target_parts=parts))
    write_predictions(context, SimpleNamespace(path=tmp_path), np.full((len(test), 2), 0.5))
    lines = (tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + len(test)
    assert sum("J\\udce4ger.png,test,anger,0.500000" in line for line in lines) == 1


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_report_in_print(folder: Path, options: list[str]):
    code = "from fercore.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "data", "check", f"folder:{folder}", *options],
        capture_output=True, env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if options:
        (copies,) = json.loads(done.stdout)["domains"][0]["duplicates"]
        assert sorted(Path(path).name for path in copies["paths"]) == ["J\udce4ger.png", "copy.png"]
    else:
        assert b"ger.png" in done.stdout
