"""Videos: every frame is predicted on as an image would be, damage is told, and nothing grows with their length."""

from __future__ import annotations

import csv
import struct
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

import fercore
from fercore.data.images.codecs import Unusable
from fercore.errors import UserInputError
from fercore.prediction.faces import Tracker, overlap
from fercore.prediction.inputs import Frame
from fercore.prediction.smooth import Smoother
from fercore.prediction.tables import Row
from fercore.prediction.video import Stride, Video

av = pytest.importorskip("av")


def make_video(path: Path, frames, *, codec: str = "libx264", rate: int = 10) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def flat(k: int, size: int = 64) -> np.ndarray:
    """Return a picture of one grey that says which it is."""
    return np.full((size, size, 3), 4 * k + 16, dtype=np.uint8)


def noise(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (n, 8, 8, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(pixels).resize((64, 64))) for pixels in coarse]


def read(video: Video) -> tuple[list[tuple[int, float | None, int]], str]:
    """Return number, seconds and grey of each frame, and why there are no more."""
    frames, reason = [], ""
    for number, time, get in video.frames():
        try:
            frames.append((number, time, int(get().mean())))
        except Unusable as error:
            reason = str(error)
    return frames, reason


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return make_video(tmp_path_factory.mktemp("clip") / "clip.mp4", [flat(k) for k in range(40)])


@pytest.mark.parametrize(
    ("stride", "numbers"),
    [
        (Stride(), list(range(40))),
        (Stride(every=7), [0, 7, 14, 21, 28, 35]),
        (Stride(fps=2), [0, 5, 10, 15, 20, 25, 30, 35]),
        (Stride(fps=4), [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28, 30, 33, 35, 38]),
        (Stride(fps=99), list(range(40))),
    ],
)
def test_the_frames_taken_are_those_asked_for(clip, stride, numbers):
    video = Video(str(clip), stride)
    frames, reason = read(video)
    assert [number for number, *_ in frames] == numbers
    assert [time for _, time, _ in frames] == pytest.approx([number / 10 for number in numbers])
    assert all(abs(grey - (4 * number + 16)) <= 3 for number, _, grey in frames)
    assert reason == ""
    assert len(video) == len(numbers)
    assert [number for number, *_ in video.frames(after=20)] == [number for number in numbers if number > 20]


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "libvpx"])
@pytest.mark.parametrize("how", ["cut", "overwritten"])
def test_what_comes_before_damage_is_kept_and_the_damage_told(tmp_path, codec, how):
    path = make_video(
        tmp_path / f"a.{ {'libx264': 'mp4', 'mpeg4': 'avi', 'libvpx': 'webm'}[codec] }", noise(60), codec=codec
    )
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if how == "cut":
        del content[middle:]
    else:
        content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    frames, reason = read(Video(str(path)))
    if codec == "libx264" and how == "cut":  # the index of an MP4 comes last
        assert (frames, reason[:30]) == ([], "cannot be opened as a video: I")
    else:
        assert 10 < len(frames) < 60
        assert "damaged" in reason


def test_what_is_no_video_is_told(tmp_path):
    other = tmp_path / "secret.mp4"
    make_video(other, [flat(0)])
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {other}\n", encoding="utf-8")
    (tmp_path / "play.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n", encoding="utf-8")
    (tmp_path / "text.mp4").write_text("words", encoding="utf-8")
    for name in ("list", "play", "text", "none"):
        frames, reason = read(Video(str(tmp_path / f"{name}.mp4")))
        assert frames == []
        assert reason.startswith("cannot be opened as a video")


def test_a_video_goes_through_the_model_as_its_frames_do(trained, tmp_path):
    pictures = noise(12)
    path = make_video(tmp_path / "clip.mp4", pictures)
    decoded = [get() for *_, get in Video(str(path)).frames()]
    want = fercore.load(trained / "run", device="cpu").predict(decoded).probs
    seen: list[Row] = []
    given = {"device": "cpu", "each": seen.append}
    fercore.predict(trained / "run", str(path), out=tmp_path / "a.csv", annotate=tmp_path / "drawn.mp4", **given)
    assert np.allclose([row.probs for row in seen], want, atol=1e-6)
    assert [(row.number, row.face) for row in seen] == [(k, 0) for k in range(12)]
    drawn = [get() for *_, get in Video(str(tmp_path / "drawn.mp4")).frames()]
    assert len(drawn) == 12
    assert np.abs(drawn[3][40:, 20:].astype(int) - decoded[3][40:, 20:])[:-4, :-4].mean() < 12
    assert np.abs(drawn[3][:10, :30].astype(int) - decoded[3][:10, :30]).mean() > 40  # the words stand there
    smooth: list[Row] = []
    fercore.predict(trained / "run", str(path), smooth=0.5, device="cpu", each=smooth.append)
    slow, weight = want[0], 1 - np.exp(-0.1 / 0.5)
    for row, probs in zip(smooth[1:], want[1:], strict=True):
        slow = slow + weight * (probs - slow)
        assert row.probs == pytest.approx(slow, abs=1e-5)


@pytest.mark.slow
def test_an_interrupted_video_goes_on_where_it_was(trained, tmp_path):
    path = make_video(tmp_path / "clip.mp4", noise(40))
    boxes = ["input,frame,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight,FaceScore"]
    for k in range(40):  # one face moves to the right, the other one comes and goes
        boxes.append(f"clip.mp4,{k},{k // 2},5,22,22,0.9")
        if k % 8 < 5:
            boxes.append(f"clip.mp4,{k},40,40,21,21,0.9")
    (tmp_path / "boxes.csv").write_text("\n".join(boxes), encoding="utf-8")
    given = {"faces": str(tmp_path / "boxes.csv"), "smooth": 1.0, "device": "cpu"}
    fercore.predict(trained / "run", str(path), out=tmp_path / "whole.csv", **given)
    text = (tmp_path / "whole.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    rows = list(csv.DictReader(text))
    assert {row["face"] for row in rows} == {"0", "1"}
    assert [row["frame"] for row in rows if row["face"] == "1"] == [str(k) for k in range(40) if k % 8 < 5]
    (tmp_path / "cut.csv").write_text("".join(text[:31]), encoding="utf-8")
    (tmp_path / "cut.csv.json").write_bytes((tmp_path / "whole.csv.json").read_bytes())
    fercore.predict(trained / "run", str(path), out=tmp_path / "cut.csv", resume=True, **given)
    again = list(csv.DictReader((tmp_path / "cut.csv").read_text(encoding="utf-8").splitlines(keepends=True)))
    assert [(row["frame"], row["face"]) for row in again] == [(row["frame"], row["face"]) for row in rows]
    for old, new in zip(rows, again, strict=True):
        assert float(new["confidence"]) == pytest.approx(float(old["confidence"]), abs=5e-6)


def test_faces_are_followed_by_overlap():
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    tracker = Tracker()
    one, two = (0.0, 0.0, 10.0, 10.0), (30.0, 0.0, 40.0, 10.0)
    assert tracker.number([one, two], 0.0) == [0, 1]
    assert tracker.number([(31.0, 1.0, 41.0, 11.0), (2.0, 0.0, 12.0, 10.0)], 0.1) == [1, 0]
    assert tracker.number([(60.0, 60.0, 70.0, 70.0)], 0.2) == [2]
    assert tracker.number([(3.0, 0.0, 13.0, 10.0)], 0.9) == [0]  # out of sight for less than a second
    assert tracker.number([(31.0, 1.0, 41.0, 11.0)], 1.5) == [3]


def test_smoothing_does_not_go_by_how_frames_are_spaced():
    coarse, fine = Smoother(2.0), Smoother(2.0)
    for smoother in (coarse, fine):
        smoother.smooth(0, (1.0, 0.0), 0.0)
    for k in range(1, 100):
        fine.smooth(0, (0.0, 1.0), k / 100)
    assert fine.smooth(0, (0.0, 1.0), 1.0) == pytest.approx(coarse.smooth(0, (0.0, 1.0), 1.0))
    assert coarse.smooth(1, (0.3, 0.7), 1.0) == (0.3, 0.7)


@pytest.mark.parametrize(
    ("keywords", "line"),
    [
        ({"every": 2, "fps": 2.0}, "--every and --fps at once"),
        ({"fps": 0.0}, "0.0 frames a second (--fps)"),
        ({"smooth": -1.0}, "-1.0 seconds (--smooth)"),
        ({"annotate": "a.avi"}, "unknown '.avi'"),
        ({"annotate": "{home}/clip.mp4"}, "output file exists"),
        ({"annotate": "{home}"}, "not a new folder"),
        ({"annotate": "new", "resume": True, "out": "{home}/x.csv"}, "--annotate draws from the start"),
    ],
)
def test_a_mistake_is_one_line(trained, clip, keywords, line):
    filled = {k: v.format(home=clip.parent) if isinstance(v, str) else v for k, v in keywords.items()}
    with pytest.raises(UserInputError) as caught:
        fercore.predict(trained / "run", str(clip), device="cpu", **filled)
    assert line in str(caught.value)


def test_the_missing_package_is_named_with_the_line_that_installs_it(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserInputError, match=r"videos need the package av .*pip install 'fercore\[video\]'"):
        len(Video(str(clip)))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_frames(trained, tmp_path, monkeypatch):
    picture = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)

    class Source:
        sources, names, ignored = (), (), 0

        def __init__(self, total: int) -> None:
            self.total = total

        def frames(self, done, last):
            return (Frame("clip", picture.copy, number=k, time=k / 25) for k in range(self.total))

    def grown(n: int) -> int:
        monkeypatch.setattr("fercore.prediction.predict.find_inputs", lambda *_, **__: Source(n))
        before, most = psutil.Process().memory_info().rss, 0

        def look(row: Row) -> None:
            nonlocal most
            if row.number % 100 == 0:
                most = max(most, psutil.Process().memory_info().rss)

        fercore.predict(trained / "run", "clip", out=tmp_path / f"{n}.csv", faces="whole", device="cpu", each=look)
        return most - before

    grown(500)
    assert grown(10_000) - grown(10) < 16 * 2**20  # all the pictures are 550 MiB
    assert (tmp_path / "10000.csv").read_text(encoding="utf-8").count("\n") == 10_001


def test_a_video_held_upright_is_turned(tmp_path):
    picture = np.zeros((32, 64, 3), dtype=np.uint8)
    picture[:16, :32] = 250
    path = make_video(tmp_path / "a.mp4", [picture])
    content, at = bytearray(path.read_bytes()), path.read_bytes().index(b"tkhd") + 44
    assert struct.unpack_from(">9i", content, at) == (65536, 0, 0, 0, 65536, 0, 0, 0, 2**30)
    # (x, y) goes to (-y, x): what was to the right is below, a quarter turn clockwise (ISO/IEC 14496-12, 6.2.2).
    struct.pack_into(">9i", content, at, 0, 65536, 0, -65536, 0, 0, 0, 0, 2**30)
    path.write_bytes(content)
    ((_, _, get),) = Video(str(path)).frames()
    assert np.abs(get().astype(int) - np.rot90(picture, -1)).mean() < 5
