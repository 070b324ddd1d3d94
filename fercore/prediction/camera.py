"""A camera as an endless video, by OpenCV; and the window that shows what is said of it, where there is a display."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fercore.errors import UserInputError
from fercore.prediction.annotate import drawn_on
from fercore.prediction.inputs import Frame
from fercore.prediction.tables import Row

TITLE = "fercore (q ends)"


def _cv2() -> Any:
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        what = f"a camera needs the package opencv-python ({error})"
        raise UserInputError(what, where="--camera", fix="pip install 'fercore[faces]'") from None


@dataclass
class Camera:
    """A camera, whose frames come until `stop` is called.

    Args:
        number: as the system counts them, from 0.

    Raises:
        UserInputError: if OpenCV or the camera is missing.
    """

    number: int
    _stopped: bool = False
    _device: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        cv2 = _cv2()
        spoken = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it tells of every backend that it tries
        self._device = cv2.VideoCapture(self.number)
        cv2.utils.logging.setLogLevel(spoken)
        if not self._device.isOpened():
            what, fix = f"camera {self.number} cannot be opened", "plug it in, or give another number"
            raise UserInputError(what, where="--camera", fix=fix)

    @property
    def path(self) -> str:
        """What tables call it."""
        return f"camera {self.number}"

    def __len__(self) -> int:
        return 0

    def stop(self) -> None:
        """Let the frame that is being looked at be the last."""
        self._stopped = True

    def frames(self, after: int = -1) -> Iterator[tuple[int, float, Callable[[], np.ndarray]]]:
        """Yield (number from 0, seconds since the first, what reads the pixels) as they come."""
        begun = time.monotonic()
        number = 0
        try:
            while not self._stopped:
                good, picture = self._device.read()
                if not good:
                    return
                yield number, time.monotonic() - begun, _reading(picture)
                number += 1
        finally:
            self._device.release()


def _reading(picture: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: np.ascontiguousarray(picture[:, :, ::-1])  # OpenCV's order is BGR


class Window:
    """Shows frames with the answers drawn on them; q or Escape ends the camera."""

    def __init__(self, camera: Camera) -> None:
        self._camera, self._cv2 = camera, _cv2()
        self._cv2.namedWindow(TITLE, self._cv2.WINDOW_NORMAL)

    def draw(self, frame: Frame, pixels: np.ndarray | None, rows: Sequence[Row]) -> None:
        """Show a frame uint8[H,W,3]."""
        if pixels is not None:
            self._cv2.imshow(TITLE, np.ascontiguousarray(drawn_on(pixels, rows)[:, :, ::-1]))
        if self._cv2.waitKey(1) & 0xFF in (ord("q"), 27):
            self._camera.stop()

    def close(self) -> None:
        """Close the window."""
        self._cv2.destroyWindow(TITLE)


def window_for(camera: Camera) -> Window | None:
    """Return a window, or None where there is no display or OpenCV has no windows."""
    if sys.platform not in ("win32", "darwin") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return None
    try:
        return Window(camera)
    except _cv2().error:
        return None
