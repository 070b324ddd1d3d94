"""`ckplus`: CK+ as distributed (cohn-kanade-images/S###/###/*.png, Emotion/S###/###/*_emotion.txt), or CK+48 folders.

Sequences without an emotion file are left out, but for their subject's neutral frame under `neutral=per_subject`.
`contempt=drop` leaves the sequences of contempt out, neutral frames included. The CK+48 version, class folders of
S###_###_########.png, has no neutral faces.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from fercore.data.formats.folder import images_below, subfolders
from fercore.data.formats.reading.codes import CODES
from fercore.data.formats.reading.frames import find_child, frame_rule, frames_of
from fercore.data.formats.reading.scan import Rows, Scan, existing, not_empty, read_text
from fercore.data.images.readers import FileReader
from fercore.data.labels import CANONICAL, find_label
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError

IMAGES = ("cohn-kanade-images", "extended-cohn-kanade-images")
LABELS = ("Emotion", "Emotion_labels")
NAME = re.compile(r"(S[0-9]+)_([0-9]+)_[0-9]+")
FIX = "give the folder that holds cohn-kanade-images/ and Emotion/, or class folders of CK+48"


def scan(spec: DomainSpec) -> Scan:
    """Read CK+.

    Raises:
        UserInputError: for a missing folder, an emotion file that holds no code from 0 to 7, or a CK+48 name without
            subject and sequence.
    """
    root = existing(spec.path, folder=True, where=spec.where)
    contempt = spec.choice("contempt", ("keep", "drop"), "keep") == "keep"
    images, rows = find_child(root, *IMAGES), Rows()
    # Class folders hold no sequences: what the frame options would say is settled, and reported so.
    layout = {} if images is not None else {"neutral": "none", "last_n": "3"}
    if images is None:
        _scan_classes(rows, root, contempt=contempt)
    else:
        labels = find_child(root, *LABELS)
        if labels is None:
            raise UserInputError(f"no folder Emotion/ beside {images.name}/", where=str(root), fix=FIX)
        _scan_sequences(rows, images, _nested(labels), spec, contempt=contempt)
    not_empty(rows, str(root), FIX)
    return Scan(rows, FileReader(tuple(rows.keys)), layout=layout)


def _nested(folder: Path) -> Path:
    """Return the folder that holds S###/, which some archives wrap in another of the same name."""
    return find_child(folder, folder.name, *LABELS, *IMAGES) or folder


def _scan_sequences(rows: Rows, images: Path, labels: Path, spec: DomainSpec, *, contempt: bool) -> None:
    rule, seen = frame_rule(spec), set()
    # Compared in lower case: the two archives need not agree on it.
    emotions = {f"{s.name}_{f.name}".lower(): f for s in subfolders(labels) for f in subfolders(s)}
    for subject in subfolders(_nested(images)):
        for folder in subfolders(subject):
            sequence = f"{subject.name}_{folder.name}"
            seen.add(sequence.lower())
            label = read_emotion(emotions.get(sequence.lower()))
            if label is None:
                rows.skipped["sequence without a label"] += 1
            elif CANONICAL[label] == "contempt" and not contempt:
                rows.skipped["sequence of contempt"] += 1
                label = None
            # Also without a label: the sequence may still give its subject's neutral frame.
            rule.add(rows, frames_of(folder, rows), label, subject=subject.name, sequence=sequence)
    # Labels without images: part of the image archive is missing.
    for name, folder in emotions.items():
        if name not in seen and read_emotion(folder) is not None:
            rows.missing.append(str(images / folder.parent.name / folder.name))


def read_emotion(folder: Path | None) -> int | None:
    """Return the canonical label in the emotion file of a sequence's folder, or None if it has none.

    Raises:
        UserInputError: if the file holds no code, or there are several files.
    """
    if folder is None:
        return None
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserInputError(f"cannot list folder: {error.strerror}", where=str(folder)) from None
    files = [folder / name for name in names if name.lower().endswith("_emotion.txt") and not name.startswith(".")]
    if not files:
        return None
    if len(files) > 1:
        raise UserInputError(f"{len(files)} emotion files of one sequence", where=str(folder), fix="keep one")
    text = read_text(files[0]).strip()
    try:
        # The files hold "   3.0000000e+00".
        code = float(text)
    except ValueError:
        code = -1.0
    name = CODES["ckplus"].get(int(code)) if code.is_integer() else None
    if name is None:
        fix = "0 neutral, 1 anger, 2 contempt, 3 disgust, 4 fear, 5 happy, 6 sadness, 7 surprise"
        raise UserInputError(f"emotion {text[:20]!r} is no code from 0 to 7", where=str(files[0]), fix=fix)
    return CANONICAL.index(name)


def _scan_classes(rows: Rows, root: Path, *, contempt: bool) -> None:
    for folder in subfolders(root):
        label, images = find_label(folder.name), images_below(folder, rows)
        if label is None:
            rows.unknown[folder.name] += len(images)
            continue
        if CANONICAL[label] == "contempt" and not contempt:
            rows.skipped["image of contempt"] += len(images)
            continue
        for image in images:
            match = NAME.match(Path(image).stem)
            if match is None:
                fix = "CK+48 names are S010_004_00000017.png: subject, sequence, frame; for others take folder:"
                raise UserInputError("image name without subject and sequence", where=image, fix=fix)
            rows.add(image, label, subject=match[1], sequence=f"{match[1]}_{match[2]}")
