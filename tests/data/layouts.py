"""The official layouts of datasets in miniature, made of SynthFER faces. Each builder returns (spec, expected rows)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from fercore.synthfer import SynthFER

SEVEN = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
Row = tuple[str, str, str]
"""Label, part, subject."""


@cache
def faces(n: int = 64) -> np.ndarray:
    return SynthFER("studio", n=n, seed=5, size=24).render(range(n))


class Painter:
    """Writes one SynthFER face after another; `pixels` remembers what went where."""

    def __init__(self, root: Path) -> None:
        self.root, self.count = root, 0
        self.pixels: dict[str, np.ndarray] = {}

    def __call__(self, path: str) -> str:
        image = faces()[self.count % 64].copy()
        image[:4, :4] += np.uint8(40 * (self.count // 64))  # no two faces are equal
        self.count += 1
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        lossless = target.suffix in (".png", ".tiff")
        Image.fromarray(image).save(target) if lossless else Image.fromarray(image).save(target, quality=95)
        self.pixels[str(target)] = image
        return path

    def text(self, path: str, content: str) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")
        return target


CK_CODES = {"S005_001": "3", "S010_002": "1", "S010_004": "7", "S011_001": "2", "S012_001": None}


def ckplus(root: Path) -> Painter:
    paint = Painter(root)
    for name, code in CK_CODES.items():
        subject, sequence = name.split("_")
        for frame in (1, 2, 3, 4, 10):
            paint(f"cohn-kanade-images/{subject}/{sequence}/{name}_{frame:08d}.png")
        (root / "Emotion" / subject / sequence).mkdir(parents=True)
        if code is not None:
            paint.text(f"Emotion/{subject}/{sequence}/{name}_00000010_emotion.txt", f"   {code}.0000000e+00\n")
    return paint


def ck48(root: Path) -> Painter:
    paint = Painter(root)
    for k, name in enumerate(("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")):
        for frame in (7, 8, 9):
            paint(f"{name}/S{100 + k:03d}_002_{frame:08d}.png")
    return paint


def jaffe(root: Path) -> Painter:
    paint = Painter(root)
    for k, (subject, code) in enumerate((s, c) for s in ("KA", "YM") for c in "AN DI FE HA NE SA SU".split()):
        paint(f"{subject}.{code}{k % 3 + 1}.{k + 1}.tiff")
    return paint


def oulu(root: Path, spectrum: str = "VL", light: str = "Strong") -> Painter:
    paint = Painter(root)
    for subject in ("P001", "P002"):
        for name in ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise"):
            for frame in range(6):
                paint(f"{spectrum}/{light}/{subject}/{name}/{frame:03d}.jpeg")
    return paint


def sfew(root: Path, suffix: str = "") -> Painter:
    paint = Painter(root)
    for part in ("Train", "Val"):
        for name in ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise"):
            paint(f"{part}{suffix}/{name}/Film_{part}_00{len(name)}.png")
    for k in range(3):
        paint(f"Test{suffix}/Film_{k}.png")
    return paint


def expw(root: Path, n: int = 14) -> Painter:
    paint = Painter(root)
    lines = []
    for k in range(n):
        name = f"expw {k // 2} face.png"
        if k % 2 == 0:
            paint(f"data/image/origin/{name}")
        lines.append(f"{name} {k % 2} {2 + k % 2} 4 20 {22 - k % 2} 61.5 {k % 7}")
    paint.text("data/label/label.lst", "\n".join(lines) + "\n")
    return paint


AFFECT_HEADER = (
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n"
)


def affectnet_csv(root: Path) -> Painter:
    paint = Painter(root)
    for name, count in (("training", 11), ("validation", 8)):
        rows = []
        for code in range(count):
            file = f"{code}/{name}{code}.png"
            paint(f"Manually_Annotated_Images/{file}")
            rows.append(f"{file},2,3,16,18,1.0;2.0,{code},0.1,-0.2")
        paint.text(f"{name}.csv", AFFECT_HEADER + "\n".join(rows) + "\n")
    return paint


def affectnet_npy(root: Path) -> Painter:
    paint = Painter(root)
    for part in ("train_set", "val_set"):
        (root / part / "annotations").mkdir(parents=True)
        for code in range(8):
            paint(f"{part}/images/{code + 10}.jpg")
            value = np.array(str(code)) if code % 2 else np.array(code)
            np.save(root / part / "annotations" / f"{code + 10}_exp.npy", value)
    return paint


def affectnet_folders(root: Path) -> Painter:
    paint = Painter(root)
    for part in ("train", "val"):
        for code in range(8):
            paint(f"{part}/{code}/image{code}.jpg")
    return paint


NVIE = "path,label,domain,split,subject,sequence,time\n"


def nvie(root: Path) -> Painter:
    paint = Painter(root)
    rows = []
    for subject in ("001", "002"):
        for k, name in enumerate(SEVEN[:6]):
            for spectrum, shift in (("visible", 0.0), ("thermal", 0.1)):
                file = paint(f"{spectrum}/{subject}/{name}.png")
                rows.append(f"{file},{name},{spectrum},,{subject},{subject}-{name},{k + shift}")
    rows.append(f"{paint('visible/001/alone.png')},fear,visible,,001,001-alone,3")
    paint.text("nvie.csv", NVIE + "\n".join(rows) + "\n")
    return paint


def lacmfer(root: Path) -> Painter:
    paint = Painter(root)
    ck = [paint(f"datasets/CK+/x/S{k:03d}_001_00000009.png") for k in range(7)]
    paint.text("data/CK.txt", "".join(f"../{path} {k}\n" for k, path in enumerate(ck)))
    oulu = [paint(f"datasets/Oulu_CASIA/VL/Strong/P00{k}/Anger/014.png") for k in (1, 2)]
    windows = [f"../{oulu[1]}".replace("/", "\\"), f"../{oulu[0]}"]
    paint.text("data/Oulu.txt", "".join(f"{path} 5\n" for path in (f"../{oulu[0]}", *windows)))
    train = [paint(f"datasets/RAF-DB/images/train_{k}_aligned.png") for k in range(4)]
    test = [paint(f"datasets/RAF-DB/images/test_{k}_aligned.png") for k in range(2)]
    paint.text("data/RAF.txt", "".join(f"../{path} 3\n" for path in (*train, *test)))
    paint.text("data/RAF_test.txt", "".join(f"../{path} 3\n" for path in test))
    return paint


def cdfer(root: Path) -> Painter:
    paint = Painter(root)
    points = "7 8\n16 8\n12 12\n8 17\n16 17\n"
    names = ["train_00001", "test_0001", "train_00002"]
    paint.text("RAF/basic/EmoLabel/list_patition_label.txt", "".join(f"{name}.jpg 4\n" for name in names))
    for name in names:
        paint(f"RAF/basic/Image/original/{name}.jpg")
        paint.text(f"RAF/basic/Annotation/boundingbox/{name}.txt", "4 4 20 20\n")
    for name in names[:2]:
        paint.text(f"RAF/basic/Annotation/Landmarks_5/{name}.txt", points)
    asian = "Asian_Facial_Expression/AsianMovie_0725_0730"
    for part, code in (("train", 9), ("val", 0)):
        paint(f"{asian}/images/m/{part}.jpg")
        paint.text(f"{asian}/list/{part}_list.txt", f"m/{part}.jpg 2 2 20 20 {code}\nm/{part}.jpg 2 2 20 20 8\n")
        paint.text(f"{asian}/annos/landmark_5/m/{part}.txt", points)
        paint(f"CK+_Emotion/{part.title()}/CK+_{part.title()}_crop/Surprised/S010_002_00000014.png")
        paint.text(
            f"CK+_Emotion/{part.title()}/CK+_{part.title()}_crop/landmark_5/Surprised/S010_002_00000014.txt", points
        )
        paint(f"SFEW/{part.title()}/imgs/Angry/film.png")
        paint.text(f"SFEW/{part.title()}/Annotations/Bboxs/Angry/film.txt", "1 1 20 20\n")
        paint.text(f"SFEW/{part.title()}/Annotations/Landmarks_5/Angry/film.txt", points)
        paint(f"FER2013/images/{part}_00000.jpg")
        paint.text(f"FER2013/list/{part}_list.txt", f"{part}_00000.jpg 0\n")
        paint.text(f"FER2013/annos/landmark_5/{part}_00000.txt", points)
        paint(f"ExpW/data/image/origin/{part}.jpg")
        paint.text(
            f"ExpW/list/Landmarks_5/{part}_list_5landmarks.txt", f"{part}.jpg 0 2 2 20 20 6 {' '.join(['9'] * 10)}\n"
        )
    paint("JAFFE/images/KA.AN1.39.tiff")
    paint.text("JAFFE/list/list_putao.txt", "KA.AN1.39.tiff 5\n")
    paint.text("JAFFE/annos/bbox/KA.AN1.39.txt", "0 0 24 24\n")
    paint.text("JAFFE/annos/landmark_5/KA.AN1.39.txt", points)
    return paint
