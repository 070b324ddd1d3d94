"""Faces that other tools have found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from photographs import TRUTH, N, Truth, contents, spec

from fercore.data.domains.domain_set import read_domain
from fercore.datasets.prepare import PrepareSettings, prepare
from fercore.datasets.prepare.boxes import read_boxes
from fercore.datasets.prepare.faces import five_of_68
from fercore.errors import UserInputError


def pyfeat(path: Path, names: list[str]) -> Path:
    points = Truth().points
    header = ["input", "FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "FaceScore"]
    header += [f"{axis}_{k}" for axis in "xy" for k in range(68)]
    lines = [",".join(header)]
    for name in names:
        five = points[int(Path(name).stem)]
        lines.append(",".join([name, "44", "34", "56", "58", "0.97", *map(str, five[:, 0]), *map(str, five[:, 1])]))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_pyfeat_boxes_instead_of_detecting(photographs: Path, tmp_path: Path):
    keys = read_domain(spec(photographs))[0].keys
    names = ["/elsewhere/" + Path(key).relative_to(photographs).as_posix() for key in keys[:-1]]
    boxes = pyfeat(tmp_path / "fex.csv", names)
    report = prepare(spec(photographs), tmp_path / "out", PrepareSettings(size=48, boxes=str(boxes), detector="none"))
    assert (report["prepared"], report["reasons"]) == (N - 1, {"no face found": 1})
    prepare(spec(photographs), tmp_path / "truth", TRUTH)
    ours, theirs = contents(tmp_path / "out"), contents(tmp_path / "truth")
    assert sum(ours[name] == theirs[name] for name in ours if name.endswith(".png")) == N - 1


def test_openface_landmarks_instead_of_detecting(photographs: Path, tmp_path: Path):
    folder = tmp_path / "openface"
    folder.mkdir()
    header = ", ".join(["face", "confidence", *(f"{axis}_{k}" for axis in "xy" for k in range(68))])
    for i, points in enumerate(Truth().points[: N - 2]):
        values = ", ".join(map(str, [0, 0.98, *points[:, 0], *points[:, 1]]))
        (folder / f"{i}.csv").write_text(f"{header}\n{values}\n")
    (folder / f"{N - 2}.csv").write_text(f"{header}, success\n{', '.join(['0'] * 138)}, 0\n")
    settings = PrepareSettings(size=48, boxes=str(folder))
    report = prepare(spec(photographs), tmp_path / "out", settings)
    assert report["prepared"] == N - 2
    faces = read_boxes(folder, ["/x/3.png"])[0][0]
    assert faces.landmarks == pytest.approx(five_of_68(Truth().points[3]))
    left, top, right, bottom = faces.box
    assert left < faces.landmarks[0, 0] < faces.landmarks[1, 0] < right
    assert top < faces.landmarks[0, 1] < faces.landmarks[3, 1] < bottom


def test_faces_of_the_frames_of_a_video(tmp_path: Path):
    rows = "".join(f"/v/clip.mp4,{i},{i},2,3,4\n" for i in range(3))
    fex = tmp_path / "fex.csv"
    fex.write_text("input,frame,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight\n" + rows)
    keys = ["/d/anger/0002.png", "/d/fear/clip_0000.png", "/d/fear/other.png"]
    assert [[face.box[0] for face in faces] for faces in read_boxes(fex, keys)] == [[2.0], [0.0], []]
    header = ",".join(["frame", *(f"{axis}_{k}" for axis in "xy" for k in range(68))])
    for clip in ("one", "two.b"):
        lines = [",".join(map(str, [i, *Truth().points[i][:, 0], *Truth().points[i][:, 1]])) for i in range(2)]
        (tmp_path / "processed").mkdir(exist_ok=True)
        (tmp_path / "processed" / f"{clip}.csv").write_text("\n".join([header, *lines]))
    found = read_boxes(tmp_path / "processed", ["/d/two.b/1.png", "/d/one_0.png"])
    for faces, i in zip(found, (1, 0), strict=True):
        assert len(faces) == 1
        assert faces[0].landmarks == pytest.approx(five_of_68(Truth().points[i]))
    (tmp_path / "processed" / "image.csv").write_text(header.removeprefix("frame,") + "\n" + ",".join(["1"] * 136))
    with pytest.raises(UserInputError, match="faces of images and of frames of a video"):
        read_boxes(tmp_path / "processed", ["/d/one_0.png"])


def test_an_image_is_given_no_other_images_faces(tmp_path: Path):
    header = ",".join(f"{axis}_{k}" for axis in "xy" for k in range(68))
    (tmp_path / "0.csv").write_text(header + "\n" + ",".join(["nan"] * 136) + "\n" + ",".join(["-nan(ind)"] * 136))
    (tmp_path / "1.csv").write_text(header + "\n" + ",".join(["1", "2"] * 68))
    assert [len(faces) for faces in read_boxes(tmp_path, ["/d/a/0.png", "/d/a/1.png"])] == [0, 1]
    with pytest.raises(UserInputError, match="row '1' fits two images"):
        read_boxes(tmp_path, ["/d/a/1.png", "/d/b/1.png"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("input,FaceRectX\n", "no column 'facerecty'"),
        ("input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight\n0.png,1,x,3,4\n", "not numbers .*, line 2"),
        ("input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight\n0.png,1,inf,3,4\n", "not finite .*, line 2"),
        ("input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight\n,1,2,3,4\n", "row without an image .*, line 2"),
        ("input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight\nz.png,1,2,3,4\n", "no row fits an image"),
    ],
)
def test_boxes_that_cannot_be_read(tmp_path: Path, text: str, message: str):
    file = tmp_path / "b.csv"
    file.write_text(text)
    with pytest.raises(UserInputError, match=message):
        read_boxes(file, ["0.png"])
    with pytest.raises(UserInputError, match="boxes not found"):
        read_boxes(tmp_path / "none", ["0.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserInputError, match="no CSV file in the folder"):
        read_boxes(tmp_path / "empty", ["0.png"])
