"""Reading a dataset in tests, and saying what was found."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import layouts

from fercore.data.domains.domain_set import read_domain
from fercore.data.labels import CANONICAL
from fercore.data.spec import parse_spec
from fercore.data.table import Table
from fercore.errors import UserInputError


def read(spec: str) -> Table:
    return read_domain(parse_spec(spec))[0]


def rows(table: Table) -> Counter:
    labels = [CANONICAL[label] if label >= 0 else "?" for label in table.labels]
    return Counter(zip(labels, table.split, table.subjects, strict=True))


def counts(table: Table) -> dict[str, int]:
    return table.counts(CANONICAL)


def error_of(spec: str) -> str:
    with pytest.raises(UserInputError) as caught:
        read(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def skipped(spec: str) -> dict[str, int]:
    return dict(read_domain(parse_spec(spec))[1].rows.skipped)


def same_pixels(table: Table, paint: layouts.Painter, box: tuple[int, int, int, int] | None = None) -> None:
    left, top, right, bottom = box or (0, 0, 24, 24)
    for i, key in enumerate(table.keys):
        expected = paint.pixels[key.partition("#")[0]][top:bottom, left:right].astype(int)
        assert np.abs(table.read(i).astype(int) - expected).mean() < (4 if key.endswith(("jpg", "jpeg")) else 1e-9)
