"""ONNX classifiers that onnxruntime runs as they are, where a graph cannot be turned into a torch network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from fercore.errors import UserInputError, reason_of
from fercore.files import read_bytes
from fercore.models.initial.foreign_model import ForeignModel, Statistics
from fercore.models.weights import read_weights

INSTALL = 'pip install "fercore[onnx]"'
WHERE = "model.backbone_args.onnx_as_it_is"
MOST = 1 << 30
"""Bytes of a file."""
LEAST_SHARE = 1e-12
_SESSIONS: WeakKeyDictionary[FrozenGraph, tuple[tuple[int, int], Any]] = WeakKeyDictionary()
"""Sessions are neither copied nor saved with a network: each makes its own, of the file that it holds."""


class FrozenGraph(nn.Module):
    """An ONNX classifier: float[B,3,S,S] -> logits float[B,K]. Nothing in it is trained, and no gradient passes it.

    Args:
        file: the bytes, uint8[N]; zeros = they come later, with a state. outputs: K. size: S.
        batch: images that the graph takes at a time; 0 = any number. probabilities: whether it answers with these.
        statistics: mean and std of the images that it takes.
    """

    file: Tensor

    def __init__(
        self,
        file: Tensor,
        *,
        outputs: int,
        size: int,
        batch: int,
        probabilities: bool,
        statistics: tuple[Statistics, Statistics],
    ) -> None:
        super().__init__()
        self.register_buffer("file", file)
        self.outputs, self.batch, self.probabilities = outputs, batch, probabilities
        self.pretrained_cfg = {"input_size": (3, size, size), "mean": statistics[0], "std": statistics[1]}

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, or logarithms of the probabilities where the graph answers with these.

        Raises:
            UserInputError: if the graph cannot be run.
        """
        if not bool(self.file[:16].any()):
            return images.new_zeros(len(images), self.outputs)
        pixels = images.detach().to("cpu", torch.float32).numpy()
        step = self.batch or max(1, len(pixels))
        parts = [self._answered(pixels[start : start + step]) for start in range(0, len(pixels), step)]
        answers = torch.from_numpy(np.concatenate(parts)) if parts else torch.zeros(0, self.outputs)
        answers = answers.clamp_min(LEAST_SHARE).log() if self.probabilities else answers
        return answers.to(images.device)

    def _answered(self, pixels: np.ndarray) -> np.ndarray:
        session, n = self._session(), len(pixels)
        if self.batch > n:
            pixels = np.concatenate([pixels, np.repeat(pixels[-1:], self.batch - n, axis=0)])
        try:
            answers = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(pixels)})[0]
        except Exception as error:  # onnxruntime has errors of its own
            raise UserInputError(f"the graph cannot be run: {_first(error)}", where=WHERE, fix=GIVE) from None
        rows: np.ndarray = np.asarray(answers, dtype=np.float32)[:n].reshape(n, -1)
        return rows

    def _session(self) -> Any:
        # A state that is loaded changes the version of the buffer, and a copy lies elsewhere.
        now = self.file.data_ptr(), self.file._version
        known = _SESSIONS.get(self)
        if known is None or known[0] != now:
            known = now, session_of(self.file.cpu().numpy().tobytes(), WHERE)
            _SESSIONS[self] = known
        return known[1]


GIVE = "give the model's weights, or a graph that onnxruntime runs"


def session_of(data: bytes, where: str) -> Any:
    """Return what runs a graph, on as many threads as torch has.

    Raises:
        UserInputError: if onnxruntime is missing, or has an operator of the graph not either.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserInputError("onnxruntime is not installed", where=where, fix=INSTALL) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has errors of its own
        raise UserInputError(f"the graph cannot be run: {_first(error)}", where=where, fix=GIVE) from None


def read(
    path: Path,
    data: bytes,
    why: str,
    *,
    size: int,
    names: tuple[str, ...] | None,
    statistics: tuple[Statistics, Statistics],
) -> ForeignModel:
    """Look at an ONNX file that is to be run as it is: it is asked for two images of noise.

    Args:
        data: its bytes. why: it cannot be turned into a torch network. size: side of its images.
        names: of its outputs. statistics: mean and std of its images.

    Raises:
        UserInputError: if it cannot be run, or answers with something else than a row of numbers an image.
    """
    session = session_of(data, str(path))
    given = session.get_inputs()[0].shape[0]
    batch = given if isinstance(given, int) else 0
    noise = np.random.default_rng(0).normal(size=(batch or 2, 3, size, size)).astype(np.float32)
    try:
        answers = np.asarray(session.run(None, {session.get_inputs()[0].name: noise})[0], dtype=np.float64)
    except Exception as error:  # onnxruntime has errors of its own
        raise UserInputError(f"the graph cannot be run: {_first(error)}", where=str(path), fix=GIVE) from None
    answers = answers.reshape(len(answers), -1) if answers.ndim else answers
    if answers.ndim != 2 or len(answers) != len(noise) or answers.shape[1] < 2:
        what = f"the graph answers {len(noise)} images with {list(answers.shape)}, not a row of classes for each"
        raise UserInputError(what, where=str(path), fix="export the classifier alone")
    probabilities = bool((answers >= 0).all() and np.allclose(answers.sum(axis=1), 1, atol=1e-4))
    outputs = answers.shape[1]
    arguments = {
        "bytes": len(data), "outputs": outputs, "size": size, "batch": batch, "probabilities": probabilities,
    }  # fmt: skip
    kind = f"ONNX graph, run as it is, so that nothing in it is trained ({why})"
    return ForeignModel(kind, path, "onnx_as_it_is", torch.eye(outputs), None, size, *statistics, names, arguments)


def build(arguments: Mapping[str, Any], statistics: tuple[Statistics, Statistics]) -> nn.Module:
    """Build the network of a graph, whose bytes come with a state.

    Raises:
        UserInputError: for arguments that no graph has.
    """
    numbers = {name: arguments.get(name) for name in ("bytes", "outputs", "size", "batch")}
    fits = all(isinstance(value, int) and 0 <= value <= MOST for value in numbers.values())
    if not fits or not all(numbers[name] for name in ("bytes", "outputs", "size")):
        raise UserInputError(f"cannot read {numbers}", where=WHERE, fix="give --init MODEL.onnx")
    return FrozenGraph(
        torch.zeros(int(numbers["bytes"] or 0), dtype=torch.uint8),
        outputs=int(numbers["outputs"] or 0),
        size=int(numbers["size"] or 0),
        batch=int(numbers["batch"] or 0),
        probabilities=bool(arguments.get("probabilities")),
        statistics=statistics,
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the state of a network of `build`, from an ONNX file or a run's."""
    if path.suffix.lower() != ".onnx":
        return read_weights(path)
    return {"file": torch.frombuffer(bytearray(read_bytes(path)), dtype=torch.uint8)}


def _first(error: Exception) -> str:
    return (reason_of(error).strip() or type(error).__name__).splitlines()[0][:200]
