"""`jaffe`: the 213 images of JAFFE, named KA.AN1.39.tiff: subject, expression and its number, image number."""

from __future__ import annotations

import re
from pathlib import Path

from fercore.data.formats.folder import images_below
from fercore.data.formats.reading.scan import Rows, Scan, existing, not_empty
from fercore.data.images.readers import FileReader
from fercore.data.labels import find_label
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError

NAME = re.compile(r"([A-Za-z]{2})\.([A-Za-z]{2})([0-9]*)\.")
FIX = "names are KA.AN1.39.tiff: subject, one of AN DI FE HA NE SA SU, number"


def scan(spec: DomainSpec) -> Scan:
    """Read JAFFE; there are no parts.

    Raises:
        UserInputError: for a missing folder, or an image whose name is not of that form.
    """
    root = existing(spec.path, folder=True, where=spec.where)
    rows = Rows()
    for image in images_below(root, rows):
        match = NAME.match(Path(image).name)
        label = find_label(match[2]) if match else None
        if match is None or label is None:
            raise UserInputError("image name without subject and expression", where=image, fix=FIX)
        subject = match[1].upper()
        rows.add(image, label, subject=subject, sequence=f"{subject}.{match[2].upper()}")
    not_empty(rows, str(root), FIX)
    return Scan(rows, FileReader(tuple(rows.keys)))
