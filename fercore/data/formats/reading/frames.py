"""Frame rules of recorded sequences that go from a neutral face to the apex of an expression.

`last_n=3` frames at the end show the expression. `neutral=per_sequence` takes the first frame of every sequence as
neutral, `per_subject` one first frame of each subject, `none` no neutral at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from fercore.data.formats.folder import images_below
from fercore.data.formats.reading.scan import Rows
from fercore.data.labels import CANONICAL
from fercore.data.spec import DomainSpec

NEUTRAL = CANONICAL.index("neutral")
OPTIONS: tuple[str, ...] = ("neutral", "last_n")
NEUTRALS: tuple[str, ...] = ("per_sequence", "per_subject", "none")


@dataclass
class FrameRule:
    """Which frames of a sequence are used, and as what.

    Attributes:
        neutral: one of NEUTRALS. last_n: frames at the end that show the expression.
    """

    neutral: str
    last_n: int
    _served: set[str] = field(default_factory=set)

    def add(self, rows: Rows, frames: list[str], label: int | None, *, subject: str, sequence: str) -> None:
        """Add the frames of one sequence, in the order of time.

        Args:
            rows: where they go. frames: paths. label: canonical, or None where the sequence has none: it then only
                gives the subject's neutral frame under `per_subject`.
        """
        if not frames:
            return
        # A neutral sequence has no apex and gives no separate first frame.
        if label == NEUTRAL:
            self._append(rows, frames[-self.last_n :], NEUTRAL, subject, sequence)
            return
        if self._takes_first(subject, labelled=label is not None):
            self._append(rows, frames[:1], NEUTRAL, subject, sequence)
        if label is not None:
            # The first frame is taken as neutral, so a short sequence must not show it as the expression too.
            apex = frames if self.neutral == "none" else frames[1:]
            self._append(rows, apex[-self.last_n :], label, subject, sequence)

    def _takes_first(self, subject: str, *, labelled: bool) -> bool:
        if self.neutral == "per_subject":
            new = subject not in self._served
            # Whether or not this sequence has a label: any first frame of the subject is neutral.
            self._served.add(subject)
            return new
        return self.neutral == "per_sequence" and labelled

    @staticmethod
    def _append(rows: Rows, frames: list[str], label: int, subject: str, sequence: str) -> None:
        for frame in frames:
            rows.add(frame, label, subject=subject, sequence=sequence)


def frame_rule(spec: DomainSpec) -> FrameRule:
    """Return the rule that a spec's options `neutral` and `last_n` name.

    Raises:
        UserInputError: for an unknown one.
    """
    return FrameRule(spec.choice("neutral", NEUTRALS, "per_sequence"), spec.integer("last_n", 3, least=1))


def frames_of(folder: Path, rows: Rows) -> list[str]:
    """Return the frames of a sequence by the last number in their names, then by name; `rows` counts other files."""

    def order(path: str) -> tuple[int, str]:
        # As numbers: frame 10 comes after frame 9, whatever zeros stand before.
        numbers = re.findall(r"[0-9]+", Path(path).stem)
        return int(numbers[-1]) if numbers else -1, path

    return sorted(images_below(folder, rows), key=order)


def find_child(folder: Path, *names: str) -> Path | None:
    """Return the folder in a folder that has one of some names, in any case, or None."""
    wanted = {name.lower() for name in names}
    try:
        children = [child for child in folder.iterdir() if child.name.lower() in wanted and child.is_dir()]
    except OSError:
        return None
    # Two that differ in case alone can stand side by side on some file systems: always the same one is taken.
    return min(children, key=lambda child: child.name) if children else None
