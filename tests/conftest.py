from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fercore.data.formats.synth import SynthReader
from fercore.engine.observer import Observer
from fercore.engine.setup import Workshop, build_workshop
from fercore.hooks.assemble import assemble
from fercore.ops import build
from fercore.stopping import SIGNALS


def pytest_configure() -> None:
    """Hear the signals that `nohup` and a shell's background jobs ignore: what is ignored cannot end a run."""
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


TINY: dict[str, Any] = {
    "seed": 3,
    "device": "cpu",
    "data": {
        "sources": ["synthfer:studio?n=84", "synthfer:web?n=84&seed=1"],
        "target": "synthfer:wild?n=112&seed=2",
        "size": 32,
        "source_batch": 28,
        "target_batch": 14,
        "eval_batch": 64,
        "augment": "light",
    },
    "model": {"backbone": "resnet18", "backbone_args": {"resnet18": {"channels": [8, 8, 8, 8]}}},
    "train": {"steps": 6, "steps_per_epoch": 4, "checkpoint_every": 3, "log_every": 1, "threads": 1},
    "report": {"tensorboard": False},
}


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
def make_shop():
    """Build a workshop of named plugins with the tiny settings and more layers."""

    def make(*names: str, layers: tuple[dict[str, Any], ...] = (), preset: str = "demo") -> Workshop:
        return build_workshop(assemble(names, [TINY, *layers], preset=preset))

    return make


class Listener(Observer):
    """Remembers what a run said; may stop it after some batches, as a kill would."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.messages: list[str] = []
        self.reports: list[Any] = []
        self.scores: list[Any] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def step(self, report, done: int) -> None:
        self.reports.append(report)
        if done == self.stop_after:
            raise KeyboardInterrupt

    def evaluated(self, scores, done: int) -> None:
        self.scores.append((done, scores))


@pytest.fixture(scope="session")
def listener():
    return Listener


def weights_of(folder: Path) -> dict[str, Any]:
    """Return the newest checkpoint of a run folder."""
    from fercore.engine import checkpoint

    newest = checkpoint.newest(folder / "checkpoints")
    assert newest is not None
    return checkpoint.load(newest)


@pytest.fixture(scope="session", name="weights_of")
def _weights_of():
    return weights_of
