"""The TensorBoard log of a run, or a writer that writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from fercore.writing import writing


class Board(Protocol):
    """Takes scalars."""

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Log values under "group/name" at a step."""


class NoBoard:
    """Takes scalars and drops them."""

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Drop the values."""


class TensorBoard:
    """Writes scalars as TensorBoard events.

    Args:
        folder: where the event file goes.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        with writing(folder):
            self._writer = SummaryWriter(str(folder))

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Log values under "group/name" at a step."""
        with writing(self._folder):
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        with writing(self._folder):
            self._writer.close()


@contextmanager
def open_writer(folder: Path, wanted: bool) -> Iterator[Board]:
    """Yield a TensorBoard writer under folder/tensorboard, or a silent one."""
    if not wanted:
        yield NoBoard()
        return
    board = TensorBoard(folder / "tensorboard")
    try:
        yield board
    finally:
        board.close()
