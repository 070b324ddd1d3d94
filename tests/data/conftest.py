from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fercore.config import DataSettings
from fercore.data import DomainSet, open_domains

CLASSES = ("anger", "happiness", "sadness")


def write_image(path: Path, seed: int, size: int = 16) -> Path:
    """Write a small random RGB image of a seed's own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def image() -> Callable[..., Path]:
    """Write a small random image: image(path, seed, size)."""
    return write_image


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Write an ImageFolder tree and return its root: tree(name, {"anger": 8}, first_seed=0)."""

    def make(name: str, counts: dict[str, int], first_seed: int = 0) -> Path:
        seed = first_seed
        for folder, n in counts.items():
            (tmp_path / name / folder).mkdir(parents=True, exist_ok=True)
            for i in range(n):
                write_image(tmp_path / name / folder / f"{i}.png", seed)
                seed += 1
        return tmp_path / name

    return make


@pytest.fixture
def opened(tree: Callable[..., Path]) -> Callable[..., tuple[DomainSet, DataSettings]]:
    """Open two small sources and a target: opened(**data settings)."""

    def make(**settings: object) -> tuple[DomainSet, DataSettings]:
        sources = (
            f"folder:{tree('a', {'anger': 12, 'happiness': 7, 'sadness': 5})}",
            f"folder:{tree('b', {'anger': 3, 'happiness': 9, 'sadness': 6}, 1000)}",
        )
        target = f"folder:{tree('t', dict.fromkeys(CLASSES, 10), 2000)}"
        values = {"sources": sources, "target": target, "size": 16, "source_batch": 12, "target_batch": 6}
        data = DataSettings(**{**values, **settings})
        return open_domains(data, seed=0), data

    return make
