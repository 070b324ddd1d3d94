"""`sfew`: SFEW 2.0, Train|Val/<Class>/*.png, or the aligned faces Train_Aligned_Faces/ and Val_Aligned_Faces/.

`images=original` takes the former, `images=aligned` the latter; left out, the former where they are there.

The test images have no public labels: Test/ is left out, or with `test=unlabelled` becomes the test part without
labels, whose predictions can be handed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fercore.data.formats.folder import BESIDE, images_below, subfolders
from fercore.data.formats.reading.scan import Rows, Scan, existing, not_empty
from fercore.data.images.readers import FileReader
from fercore.data.labels import find_label
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError

PARTS = ("train", "val", "test")
FIX = "it must hold Train/Angry/*.png, Val/Angry/*.png and so on"


def scan(spec: DomainSpec) -> Scan:
    """Read SFEW 2.0.

    Raises:
        UserInputError: for a missing folder or part, or a class folder that is no expression.
    """
    root = existing(spec.path, folder=True, where=spec.where)
    test = spec.choice("test", ("none", "unlabelled"), "none")
    rows, parts_read = Rows(), set()
    for part, folder in _parts(rows, root, spec):
        if part == "test":
            _add_test(rows, folder, take=test == "unlabelled")
        else:
            _add_classes(rows, folder, part)
            parts_read.add(part)
    if missing := sorted({"train", "val"} - parts_read):
        raise UserInputError(f"no folder {missing[0].capitalize()}/", where=str(root), fix=FIX)
    not_empty(rows, str(root), FIX)
    return Scan(rows, FileReader(tuple(rows.keys)))


def _parts(rows: Rows, root: Path, spec: DomainSpec) -> Iterator[tuple[str, Path]]:
    """Yield the parts of one kind of images: the release has them uncropped and aligned, side by side."""
    folders = {folder.name.lower(): folder for folder in subfolders(root)}
    aligned = {part: folder for name, folder in folders.items() for part in PARTS if name.startswith(f"{part}_aligned")}
    plain = {part: folders[part] for part in PARTS if part in folders}
    for name, folder in folders.items():
        of_a_part = folder in aligned.values() or name in plain
        if not of_a_part and (images := images_below(folder)):
            rows.skipped[BESIDE.format(folder.name)] += len(images)
    default = "original" if plain.keys() & {"train", "val"} else "aligned"
    chosen = spec.choice("images", ("original", "aligned"), default)
    yield from (plain if chosen == "original" else aligned).items()


def _add_classes(rows: Rows, part: Path, split: str) -> None:
    folders = subfolders(part)
    # Archives wrap the classes in further folders.
    while len(folders) == 1 and find_label(folders[0].name) is None:
        folders = subfolders(folders[0])
    for folder in folders:
        label = find_label(folder.name)
        if label is None:
            what = "folder that is no expression"
            raise UserInputError(what, where=str(folder), fix="classes: Angry Disgust Fear Happy Neutral Sad Surprise")
        for image in images_below(folder, rows):
            # Names are MOVIE_TIME_FRAME: what stands before the last number is one shot of one film.
            rows.add(image, label, split=split, sequence=Path(image).stem.rpartition("_")[0])


def _add_test(rows: Rows, folder: Path, *, take: bool) -> None:
    images = images_below(folder, rows if take else None)
    if not take:
        rows.skipped["test part without labels"] += len(images)
        return
    for image in images:
        rows.add(image, -1, split="test", sequence=Path(image).stem.rpartition("_")[0])
