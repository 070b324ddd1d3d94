"""The Python interface: what `fercore.NAME` gives. Heavy modules are imported by the call that needs them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fercore.config import Device

if TYPE_CHECKING:
    from fercore.engine.predictor import Predictor


def load(path: str | os.PathLike[str], *, device: Device = "auto") -> Predictor:
    """Load the model of a finished run, ready to predict; no dataset is opened.

    Args:
        path: a run folder, or the `model/` in it. device: "auto" takes CUDA where it is usable.

    Raises:
        UserInputError: if there is no model, it is damaged or of a newer fercore, a plugin of it is missing or has
            another version, or the device is not there.
    """
    from fercore.engine.predictor import load_predictor

    return load_predictor(path, device=device)
