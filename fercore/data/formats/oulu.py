"""`oulu`: Oulu-CASIA, <VL|NI>/<Strong|Weak|Dark>/P001..P080/<Expression>/000.jpeg.

`spectrum=VL` (visible, the default) or `NI` (near infrared), `light=Strong` (the default), `Weak` or `Dark`;
`images=cropped` takes the VL_Acropped/ or NI_Acropped/ of the release. The last frames are the expression, the first
one of each sequence is neutral; see `neutral=` and `last_n=` in `formats/frames.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

from fercore.data.formats.folder import subfolders
from fercore.data.formats.reading.frames import find_child, frame_rule, frames_of
from fercore.data.formats.reading.scan import Rows, Scan, existing, not_empty
from fercore.data.images.readers import FileReader
from fercore.data.labels import find_label
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError

SPECTRA, LIGHTS = ("vl", "ni"), ("strong", "weak", "dark")
WRAPPERS = ("OriginalImg", "B_OriginalImg", "PreProcess Img", "PreProcessImg", "C_PreProcessImg")
SUBJECT = re.compile(r"P[0-9]+$", re.I)


def scan(spec: DomainSpec) -> Scan:
    """Read one spectrum and light of Oulu-CASIA; there are no parts.

    Raises:
        UserInputError: for a missing folder, or a folder that is no subject P### or no expression.
    """
    root = existing(spec.path, folder=True, where=spec.where)
    folder = _condition(root, spec)
    rows, rule = Rows(), frame_rule(spec)
    for subject in subfolders(folder):
        if not SUBJECT.match(subject.name):
            raise UserInputError("folder that is no subject P001 to P080", where=str(subject), fix="move it away")
        for sequence in subfolders(subject):
            label = find_label(sequence.name)
            if label is None:
                fix = "expressions: Anger, Disgust, Fear, Happiness, Sadness, Surprise"
                raise UserInputError("folder that is no expression", where=str(sequence), fix=fix)
            name = subject.name.upper()
            rule.add(rows, frames_of(sequence, rows), label, subject=name, sequence=f"{name}/{sequence.name}")
    not_empty(rows, str(folder), "it must hold P001/Anger/000.jpeg and so on")
    return Scan(rows, FileReader(tuple(rows.keys)))


def _condition(root: Path, spec: DomainSpec) -> Path:
    spectrum, light = spec.choice("spectrum", SPECTRA, "vl"), spec.choice("light", LIGHTS, "strong")
    cropped = spec.choice("images", ("original", "cropped"), "original") == "cropped"
    name = f"{spectrum}_acropped" if cropped else spectrum
    bases = [root, *(base for wrapper in WRAPPERS if (base := find_child(root, wrapper)) is not None)]
    for base in bases:
        top = find_child(base, name)
        folder = find_child(top, light) if top is not None else None
        if folder is not None:
            return folder
    layout = f"{name.upper()}/{light.capitalize()}"
    fix = f"give the folder that holds {layout}/P001/, or choose ?spectrum= and ?light="
    raise UserInputError(f"no folder {layout}", where=str(root), fix=fix)
