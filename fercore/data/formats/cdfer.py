"""`cdfer`: the datasets as the CD-FER benchmark arranges and lists them; `dataset=` names one.

raf      RAF/basic: EmoLabel/list_patition_label.txt, Image/original/, Annotation/{boundingbox,Landmarks_5}/<stem>.txt
afe      Asian_Facial_Expression/AsianMovie_0725_0730: list/{train,val}_list.txt "name l t r b label", annos/landmark_5/
ck       CK+_Emotion/{Train,Val}/CK+_{Train,Val}_crop/<Expression>/ with landmark_5/<Expression>/
jaffe    JAFFE: list/list_putao.txt "name label", images/, annos/{bbox,landmark_5}/
sfew     SFEW/{Train,Val}: imgs/<Expression>/, Annotations/{Bboxs,Landmarks_5}/<Expression>/
fer2013  FER2013: list/{train,val}_list.txt "name ... label", images/, annos/landmark_5/
expw     ExpW: list/Landmarks_5/{train,val}_list_5landmarks.txt "name face l t r b label x y ...", data/image/origin/
A face is cut out by its box and `pad=10` per cent on every side. As in the benchmark, a face without a landmark file is
left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fercore.data.formats.folder import images_below, subfolders
from fercore.data.formats.reading.codes import Labels, labels_of
from fercore.data.formats.reading.frames import find_child
from fercore.data.formats.reading.scan import Rows, Scan, existing, not_empty, read_text, safe_path
from fercore.data.images.crops import Box, CropReader
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError

ASIAN = "Asian_Facial_Expression/AsianMovie_0725_0730"
PARTS = {"train": "Train", "val": "Val"}


@dataclass
class Faces:
    """What a reader of one dataset collects; `root` is the folder that holds all datasets,
    `labels` says what the numbers in its lists mean.
    """

    root: Path
    labels: Labels
    rows: Rows = field(default_factory=Rows)
    files: list[str] = field(default_factory=list)
    boxes: list[Box | None] = field(default_factory=list)

    def add(self, file: str, native: str, split: str, box: Box | None, landmarks: Path) -> None:
        """Add a face, or count why not."""
        label = self.labels.find(native, self.rows)
        if label is None:
            return
        if not self.rows.has_file(file):
            return
        # Counted after the image: a missing image is the greater fault.
        if not landmarks.is_file():
            self.rows.skipped["no landmark file"] += 1
        else:
            self.rows.add(file, label, split=split)
            self.files.append(file)
            self.boxes.append(box)


def scan(spec: DomainSpec) -> Scan:
    """Read one dataset of the benchmark.

    Raises:
        UserInputError: for a missing folder, list or option `dataset`, or a bad line (by number) or box file.
    """
    root = existing(spec.path, folder=True, where=spec.where)
    if "dataset" not in spec.options:
        raise UserInputError("option dataset is missing", where=spec.where, fix=f"add ?dataset= {', '.join(DATASETS)}")
    name = spec.choice("dataset", tuple(DATASETS), "")
    pad = spec.integer("pad", 10) / 100
    faces = Faces(root, labels_of(spec, CODINGS.get(name, "")))
    DATASETS[name](faces)
    faces.labels.refuse_guess(faces.rows, str(root))
    not_empty(faces.rows, str(root), f"see the layout of dataset {name} in docs/data.md")
    return Scan(faces.rows, CropReader(tuple(faces.files), tuple(faces.boxes), pad))


def _raf(faces: Faces) -> None:
    base = _folder(faces.root, "RAF/basic")
    for where, words in _lines(base / "EmoLabel/list_patition_label.txt", 2):
        file = Path(safe_path(words[0], base / "Image/original", trusted=None, where=where))
        annotation = f"{file.stem}.txt"
        box = read_box(base / "Annotation/boundingbox" / annotation)
        split = "train" if words[0].startswith("train") else "test"
        landmarks = base / "Annotation/Landmarks_5" / annotation
        faces.add(str(file), words[-1], split, box, landmarks)


def _afe(faces: Faces) -> None:
    base = _folder(faces.root, ASIAN)
    for part in PARTS:
        for where, words in _lines(base / f"list/{part}_list.txt", 6):
            file = Path(safe_path(words[0], base / "images", trusted=None, where=where))
            landmarks = (base / "annos/landmark_5" / words[0]).with_suffix(".txt")
            faces.add(str(file), words[-1], part, _numbers(words[1:5], where), landmarks)


def _fer2013(faces: Faces) -> None:
    base = _folder(faces.root, "FER2013")
    for part in PARTS:
        for where, words in _lines(base / f"list/{part}_list.txt", 2, more=True):
            file = Path(safe_path(words[0], base / "images", trusted=None, where=where))
            landmarks = (base / "annos/landmark_5" / words[0]).with_suffix(".txt")
            faces.add(str(file), words[-1], part, None, landmarks)


def _jaffe(faces: Faces) -> None:
    base = _folder(faces.root, "JAFFE")
    for where, words in _lines(base / "list/list_putao.txt", 2):
        file = Path(safe_path(words[0], base / "images", trusted=None, where=where))
        box = read_box(base / "annos/bbox" / f"{file.stem}.txt")
        landmarks = base / "annos/landmark_5" / f"{file.stem}.txt"
        before = len(faces.files)
        faces.add(str(file), words[-1], "", box, landmarks)
        if len(faces.files) > before:
            faces.rows.subjects[-1] = file.name.partition(".")[0]


def _expw(faces: Faces) -> None:
    base = _folder(faces.root, "ExpW")
    for part in PARTS:
        path = base / f"list/Landmarks_5/{part}_list_5landmarks.txt"
        for where, words in _lines(path, 7, more=True):
            file = safe_path(words[0], base / "data/image/origin", trusted=None, where=where)
            # ExpW's landmarks stand in the list itself, so the list is the landmark file that is there.
            faces.add(file, words[6], part, _numbers(words[2:6], where), path)
            # A photograph may hold several faces: the number of the face makes the key its own.
            if faces.files and faces.rows.keys[-1] == file:
                faces.rows.keys[-1] = f"{file}#{words[1]}"


def _ck(faces: Faces) -> None:
    for split, name in PARTS.items():
        base = _folder(faces.root, f"CK+_Emotion/{name}/CK+_{name}_crop")
        for folder in subfolders(base):
            if folder.name.lower() == "landmark_5":
                continue
            for image in images_below(folder, faces.rows):
                landmarks = base / "landmark_5" / folder.name / f"{Path(image).stem}.txt"
                before = len(faces.files)
                faces.add(image, folder.name, split, None, landmarks)
                if len(faces.files) > before:
                    faces.rows.subjects[-1] = Path(image).name.partition("_")[0]


def _sfew(faces: Faces) -> None:
    for split, name in PARTS.items():
        base = _folder(faces.root, f"SFEW/{name}")
        for folder in subfolders(_folder(base, "imgs")):
            for image in images_below(folder, faces.rows):
                annotation = f"{folder.name}/{Path(image).stem}.txt"
                box = read_box(base / "Annotations/Bboxs" / annotation)
                landmarks = base / "Annotations/Landmarks_5" / annotation
                faces.add(image, folder.name, split, box, landmarks)


DATASETS: dict[str, Callable[[Faces], None]] = {
    "raf": _raf, "afe": _afe, "ck": _ck, "jaffe": _jaffe, "sfew": _sfew, "fer2013": _fer2013, "expw": _expw,
}  # fmt: skip
"""Name of a dataset -> what reads it."""

CODINGS = {"raf": "rafdb", "afe": "afe", "jaffe": "lacmfer", "fer2013": "fer2013", "expw": "expw"}
"""Name of a dataset whose lists have numbers -> their coding."""


def read_box(path: Path) -> Box | None:
    """Return the four numbers of a box file, or None if there is no such file.

    Raises:
        UserInputError: if it holds anything else.
    """
    return _numbers(read_text(path).split()[:4], str(path)) if path.is_file() else None


def _numbers(words: list[str], where: str) -> Box:
    try:
        # Boxes come as whole numbers or with decimals, by dataset.
        left, top, right, bottom = (int(float(word)) for word in words)
    except (ValueError, OverflowError):
        raise UserInputError(f"box {' '.join(words)[:40]!r} is not four numbers", where=where) from None
    return left, top, right, bottom


def _lines(path: Path, width: int, *, more: bool = False) -> Iterator[tuple[str, list[str]]]:
    if not path.is_file():
        raise UserInputError("no such list", where=str(path), fix="see the layout in docs/data.md")
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        words = line.split()
        where = f"{path}, line {number}"
        if words and (len(words) < width or (len(words) > width and not more)):
            what = f"line with {len(words)} words instead of {width}{' or more' * more}"
            raise UserInputError(what, where=where, fix="see the layout in docs/data.md")
        if words:
            yield where, words


def _folder(root: Path, path: str) -> Path:
    """Return a folder below `root`, names in any case.

    Raises:
        UserInputError: if it is not there.
    """
    folder = root
    for name in path.split("/"):
        child = find_child(folder, name)
        if child is None:
            raise UserInputError(f"no folder {path}", where=str(root), fix="see the layout in docs/data.md")
        folder = child
    return folder
