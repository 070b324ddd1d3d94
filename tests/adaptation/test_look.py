"""What is found of the data before training: crops or not, labels, copies, and what a model makes of the target."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fercore.adaptation import look as module
from fercore.adaptation.look import look, target_features
from fercore.data.spec import folder_or_spec, parse_spec
from fercore.errors import UserInputError
from fercore.prediction.faces import CropCheck
from fercore.synthfer.dataset import SynthFER
from fercore.synthfer.export import write


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    place = tmp_path_factory.mktemp("faces")
    write(SynthFER("studio", n=70, seed=1), place / "source")
    loose = place / "loose"
    loose.mkdir()
    for number, file in enumerate(sorted((place / "source").rglob("*.png"))[:60]):
        with Image.open(file) as image:
            image.resize((128, 128)).save(loose / f"{number}.png")
    return place


def looked(faces, tmp_path, target="loose", how="whole"):
    source = parse_spec(f"manifest:{faces / 'source' / 'manifest.csv'}")
    return look([source], folder_or_spec(str(faces / target)), tmp_path / "data", how, lambda line: None)


def test_a_folder_without_labels_is_adapted_to_whole(faces, tmp_path):
    data = looked(faces, tmp_path)
    assert data.target.options["transductive"] == "true"
    assert data.target.format == "folder"
    assert any("no image has a label, so all 60 are adapted to" in note for note in data.notes)


def test_copies_of_the_source_are_counted(faces, tmp_path):
    data = looked(faces, tmp_path)
    assert data.copies >= 55
    assert any("stand in a source too" in note for note in data.notes)


@pytest.mark.parametrize(("seen", "said"), [(None, "no detector is installed"), (CropCheck(20, 18, 2), "")])
def test_crops_are_taken_as_they_are(faces, tmp_path, monkeypatch, seen, said):
    monkeypatch.setattr(module, "crop_check", lambda pictures, settings: seen)
    data = looked(faces, tmp_path, how="auto")
    assert data.target.format == "folder"
    assert said == "" or any(said in note for note in data.notes)


def test_photographs_are_cut_out_once(faces, tmp_path, monkeypatch):
    calls = []

    def prepared(spec, out, settings):
        calls.append(spec)
        shutil.copytree(faces / "source", out)
        return {"prepared": 58, "refused": 2, "spec": ""}

    monkeypatch.setattr(module, "crop_check", lambda pictures, settings: CropCheck(20, 18, 18))
    monkeypatch.setattr(module, "prepare", prepared)
    data = looked(faces, tmp_path, how="auto")
    assert len(calls) == 2
    assert any("no crops: in 18 of 18 images" in note for note in data.notes)


def test_images_without_faces_are_refused(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "crop_check", lambda pictures, settings: CropCheck(20, 1, 0))
    with pytest.raises(UserInputError, match="a face was found in 1 of 20 images looked at.*--faces whole"):
        looked(faces, tmp_path, how="auto")


def test_small_crops_are_not_asked_of_a_detector(tmp_path):
    for number in range(3):
        Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(tmp_path / f"{number}.png")
    from fercore.data.domains.domain_set import read_chosen

    assert list(module._large(read_chosen(folder_or_spec(str(tmp_path)))[0])) == []


def shares(**given):
    predicted = SimpleNamespace(class_shares=given)
    return SimpleNamespace(target=SimpleNamespace(estimated_shares=None, predicted=predicted))


def test_what_a_model_makes_of_the_target():
    assert target_features(shares(anger=0.95, joy=0.05, fear=0.0))[0] == {"one_class"}
    assert target_features(shares(anger=0.7, joy=0.2, fear=0.1))[0] == {"label_shift"}
    assert target_features(shares(anger=0.4, joy=0.3, fear=0.3)) == (set(), [])
