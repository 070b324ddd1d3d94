"""A folder for the hub is read back from the hub's cache without network, and tells nothing of this machine."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

import fercore
from fercore.data.spec import parse_spec
from fercore.engine.run import run
from fercore.errors import UserInputError
from fercore.export.origin import markdown
from fercore.export.targets import export_model
from fercore.records.result import Result


@pytest.fixture(scope="module")
def placed(tmp_path_factory, make_context, listener):
    """Return a run on image folders and what `--to hub` made of it."""
    home = tmp_path_factory.mktemp("secret_place")
    for domain, seed in (("one", 0), ("other", 1)):
        for k, name in enumerate(("anger", "happiness")):
            (home / domain / name).mkdir(parents=True)
            for i in range(6):
                pixels = np.random.default_rng([seed, k, i]).integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(home / domain / name / f"{i}.png")
    data = {"sources": [f"folder:{home}/one"], "target": f"folder:{home}/other", "source_batch": 6, "target_batch": 2}
    run(make_context("source_only", layers=({"data": data, "train": {"steps": 2}},)), home / "run", listener())
    return home, export_model(home / "run", home / "faces", to="hub", data=parse_spec(f"folder:{home}/other"))


@pytest.fixture
def cache(placed, tmp_path, monkeypatch):
    """Lay the folder out as the hub's client keeps a model that it has fetched, and be offline."""
    home = tmp_path / "models--me--faces"
    (home / "blobs").mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs/main").write_text("0" * 40)
    snapshot = home / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for n, path in enumerate(sorted(placed[1].path.iterdir())):
        shutil.copy(path, home / "blobs" / str(n))
        (snapshot / path.name).symlink_to(f"../../blobs/{n}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return home


@pytest.mark.slow
def test_what_the_hub_keeps_predicts_to_the_bit_what_the_run_does(placed, cache):
    images = np.random.default_rng(2).integers(0, 256, (5, 20, 20, 3), dtype=np.uint8)
    want = fercore.load(placed[0] / "run", device="cpu").predict(images).probs
    for name in ("hf://me/faces", "hf://me/faces@main"):
        assert np.array_equal(fercore.load(name, device="cpu").predict(images).probs, want)


@pytest.mark.parametrize("name", ["hf://me/elsewhere", "hf://me/faces@v9"])
def test_what_is_not_in_the_cache_is_one_line_where_the_hub_is_out_of_reach(cache, name):
    with pytest.raises(UserInputError, match=r"cannot fetch model 'me/\w+': the hub is out of reach"):
        fercore.load(name)


def test_no_file_names_a_place_of_this_machine(placed):
    home, exported = placed
    for path in exported.path.iterdir():
        assert home.name.encode() not in path.read_bytes(), path


def test_the_card_says_what_the_run_says(placed):
    home, exported = placed
    card = (exported.path / "README.md").read_text()
    result = Result.model_validate_json((home / "run/result.json").read_text()).to_json()
    assert f"| balanced accuracy | {result['target']['balanced_accuracy']:.4f} |" in card
    assert f"seed 3, the last weights, on {result['target']['n']} images" in card
    assert f"| source, labelled | folder | {result['sources'][0]['n']} |" in card
    assert "ask whoever it is from for its terms of use" in card
    config = json.loads((exported.path / "config.json").read_text())
    assert config["id2label"] == {"0": "anger", "1": "happiness"}
    assert exported.check.difference == 0


def test_a_folder_that_is_used_is_left_alone(placed):
    home, _ = placed
    with pytest.raises(UserInputError, match="output folder exists"):
        export_model(home / "run", home / "one", to="hub")


def test_names_of_others_set_no_link_or_table():
    assert markdown("a|b [c](d) <e>\x1b") == r"a\|b \[c\]\(d\) \<e\>\\u001b"
