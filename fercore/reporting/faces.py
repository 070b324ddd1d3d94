"""Faces of the target's test part: the surest and least sure of each class, and those on which two models disagree."""

from __future__ import annotations

import base64
import io

import numpy as np

from fercore.reporting.blocks import Face, Faces
from fercore.reporting.inside import Inside

SIDE = 64
"""Largest side of a face, pixels."""


def thumbnail(pixels: np.ndarray) -> str:
    """Return an image uint8[H,W,3] as a data URI, no side longer than `SIDE`."""
    from PIL import Image

    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((SIDE, SIDE))
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def sure_and_unsure(inside: Inside, classes: list[str], most: int) -> Faces:
    """Return up to `most` faces at each end of every predicted class."""
    confidence, guess = inside.probs.max(axis=1), inside.probs.argmax(axis=1)
    rows = []
    for k, name in enumerate(classes):
        own = np.flatnonzero(guess == k)
        own = own[np.argsort(-confidence[own], kind="stable")]
        # From the end, without a face that is among the surest already.
        unsure = own[max(most, len(own) - most) :][::-1]
        for words, chosen in (("surest", own[:most]), ("least sure", unsure)):
            faces = [
                _face(inside, classes, i, [f"{confidence[i]:.2f}", *_truth(inside, classes, i, k)])
                for i in chosen.tolist()
            ]
            rows.append((f"{name}, {words}", faces))
    reading = (
        "By the class that the model says, with its confidence. Look for what the surest of a class share that is no "
        "expression: light, pose, age, glasses."
    )
    if never := [name for k, name in enumerate(classes) if not (guess == k).any()]:
        reading += f" Never said: {', '.join(never)}."
    return Faces("Surest and least sure faces", reading, [row for row in rows if row[1]])


def disagreements(inside: Inside, other: np.ndarray, names: tuple[str, str], classes: list[str], most: int) -> Faces:
    """Return faces that two models take for different classes, the surest first.

    Args:
        other: float[N,K], probabilities of the other model. names: of the run's model and of the other.
    """
    guess, before, labels = inside.probs.argmax(axis=1), other.argmax(axis=1), inside.labels
    apart = guess != before
    known = labels >= 0
    kinds = {
        f"{names[0]} is right, {names[1]} is not": apart & known & (guess == labels),
        f"{names[1]} is right, {names[0]} is not": apart & known & (before == labels),
        "neither is right": apart & known & (guess != labels) & (before != labels),
        "no label says which is right": apart & ~known,
    }
    # Both sure and not of one mind: what a reader can learn most from.
    sure = inside.probs.max(axis=1) * other.max(axis=1)
    rows = []
    for words, which in kinds.items():
        own = np.flatnonzero(which)
        own = own[np.argsort(-sure[own], kind="stable")]
        faces = [
            _face(inside, classes, i, [classes[guess[i]], f"not {classes[before[i]]}"]) for i in own[:most].tolist()
        ]
        rows.append((f"{words}: {len(own)}", faces))
    reading = (
        f"{names[0]} and {names[1]} agree on {1 - apart.mean():.1%} of {len(apart)} images. "
        f"Under each face stands what {names[0]} says, then what {names[1]} says."
    )
    return Faces("Where the two disagree", reading, [row for row in rows if row[1]])


def _truth(inside: Inside, classes: list[str], i: int, guess: int) -> list[str]:
    truth = int(inside.labels[i])
    return [] if truth < 0 else ["right"] if truth == guess else [f"is {classes[truth]}"]


def _face(inside: Inside, classes: list[str], i: int, lines: list[str]) -> Face:
    return Face(thumbnail(inside.test.read(i)), lines, f"face, {', '.join(lines)}")
