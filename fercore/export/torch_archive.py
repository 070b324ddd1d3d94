"""A model as an archive of torch.export: it runs wherever torch does, without fercore and its plugins."""

from __future__ import annotations

import io
import json
import warnings
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from fercore.export.check import Answer, Feed

ABOUT = "about.json"
"""The file in the archive that says what the model is."""


def content(program: ExportedProgram, about: dict[str, Any]) -> bytes:
    """Return the archive."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, file, extra_files={ABOUT: json.dumps(about)})
    return file.getvalue()


def runner(archive: bytes) -> Answer:
    """Return what runs an archive."""
    module = torch.export.load(io.BytesIO(archive)).module()

    def run(feed: Feed) -> np.ndarray:
        with torch.no_grad():
            probs: np.ndarray = module(*map(torch.from_numpy, feed.values())).numpy()
        return probs

    return run
