from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fercore.cli import main
from fercore.config import DataSettings
from fercore.data import DomainSet
from fercore.engine.setup import RunContext
from fercore.ops import build
from fercore.stopping import SIGNALS
from fercore.synthfer.format import SynthReader
from fercore.testing import TINY, Listener, tiny_context
from tests.loading import load_domains


def pytest_configure() -> None:
    """Hear the signals that `nohup` and a shell's background jobs ignore: what is ignored cannot end a run."""
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out campaigns of many minutes unless they are asked for; -m on the command line would undo a default -m.

    Files with the most slow tests come first, so that no process is still busy with one when the others are done.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
    if "soak" in config.getoption("markexpr"):
        return
    campaigns = [item for item in items if item.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=campaigns)
    items[:] = [item for item in items if not item.get_closest_marker("soak")]


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what runs remember of images and networks out of the user's cache, of which compiled kernels are taken."""
    own, kernels = tmp_path_factory.mktemp("cache"), build.cache_path("cpu").parent
    if kernels.is_dir():
        (own / kernels.name).symlink_to(kernels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FERCORE_CACHE", str(own))
        yield


@pytest.fixture(scope="session", autouse=True)
def _each_face_is_drawn_once() -> Iterator[None]:
    """Keep the generated faces: each follows from its dataset and number alone, and most runs are on the same."""
    kept: dict[Any, Any] = {}
    draw = SynthReader.read_many

    def read_many(self, rows):
        data = self.faces
        dataset = data.style, data.n, data.seed, data.size, data.classes, data.prior
        missing = [row for row in dict.fromkeys(rows) if (dataset, row) not in kept]
        kept.update(zip(((dataset, row) for row in missing), draw(self, missing), strict=True))
        return (kept[dataset, row].copy() for row in rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SynthReader, "read_many", read_many)
        yield


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """Settings of a run of seconds on synthetic faces."""
    return TINY


@pytest.fixture(scope="session")
def make_context():
    """Build the context of a run of named plugins with the tiny settings and more layers."""

    def make(*names: str, layers: tuple[dict[str, Any], ...] = (), preset: str = "demo") -> RunContext:
        return tiny_context(names, layers, preset)

    return make


@pytest.fixture(scope="session")
def listener():
    return Listener


def weights_of(folder: Path) -> dict[str, Any]:
    """Return the newest checkpoint of a run folder."""
    from fercore.runs import checkpoint

    newest = checkpoint.newest(folder / "checkpoints")
    assert newest is not None
    return checkpoint.load(newest)


@pytest.fixture(scope="session", name="weights_of")
def _weights_of():
    return weights_of


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
def loaded(tree: Callable[..., Path]) -> Callable[..., tuple[DomainSet, DataSettings]]:
    """Open two small sources and a target: loaded(**data settings)."""

    def make(**settings: object) -> tuple[DomainSet, DataSettings]:
        sources = (
            f"folder:{tree('a', {'anger': 12, 'happiness': 7, 'sadness': 5})}",
            f"folder:{tree('b', {'anger': 3, 'happiness': 9, 'sadness': 6}, 1000)}",
        )
        target = f"folder:{tree('t', dict.fromkeys(CLASSES, 10), 2000)}"
        values = {"sources": sources, "target": target, "size": 16, "source_batch": 12, "target_batch": 6}
        data = DataSettings(**{**values, **settings})
        return load_domains(data, seed=0), data

    return make


@pytest.fixture
def fercore(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command: fercore(*arguments) -> exit code, what it printed, what it printed as errors."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fercore", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
            raise SystemExit(0)
        out = capsys.readouterr()
        return int(stop.value.code or 0), out.out, out.err

    return call
