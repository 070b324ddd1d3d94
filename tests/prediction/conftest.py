from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from fercore.data.domains.domain_set import read_domain
from fercore.data.labels import CANONICAL
from fercore.data.spec import parse_spec
from fercore.engine.run import run


def as_folder(spec: str, folder: Path) -> str:
    table, _ = read_domain(parse_spec(spec))
    for i, label in enumerate(table.labels):
        path = folder / CANONICAL[label] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(table.read(i)).save(path)
    return f"folder:{folder}"


@pytest.fixture(scope="session")
def trained(tmp_path_factory, make_context, listener):
    """Return a finished run on image folders that have moved, and where they are now."""
    home = tmp_path_factory.mktemp("trained")
    sources = [as_folder("synthfer:studio?n=42", home / "data/studio")]
    target = as_folder("synthfer:wild?n=84", home / "data/wild")
    data = {"sources": sources, "target": target, "eval_batch": 16}
    layer = {"data": data, "train": {"steps": 2, "ema": 0.5}, "report": {"features": True}}
    run(make_context("source_only", layers=(layer,)), home / "run", listener())
    (home / "data").rename(home / "gone")
    return home


@pytest.fixture(scope="session")
def scored_images(trained) -> list[Path]:
    """Return the images that the run was scored on, in its order."""
    with (trained / "run/predictions.csv").open(encoding="utf-8") as file:
        rows = [row["image"] for row in csv.DictReader(file) if row["part"] == "test"]
    return [trained / "gone" / Path(row).relative_to(trained / "data") for row in rows]
