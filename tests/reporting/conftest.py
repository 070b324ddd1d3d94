from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fercore.engine.run import run
from fercore.experiments.comparison import Comparison, summarise
from fercore.runs.folder import RunFolder


class Page(HTMLParser):
    """What stands in a page: texts, tags with attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="session")
def page_of() -> type[Page]:
    """Read a page as a browser would: page_of(path)."""
    return Page


@pytest.fixture(scope="session")
def finished(tmp_path_factory, make_context, listener) -> Path:
    """A finished run of three steps on generated faces."""
    home = tmp_path_factory.mktemp("report") / "run"
    layer = {"train": {"steps": 3, "eval_every": 1}}
    run(make_context("source_only", layers=(layer,)), home, listener())
    return home


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """Its copy, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="session")
def compared(finished, tmp_path_factory, make_context, listener) -> Path:
    """A comparison of two rows over two seeds, which have the same runs."""
    home = tmp_path_factory.mktemp("compared")
    layer = {"train": {"steps": 3}, "optim": {"lr": 0.1}}
    run(make_context("source_only", layers=(layer,)), home / "fast-s0", listener())
    shutil.copytree(home / "fast-s0", home / "fast-s1")
    results = {"fast": [RunFolder(home / "fast-s0").result()] * 2}
    for seed in (0, 1):
        shutil.copytree(finished, home / f"slow-rate-s{seed}")
    results = {"slow rate": [RunFolder(finished).result()] * 2, **results}
    comparison = Comparison(
        preset="demo", target="wild", seeds=[0, 1], primary_metric="accuracy", rows=summarise(results)
    )
    (home / "compare.json").write_text(json.dumps(comparison.to_json()))
    return home
