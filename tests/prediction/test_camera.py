"""A camera: frames one by one, a window where there is a display, lines elsewhere."""

from __future__ import annotations

import csv
import os
import signal

import cv2
import numpy as np
import pytest

import fercore
from fercore.errors import UserInputError
from fercore.prediction import camera
from fercore.prediction.tables import Row


class Device:
    """A camera of a few noisy pictures, blue in OpenCV's order of channels."""

    released = 0

    def __init__(self, number: int) -> None:
        self.number, self.left = number, 5

    def isOpened(self) -> bool:
        return self.number == 0

    def read(self):
        self.left -= 1
        picture = np.random.default_rng(max(0, self.left)).integers(0, 60, (48, 64, 3), dtype=np.uint8)
        picture[:, :, 0] = 250
        return self.left >= 0, picture

    def release(self) -> None:
        Device.released += 1


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Device)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


def test_without_a_display_there_are_lines_and_a_table(trained, tmp_path):
    told: list[str] = []
    seen: list[Row] = []
    given = {"camera": 0, "faces": "whole", "device": "cpu", "tell": told.append, "each": seen.append}
    summary = fercore.predict(trained / "run", out=tmp_path / "a.csv", **given)
    assert "lines instead" in told[0]
    assert [(row.input, row.number) for row in seen] == [("camera 0", k) for k in range(5)]
    picture = np.ascontiguousarray(Device(0).read()[1][:, :, ::-1])
    assert seen[0].probs == pytest.approx(
        fercore.load(trained / "run", device="cpu").predict(picture).probs[0], abs=1e-6
    )
    with (tmp_path / "a.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == summary.faces == 5
    assert Device.released == 1


def test_a_signal_ends_it_in_order(trained):
    seen: list[Row] = []

    def look(row: Row) -> None:
        seen.append(row)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    assert fercore.predict(trained / "run", camera=0, faces="whole", device="cpu", each=look).faces == len(seen)
    assert 2 <= len(seen) <= 3


def test_a_window_shows_the_answers_until_q(trained, monkeypatch):
    shown: list[np.ndarray] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "destroyWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, pixels: shown.append(pixels))
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 2 else -1)
    fercore.predict(trained / "run", camera=0, faces="whole", device="cpu")
    assert 2 <= len(shown) <= 3
    assert shown[0][-10:, -10:, 0].mean() > 200  # blue, as OpenCV has it
    assert shown[0].shape == (48, 64, 3)


def test_an_opencv_without_windows_gives_lines(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")

    def refuse(*_):
        raise cv2.error("not implemented")

    monkeypatch.setattr(cv2, "namedWindow", refuse)
    assert camera.window_for(camera.Camera(0)) is None


@pytest.mark.parametrize(
    ("keywords", "line"),
    [
        ({"camera": 3}, "camera 3 cannot be opened (--camera); plug it in, or give another number"),
        ({"camera": 0, "inputs": "a.png"}, "a camera goes alone"),
        ({"camera": 0, "annotate": "x"}, "a camera goes alone"),
    ],
)
def test_a_mistake_is_one_line(trained, keywords, line):
    with pytest.raises(UserInputError) as caught:
        fercore.predict(trained / "run", device="cpu", **keywords)
    assert line in str(caught.value)
