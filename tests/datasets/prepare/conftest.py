from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from photographs import MARK, N, Truth, drawn

from fercore.datasets.prepare.detectors import GROUP


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Photographs of 140x120 with one drawn face each; the first pixel tells its number."""
    faces, root = drawn(), tmp_path / "photographs"
    for i, face in enumerate(faces.render(range(N))):
        image = np.full((120, 140, 3), 90, dtype=np.uint8)
        image[MARK[1] : MARK[1] + 64, MARK[0] : MARK[0] + 64] = face
        image[0, 0] = i
        path = root / ("train", "test")[i % 2] / faces.classes[int(faces.labels[i])] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return root


@pytest.fixture(autouse=True)
def truth(monkeypatch):
    plain = importlib.metadata.entry_points
    point = importlib.metadata.EntryPoint("truth", f"{__name__}:Truth", GROUP)
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", _load(importlib.metadata.EntryPoint.load))
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda **kw: [point] if kw.get("group") == GROUP else plain(**kw)
    )


def _load(plain):
    return lambda self: Truth if self.name == "truth" else plain(self)
