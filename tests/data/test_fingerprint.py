from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fercore.config import DataSettings
from tests.loading import load_domains

Tree = Callable[..., Path]


def write_manifest(folder: Path, labels: dict[str, str]) -> None:
    rows = ["path,label,split"]
    rows += [f"{name},{label},{'train' if i % 2 else 'test'}" for i, (name, label) in enumerate(labels.items())]
    (folder / "m.csv").write_text("\n".join(rows))


@pytest.fixture
def data(tmp_path: Path, image: Callable[..., Path]) -> Path:
    """Write source/ and target/, each with a manifest m.csv."""
    for first, name in ((0, "source"), (100, "target")):
        for i in range(8):
            image(tmp_path / "data" / name / f"{i}.png", first + i)
        write_manifest(tmp_path / "data" / name, {f"{i}.png": ("anger", "sad")[i // 2 % 2] for i in range(8)})
    return tmp_path / "data"


def prints(data: Path, seed: int = 0) -> dict[str, Any]:
    settings = DataSettings(sources=(f"manifest:{data}/source/m.csv",), target=f"manifest:{data}/target/m.csv")
    found = load_domains(settings, seed=seed).fingerprint()
    assert json.loads(json.dumps(found)) == found
    return found


def changed(old: dict[str, Any], new: dict[str, Any]) -> set[str]:
    return {name for name in old if old[name] != new[name]}


def test_equal_data_has_an_equal_fingerprint_wherever_it_lies(data: Path, tmp_path: Path):
    first = prints(data)
    assert first["classes"] == ["anger", "sadness"]
    assert [part["n"] for part in (*first["sources"], first["adaptation"], first["test"])] == [4, 4, 4]
    assert all(len(part["sha256"]) == 64 for part in (*first["sources"], first["adaptation"], first["test"]))
    assert prints(data) == first
    shutil.copytree(data, tmp_path / "copy")
    assert prints(tmp_path / "copy") == first


@pytest.mark.parametrize(
    ("domain", "number", "part"), [("source", 1, "sources"), ("target", 1, "adaptation"), ("target", 0, "test")]
)
def test_another_content_label_or_file_changes_its_part(
    data: Path, image: Callable[..., Path], domain: str, number: int, part: str
):
    first = prints(data)
    folder = data / domain
    old = (folder / f"{number}.png").read_bytes()
    image(folder / f"{number}.png", 999)
    assert changed(first, prints(data)) == {part}
    (folder / f"{number}.png").write_bytes(old)
    assert prints(data) == first
    labels = {f"{i}.png": ("anger", "sad")[i // 2 % 2] for i in range(8)}
    write_manifest(folder, {**labels, f"{number}.png": "sad"})
    assert changed(first, prints(data)) == {part}
    (folder / f"{number}.png").rename(folder / "new.png")
    write_manifest(
        folder, {(f"{i}.png" if i != number else "new.png"): label for i, label in enumerate(labels.values())}
    )
    assert changed(first, prints(data)) == {part}
    write_manifest(folder, {**{f"{i}.png" if i != number else "new.png": label for i, label in
                               enumerate(labels.values())}, "8.png": "anger", "9.png": "anger"})  # fmt: skip
    image(folder / "8.png", 1000)
    image(folder / "9.png", 1001)
    assert part in changed(first, prints(data))


def test_classes_and_sources_count(tree: Tree):
    source, target = tree("s", {"anger": 3, "sad": 3, "fear": 3}), tree("t", {"anger": 3, "sad": 3}, 50)

    def loaded(**settings: Any) -> dict[str, Any]:
        data = DataSettings(sources=(f"folder:{source}",), target=f"folder:{target}", **settings)
        return load_domains(data, seed=0).fingerprint()

    assert changed(loaded(), loaded(classes=("anger", "sad"))) == set()
    assert "classes" in changed(loaded(), loaded(classes=("sad", "anger")))
    found = loaded()
    found["sources"][0]["n"] = 0
    assert loaded()["sources"][0]["n"] == 6


@pytest.mark.parametrize(
    ("options", "same"),
    [("", True), ("&size=64", True), ("&size=48", False), ("&prior=natural", False), ("&seed=3", False)],
)
def test_generated_faces_are_told_by_their_options(options: str, same: bool):
    def loaded(source: str) -> dict[str, Any]:
        data = DataSettings(sources=(source,), target="synthfer:wild?n=28&seed=9")
        return load_domains(data, seed=0).fingerprint()

    first, other = loaded("synthfer:studio?n=28"), loaded(f"synthfer:studio?n=28{options}")
    assert (first["sources"] == other["sources"]) is same
    assert not same or first == other
