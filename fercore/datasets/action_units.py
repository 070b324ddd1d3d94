"""Writing a domain's action units to a CSV that `data.au` reads back."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fercore.au.providers import DIGITS, detect, find_detector
from fercore.config import DataSettings
from fercore.data.domains.domain_set import read_chosen
from fercore.data.images.preflight import inspect
from fercore.data.spec import DomainSpec
from fercore.documents import CsvWriter
from fercore.errors import UserInputError
from fercore.writing import refuse_taken, whole


def detect_to_csv(source: DomainSpec, detector: str, out: Path, *, size: int = 64) -> tuple[int, int, int]:
    """Run a detector over the usable images of a dataset and write path,AU01,... with scores in [0,1].

    An image in which it finds no face has a row of empty cells.

    Args:
        source: the dataset; its split and limit count.
        detector: a .safetensors network or the name of an installed one.
        out: a new CSV file.
        size: side of the images that the detector is handed, in pixels.

    Returns:
        number of images written, of images that cannot be read, and of those without a face among the first.

    Raises:
        UserInputError: for a wrong spec, detector or output file.
    """
    refuse_taken(out)
    network = find_detector(detector)
    table, _ = read_chosen(source)
    usable = inspect(table).usable
    if not len(usable):
        raise UserInputError("no usable image", where=source.where)
    part = table.subset(usable)
    units = detect(network, part, DataSettings(size=size, cache_mb=0), detector)
    with whole(out, "w") as handle:
        writer = CsvWriter(handle)
        writer.writerow(("path", *units.names))
        for key, scores in zip(part.keys, np.asarray(units.scores), strict=True):
            writer.writerow((key, *("" if np.isnan(score) else f"{score:.{DIGITS}f}" for score in scores)))
    return len(part), len(table) - len(part), int((~units.known).sum())
