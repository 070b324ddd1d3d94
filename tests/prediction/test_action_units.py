"""Who says which action units new pictures show, and what is refused where nobody can."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from fercore.au import providers
from fercore.au.table import CODES, SCORES
from fercore.config import DataSettings
from fercore.data.domains.load import read_domain
from fercore.data.spec import parse_spec
from fercore.errors import UserInputError
from fercore.prediction.action_units import units_for
from fercore.prediction.inputs import Frame, Inputs
from fercore.prediction.predictor import Predictor
from fercore.prediction.video import Video


@dataclass
class Model:
    """What `units_for` asks of a predictor."""

    units: tuple[str, ...] = ("AU01", "AU12")
    needed: tuple[str, ...] = (SCORES, CODES)
    data_settings: DataSettings = field(default_factory=lambda: DataSettings(au="synthfer"))
    refuse_extras = Predictor.refuse_extras


class Bright:
    """Finds AU12 in bright pictures, AU01 in dark ones."""

    au_names = ("AU12", "AU04", "AU1")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        bright = images.mean(dim=(1, 2, 3))
        return torch.stack([bright, bright * 0, 1 - bright], dim=1)


def frame(name: str, number: int | None = None) -> Frame:
    return Frame(name, lambda: np.zeros((2, 2, 3), dtype=np.uint8), number=number)


@pytest.fixture
def detector(monkeypatch):
    real = providers.entry_points

    class Point:
        name = "bright"

        def load(self):
            return Bright

    monkeypatch.setattr(
        providers, "entry_points", lambda **by: [Point()] if by == {"group": providers.GROUP} else real(**by)
    )


def test_a_detector_looks_at_every_face_as_the_network_sees_it(detector):
    units = units_for(Model(data_settings=DataSettings(au="bright")), Inputs(("a.png", "b.png")), None)
    pixels = np.full((3, 3, 4, 4), 51, dtype=np.uint8)
    pixels[2] = 204
    extras = units.extras([frame("a.png"), frame("a.png"), frame("b.png")], pixels)
    assert list(extras) == [SCORES, CODES]
    assert extras[SCORES] == pytest.approx(np.array([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8]]), abs=1e-4)
    assert extras[CODES].tolist() == [[1, 0], [1, 0], [0, 1]]
    assert units.fault(frame("a.png"), 5) == ""


def test_a_file_is_matched_by_name_and_tells_of_one_face(tmp_path):
    path = tmp_path / "units.csv"
    path.write_text("path,AU12,AU01\nb/1.png,0.9,0.1\nb/2.png,0.2,0.7\n", encoding="utf-8")
    told: list[str] = []
    units = units_for(Model(), Inputs(("/x/b/2.png", "/x/b/1.png", "/x/c.png")), str(path), told.append)
    frames = [frame(name) for name in ("/x/c.png", "/x/b/1.png", "/x/b/2.png")]
    extras = units.extras(frames, np.zeros((3, 3, 4, 4), dtype=np.uint8))
    assert np.isnan(extras[SCORES][0]).all()
    assert extras[SCORES][1:] == pytest.approx(np.array([[0.1, 0.9], [0.7, 0.2]]))
    assert extras[CODES].tolist() == [[0, 0], [0, 1], [1, 0]]
    assert told == [f"1 of 3 pictures have no row in {path}: their action units count as unknown"]
    assert units.fault(frames[0], 1) == ""
    assert units.fault(frames[0], 2) == "2 faces, and the action units given are of one"


@pytest.mark.parametrize(
    ("head", "rows", "first"),
    [
        ("input,frame,FaceScore,AU01,AU12", ["clip.mp4,0,1,0.1,0.5", "clip.mp4,1,1,0.2,0.6"], 0.1),
        ("frame,confidence,success,AU01_r,AU12_r,AU01_c,AU12_c", ["1,1,1,2.5,0,1,0", "2,1,1,1,0,0,0"], 0.5),
    ],
    ids=["pyfeat", "openface"],
)
def test_frames_of_a_video_are_counted_as_the_tool_counts_them(tmp_path, head, rows, first):
    path = tmp_path / "clip.csv"
    path.write_text("\n".join([head, *rows]), encoding="utf-8")
    units = units_for(Model(), Inputs((Video("some/clip.mp4"),)), str(path))
    frames = [frame("some/clip.mp4", number) for number in (0, 1, 2)]
    scores = units.extras(frames, np.zeros((3, 3, 4, 4), dtype=np.uint8))[SCORES]
    assert scores[:2, 0] == pytest.approx([first, 0.2])
    assert np.isnan(scores[2]).all()


def test_generated_faces_carry_their_own_and_a_dataset_may_name_its_own(tmp_path):
    table, _ = read_domain(parse_spec("synthfer:studio?n=7"))
    units = units_for(Model(), Inputs((table,)), None)
    frames = [frame(key) for key in table.keys[::-1]]
    scores = units.extras(frames, np.zeros((7, 3, 4, 4), dtype=np.uint8))[SCORES]
    assert np.array_equal(scores, table.extras["au_scores"][::-1, [0, 8]])
    path = tmp_path / "own.csv"
    path.write_text("\n".join(["path,AU01,AU12", *(f"{key},0.5,0.25" for key in table.keys)]), encoding="utf-8")
    table, _ = read_domain(parse_spec(f"synthfer:studio?n=7&au={path}"))
    scores = units_for(Model(), Inputs((table,)), None).extras(frames, np.zeros((7, 3, 4, 4), dtype=np.uint8))[SCORES]
    assert (scores == [0.5, 0.25]).all()


@pytest.mark.parametrize(
    ("model", "provider", "line"),
    [
        (Model(), None, "the model predicts from action units beside the image: AU01, AU12 (--au); give a CSV"),
        (Model(data_settings=DataSettings(au="x.csv")), None, "the model predicts from action units beside"),
        (Model(), "brigt", "unknown action-unit provider 'brigt' (data.au); did you mean 'bright'?"),
        (Model(units=("AU01", "AU28")), "bright", "the model reads AU28, which it does not tell (bright); it tells"),
        (Model(), "synthfer", "only generated faces carry action units of their own (a.png)"),
        (Model(), "none.csv", "action-unit file not found (none.csv)"),
        (Model(), "{home}/others.csv", "no row of the action-unit file is of these inputs ({home}/others.csv)"),
        (Model(needed=()), "bright", "the model reads no action units (--au); leave it out"),
        (Model(units=()), "bright", "the model does not say which action units it reads"),
        (Model(needed=("depth",)), None, "the model predicts from depth beside the image (predict)"),
    ],
)
def test_whoever_cannot_tell_is_refused_in_a_line(tmp_path: Path, detector, model, provider, line):
    (tmp_path / "others.csv").write_text("path,AU01,AU12\nz.png,0,1\n", encoding="utf-8")
    with pytest.raises(UserInputError, match=re.escape(line.format(home=tmp_path))) as caught:
        units_for(model, Inputs(("a.png",)), provider and provider.format(home=tmp_path))
    assert "\n" not in str(caught.value)


def test_a_model_of_images_alone_is_asked_for_nothing():
    assert units_for(Model(needed=()), Inputs(("a.png",)), None) is None
