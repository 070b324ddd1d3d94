"""Settings and records of other hands: `--set`, --config, and what a run folder says, in any shape."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
import tomli_w

sys.path.insert(0, str(Path(__file__).parent))
from damage import ODD, Boundary, any_json, any_text, any_toml, campaign, seeds

from fercore import __version__
from fercore.arguments import reopen, request_of
from fercore.config import RunConfig, dotted_names
from fercore.documents import without_none
from fercore.engine.resume import check_same_data
from fercore.errors import UserInputError
from fercore.experiments.comparison import leading_score, summarise, table_rows
from fercore.hooks import assemble as assembling
from fercore.hooks import discovery
from fercore.hooks.assemble import assemble
from fercore.hooks.discovery import check_early
from fercore.runs import folder as record
from fercore.runs.folder import CONFIG, DATA, PLUGINS, RESULT, RunFolder, versions

NAMES = [*dotted_names(RunConfig), "source_only.label_smoothing", "data", "model", "plugins", "odd", "data.odd"]
VALUES = ("3", "0.5", "true", '"x"', "[1, 2]", '["synthfer:wild?n=20"]', "{a = 1}", "[]", "nan", "[0.5, 0.5, 0.5]", "x")


def settings_given(folder: Path) -> None:
    """Read `--config FILE` and the lines of a file as so many `--set`."""
    lines = (folder / "set").read_bytes().decode("utf-8", "surrogateescape").split("\n")
    request = request_of(config=folder / "c.toml", assignments=lines)
    check_early(["source_only"], request.layers, preset=request.preset)
    assemble(["source_only"], request.layers, preset=request.preset).config.model_dump(mode="json")


def any_settings(content: bytes, dice: random.Random) -> bytes:
    if content.startswith(b"preset"):
        return any_toml(content, dice)
    if dice.random() < 0.5:
        return any_text(content, dice)
    values = [dice.choice((*VALUES, *map(repr, ODD))) for _ in range(dice.choice((1, 2, 4)))]
    lines = (f"{dice.choice(NAMES)}={value}" for value in values)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def run_reopened(folder: Path) -> None:
    """Read what `--resume` and a comparison that goes on read."""
    resolved = reopen(folder)
    check_same_data(RunFolder(folder), FINGERPRINT)
    resolved.config.model_dump(mode="json")


def result_compared(folder: Path) -> None:
    record = RunFolder(folder).result()
    results = {"a": [record], "b": [record]}
    table_rows(summarise(results), leading_score(results))


FINGERPRINT = {"classes": ["anger", "fear"], "sources": [{"n": 3, "sha256": "0" * 64}]}
STARTED = {
    "plugins": [{"name": "source_only", "target": "x:Y", "distribution": "fercore", "version": __version__}],
    "versions": versions(),
    "chain": {},
}
SCORED = {"accuracy": 0.5, "balanced_accuracy": 0.25, "macro_f1": 0.375}
TARGET = {
    "spec": "folder:x", "labelled": {"n": 0, "per_class": {}}, "n": 4, "classes": ["anger", "fear"], **SCORED,
    "per_class_recall": {"anger": 0.5, "fear": None}, "per_class_f1": {"anger": 0.5}, "confusion": [[2, 2], [0, 0]],
    "n_adaptation": 5, "transductive": False, "adaptation_filtered_by_label": 0, "test_images_in_sources": 0,
}  # fmt: skip
RECORD = {
    "schema": 1, "plugins": ["m"], "seed": 0, "device": "cpu", "kernels": {"mmd": "cpu"}, "target": TARGET,
    "sources": [{"spec": "folder:y", "n": 3}], "selection": {"rule": "last", "oracle_best": None},
    "primary_metric": "accuracy",
    "ema": None, "label_split": None, "pseudo_labels": {}, "parameters": {"total": 2, "trained": 1}, "steps": 6,
    "train_seconds": 1.5, "seconds_per_step": 0.25, "train_images_per_second": 9.5, "peak_memory_mb": 100.0,
    "threads": 1, "preset": "demo", "versions": {"torch": "2"},
    "arithmetic": {"precision": "32-true", "memory_format": "contiguous", "joint_forward": False, "compile": False,
                   "fused_optimiser": False, "deterministic": True},
}  # fmt: skip
FILES = {
    PLUGINS: json.dumps(STARTED).encode(),
    DATA: json.dumps({"fingerprint": FINGERPRINT}).encode(),
    CONFIG: tomli_w.dumps(without_none(assemble(["source_only"], []).config.model_dump(mode="json"))).encode(),
}
GIVEN = {"c.toml": FILES[CONFIG], "set": b'data.size=48\nmodel.backbone="resnet18"\noptim.lr=0.1\ndata.std=[1,1,1]'}
BOUNDARIES = {
    "settings": Boundary(GIVEN, settings_given, any_settings),
    "run folder": Boundary(FILES, run_reopened, lambda c, dice: (any_json() if c[:1] == b"{" else any_toml)(c, dice)),
    "result": Boundary({RESULT: json.dumps(RECORD).encode()}, result_compared, any_json()),
}


@pytest.fixture(autouse=True)
def _known_installation(monkeypatch):
    """Look once at what is installed; a look a file would take ten times as long as reading it."""
    known, found = discovery.installed_plugins(), versions()
    monkeypatch.setattr(discovery, "installed_plugins", lambda: known)
    monkeypatch.setattr(assembling, "installed_plugins", lambda: known)
    monkeypatch.setattr(record, "versions", lambda: found)


@pytest.mark.slow
@pytest.mark.parametrize("number", seeds())
@pytest.mark.parametrize("name", BOUNDARIES)
def test_any_shape(tmp_path, name, number):
    campaign(BOUNDARIES[name], tmp_path, number)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (CONFIG, "", "unknown preset ''"),
        (CONFIG, "preset = [1]", r"unknown preset '\[1\]'"),
        (PLUGINS, "[1]", "plugins.json is damaged: input should be a valid dictionary \\("),
        (
            PLUGINS,
            '{"plugins": [1], "versions": {}}',
            "plugins.json is damaged: plugins.0: input should be a valid dict",
        ),
        (
            PLUGINS,
            '{"plugins": [], "versions": {"a": 1}}',
            "plugins.json is damaged: versions.a: input should be a valid",
        ),
        (PLUGINS, "[" * 20_000, "values are nested too deep"),
        (DATA, "3", "data.json is damaged"),
        (DATA, "{}", "data.json is damaged: fingerprint: field required"),
    ],
)
def test_records_that_no_run_wrote(tmp_path, name, text, message):
    for file, content in FILES.items():
        (tmp_path / file).write_bytes(content)
    run_reopened(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserInputError, match=message):
        run_reopened(tmp_path)


@pytest.mark.parametrize(
    "record", [{}, [], {**RECORD, "target": {**TARGET, "accuracy": "x"}}, {**RECORD, "primary_metric": 1}]
)
def test_results_that_no_run_wrote(tmp_path, record):
    (tmp_path / RESULT).write_text(json.dumps(record))
    with pytest.raises(UserInputError, match="result.json is damaged"):
        result_compared(tmp_path)


def test_a_file_of_a_run_that_is_gone_is_told_without_numbers(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / DATA).unlink()
    with pytest.raises(UserInputError) as error:
        run_reopened(tmp_path)
    fix = "bring it back as it was, or start the run again"
    assert str(error.value) == f"cannot read data.json: No such file or directory ({tmp_path}); {fix}"
