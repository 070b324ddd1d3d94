"""What is trained on and scored is what the preflight saw: an image that has become another since is named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fercore.config import DataSettings
from fercore.data.batches.loader import StepLoader, eval_batches
from fercore.data.cache import stores as cache
from fercore.data.domains.domain_set import read_domain
from fercore.data.spec import parse_spec
from fercore.errors import UserInputError
from fercore.records.plan import ViewRequest
from tests.loading import load_domains

CHANGED = "image changed since the run looked at it .*; bring it back as it was, or start the run again"
CACHES = {"none": {"cache_mb": 0}, "memory": {}, "disk": {"cache": "disk"}, "workers": {"cache_mb": 0, "workers": 1}}


@pytest.fixture
def data(tree, tmp_path: Path) -> Callable[..., DataSettings]:
    source, target = tree("s", {"anger": 6, "fear": 6}), tree("t", {"anger": 6, "fear": 6}, 500)

    def make(**more: object) -> DataSettings:
        values = {"sources": (f"folder:{source}",), "target": f"folder:{target}", "size": 16, "source_batch": 4}
        return DataSettings(**{**values, "target_batch": 2, "cache_dir": str(tmp_path / "cache"), **more})

    return make


def train(settings: DataSettings, steps: int, before: Callable[[], object]) -> None:
    views = [ViewRequest(side, "weak", "weak") for side in ("source", "target")]
    domains = load_domains(settings, seed=1)
    loader = StepLoader(domains, views, settings, seed=1, mean=(0.5,) * 3, std=(0.5,) * 3)
    before()
    for _ in range(steps):
        next(loader)


@pytest.mark.parametrize("kind", CACHES)
def test_another_valid_image_in_its_place_is_noticed_in_training(data, tmp_path: Path, image, kind: str):
    settings = data(**CACHES[kind])
    train(settings, 3, lambda: None)
    cache._STORES.clear()
    path = tmp_path / "s" / "anger" / "3.png"
    with pytest.raises(UserInputError, match=CHANGED) as caught:
        train(settings, 3, lambda: image(path, 99))
    assert str(path) in str(caught.value)


def test_the_target_and_the_test_part_as_well(data, tmp_path: Path, image):
    settings = data(cache_mb=0)
    domains = load_domains(settings, seed=1)
    for i in range(6):
        image(tmp_path / "t" / "fear" / f"{i}.png", 900 + i)
    for table in (domains.adaptation, domains.test):
        with pytest.raises(UserInputError, match=CHANGED):
            list(eval_batches(table, settings, mean=(0.5,) * 3, std=(0.5,) * 3))


@pytest.mark.slow
def test_the_same_content_written_again_is_no_change(data, tmp_path: Path):
    def touch() -> None:
        for path in (tmp_path / "s").rglob("*.png"):
            path.write_bytes(path.read_bytes())
            os.utime(path)

    for kind in CACHES.values():
        train(data(**kind), 3, touch)


def test_what_another_process_cached_of_the_changed_image_is_not_taken(data, tmp_path: Path, image):
    """Size and times in the cache's record are those of the file as it is now; its digest is not."""
    settings = data(cache="disk")
    path = tmp_path / "s" / "anger" / "3.png"

    def change() -> None:
        image(path, 99)
        other = read_domain(parse_spec(f"folder:{tmp_path}/s"))[0]
        cache.reserve([other], settings)
        cache.fetch(other, np.arange(len(other)), settings)

    with pytest.raises(UserInputError, match=CHANGED):
        train(settings, 3, change)


def test_what_was_cached_with_a_digest_serves_the_next_run(data, tmp_path: Path, monkeypatch):
    from fercore.data.cache import disk as cache_disk

    settings = data(cache="disk")
    train(settings, 3, lambda: None)
    cache._STORES.clear()
    monkeypatch.setattr(cache_disk.DiskStore, "_decode", lambda *a: pytest.fail("decoded") if len(a[2]) else None)
    train(settings, 3, lambda: None)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", CACHES)
def test_a_pipe_put_in_its_place_during_training(data, tmp_path: Path, kind: str):
    def replace() -> None:
        for path in (tmp_path / "s" / "anger").iterdir():
            path.unlink()
            os.mkfifo(path)

    with pytest.raises(UserInputError, match="unusable image: cannot be loaded: a named pipe, not a file"):
        train(data(**CACHES[kind]), 3, replace)


def test_a_face_cut_out_of_a_larger_image(tmp_path: Path, image):
    root = tmp_path / "expw"
    for i in range(4):
        image(root / "data" / "image" / "origin" / f"{i}.png", i, 32)
    lines = [f"{i}.png 0 2 2 20 20 9 {i % 2}\n" for i in range(4)]
    (root / "label").mkdir()
    (root / "label" / "label.lst").write_text("".join(lines))
    settings = DataSettings(
        sources=(f"expw:{root}?parts=none",), target="synthfer:wild?n=28", size=16, cache_mb=0, source_batch=2
    )
    (table,) = load_domains(settings, seed=0).sources
    expected = table.read(1)
    assert (np.asarray(Image.open(table.keys[1].partition("#")[0]).convert("RGB"))[2:20, 2:20] == expected).all()
    image(Path(table.keys[1].partition("#")[0]), 77, 32)
    with pytest.raises(UserInputError, match=CHANGED):
        table.read(1)
