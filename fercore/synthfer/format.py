"""`synthfer`: generated faces; the path is the style.

Options: `n` images (1000), `seed` (0), `size` in pixels (the style's own), `classes` (comma-separated names; the seven
basic ones), `prior` balanced or natural.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fercore.data.formats.reading.scan import Rows, Scan
from fercore.data.labels import CANONICAL, canonical_label
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError, did_you_mean

if TYPE_CHECKING:
    from fercore.synthfer import SynthFER

CHUNK = 32
MAX_N = 1_000_000


@dataclass(frozen=True, eq=False)
class SynthReader:
    """Faces rendered on demand, some at a time."""

    faces: SynthFER
    n: int
    names: tuple[str, ...]
    checked: bool = True

    def __len__(self) -> int:
        return self.n

    def read(self, row: int) -> np.ndarray:
        """Return uint8[H,W,3], RGB."""
        return next(self.read_many([row]))

    def read_many(self, rows: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the images of several rows, in order."""
        for start in range(0, len(rows), CHUNK):
            yield from np.asarray(self.faces.render(list(rows[start : start + CHUNK])))

    def digest(self, row: int) -> str:
        """Return a name for the face: equal for equal faces, however their specs are written, at whatever size."""
        return self.names[row]


def scan(spec: DomainSpec) -> Scan:
    """Set up a generated domain; nothing is rendered yet.

    Raises:
        UserInputError: for an unknown style, class or prior.
    """
    from fercore.synthfer import STYLES, SynthFER

    if spec.path not in STYLES:
        raise UserInputError(f"unknown style {spec.path!r}", where=spec.where, fix=did_you_mean(spec.path, STYLES))
    classes = _classes(spec)
    n = spec.integer("n", 1000, least=1)
    if n > MAX_N:
        raise UserInputError(f"option n={n} is above {MAX_N}", where=spec.where)
    faces = SynthFER(
        spec.path,
        n=n,
        seed=spec.integer("seed", 0),
        size=spec.integer("size", 0, least=16) or None,
        classes=classes,
        prior=spec.choice("prior", ("balanced", "natural"), "balanced"),
    )
    canonical = np.array([CANONICAL.index(name) for name in classes])
    rows = Rows()
    for i, (label, subject) in enumerate(zip(canonical[faces.labels].tolist(), faces.subjects, strict=True)):
        rows.add(f"{spec.path}#{i}", label, subject=str(subject))
    extras = {"au_scores": np.asarray(faces.au_scores), "au_intensity": np.asarray(faces.au_intensity)}
    # The number of images is no part of it: image i is the same among more.
    resolved = f"synthfer {spec.path} seed={faces.seed} size={faces.size} prior={faces.prior} {','.join(classes)}"
    return Scan(rows, SynthReader(faces, n, _face_names(faces, canonical)), extras, resolved)


def _face_names(faces: SynthFER, canonical: np.ndarray) -> tuple[str, ...]:
    """Return what each picture follows from but for its size: style, seed, number and the expression shown.

    Prior and classes only choose that expression: where two of them choose the same one, the face is the same.
    """
    shown = [CANONICAL[label] for label in canonical[faces.true_labels].tolist()]
    return tuple(f"synthfer {faces.style} seed={faces.seed} {name}#{i}" for i, name in enumerate(shown))


def _classes(spec: DomainSpec) -> tuple[str, ...]:
    if "classes" not in spec.options:
        return CANONICAL[:7]
    names = [part for part in spec.options["classes"].split(",") if part.strip()]
    labels = sorted({canonical_label(name, where=spec.where) for name in names})
    if not labels:
        raise UserInputError("option classes is empty", where=spec.where)
    return tuple(CANONICAL[label] for label in labels)
