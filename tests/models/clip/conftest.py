from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from fercore.models.clip import ClipSettings, load_clip


@pytest.fixture(scope="session")
def paper():
    """Equations 1 to 6 of PCA in literal torch."""
    spec = importlib.util.spec_from_file_location("clip_paper", Path(__file__).parent / "paper.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def small():
    """The small ViT CLIP with random weights."""
    return load_clip(ClipSettings(model="tiny"), seed=0)


@pytest.fixture(scope="session")
def small_rn():
    """The small ResNet CLIP with random weights."""
    return load_clip(ClipSettings(model="tiny-rn"), seed=0)
