"""SynthFER on disk: a folder of images with its tables, and contact sheets for the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fercore.data.labels import CANONICAL
from fercore.documents import CsvWriter
from fercore.errors import UserInputError
from fercore.synthfer.dataset import SynthFER
from fercore.synthfer.names import AU_NAMES
from fercore.writing import is_unused, make_parents, whole, whole_folder

_CHUNK = 256
_TEST_SHARE = 0.3
_SHEET_BYTES = 140_000


def split_of_subjects(subjects: Sequence[str]) -> dict[str, str]:
    """Return subject -> "train" or "test"; about three subjects in ten are test, the same ones every time."""
    names = sorted(set(subjects))
    # Spread evenly over the names instead of drawn: the same subjects whatever else is written.
    tests = {names[k] for k in range(len(names)) if int((k + 1) * _TEST_SHARE) > int(k * _TEST_SHARE)}
    return {name: "test" if name in tests else "train" for name in names}


def write(dataset: SynthFER, out: Path) -> None:
    """Write images and tables to a folder; the folder appears complete or not at all.

    `images/<class>/<index>.png`, `manifest.csv` (path,label,domain,split,subject,sequence), `au.csv` (detector scores)
    and `au_intensity.csv` (FACS intensities). Train and test share no subject.

    Raises:
        UserInputError: if `out` is a file or a folder that holds something, or cannot be written.
    """
    out = Path(out)
    if not is_unused(out):
        raise UserInputError("the output folder is not empty", where=str(out), fix="choose a new folder")
    make_parents(out)
    with whole_folder(out, "manifest.csv") as draft:
        paths = _write_images(dataset, draft)
        _write_tables(dataset, paths, draft)


def _write_images(dataset: SynthFER, folder: Path) -> list[str]:
    """Write every image as PNG and return the paths inside the folder."""
    digits = max(5, len(str(len(dataset) - 1)))
    paths = [f"images/{dataset.classes[label]}/{i:0{digits}d}.png" for i, label in enumerate(dataset.labels.tolist())]
    for name in dataset.classes:
        (folder / "images" / name).mkdir(parents=True)
    for start in range(0, len(dataset), _CHUNK):
        index = range(start, min(start + _CHUNK, len(dataset)))
        for i, image in zip(index, dataset.render(index), strict=True):
            save_png(image, folder / paths[i])
    return paths


def save_png(image: NDArray[np.uint8], path: Path) -> None:
    """Write u8[H,W,3] as PNG, with one channel where all three are equal."""
    from PIL import Image

    grey = bool((image[:, :, :1] == image).all())
    Image.fromarray(image[:, :, 0] if grey else image).save(path)


def _write_tables(dataset: SynthFER, paths: list[str], folder: Path) -> None:
    splits = split_of_subjects(dataset.subjects)
    rows = (
        (path, dataset.classes[label], f"synthfer-{dataset.style}", splits[subject], subject, "")
        for path, label, subject in zip(paths, dataset.labels.tolist(), dataset.subjects, strict=True)
    )
    _write_csv(folder / "manifest.csv", ("path", "label", "domain", "split", "subject", "sequence"), rows)
    for name, table in (("au.csv", dataset.au_scores), ("au_intensity.csv", dataset.au_intensity)):
        values = ((path, *(f"{v:.4f}" for v in row)) for path, row in zip(paths, table.tolist(), strict=True))
        _write_csv(folder / name, ("path", *AU_NAMES), values)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with whole(path, "w") as file:
        writer = CsvWriter(file)
        writer.writerow(header)
        for row in rows:
            writer.writerow(row)


def contact_sheet(style: str, out_png: Path, seed: int = 0) -> None:
    """Write a picture of a style: the seven emotions downwards (canonical order), eight subjects across."""
    from PIL import Image

    columns = 8
    dataset = SynthFER(style, n=1000, seed=seed)
    subjects = sorted(set(dataset.subjects))[:columns]
    rows = []
    for emotion in range(len(CANONICAL[:7])):
        shown = np.flatnonzero(dataset.true_labels == emotion).tolist()
        chosen = [next((i for i in shown if dataset.subjects[i] == name), shown[k]) for k, name in enumerate(subjects)]
        rows.append(np.concatenate(list(dataset.render(chosen)), axis=1))
    sheet = np.concatenate(rows, axis=0)
    grey = bool((sheet[:, :, :1] == sheet).all())
    _save_small(Image.fromarray(sheet[:, :, 0] if grey else sheet), Path(out_png))


def _save_small(picture: Any, path: Path) -> None:
    """Save a picture as PNG, with fewer colours where it would be larger than _SHEET_BYTES."""
    picture.save(path, optimize=True)
    for colors in (128, 64, 32, 16):
        if path.stat().st_size <= _SHEET_BYTES:
            return
        picture.quantize(colors, kmeans=1).save(path, optimize=True)
