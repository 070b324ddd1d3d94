"""Binary codes of action units: scores to packed bits, packed bits to keys that can be compared at once."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Keys = npt.NDArray[np.uint64]

WORD = 4
"""Codes fill whole words of 32 bits: FAISS compares 24-bit codes several times slower than 32-bit ones."""


def pack_codes(scores: npt.ArrayLike, threshold: float = 0.5) -> Bytes:
    """Pack action-unit scores into bits, AU 0 in the lowest bit of the first byte.

    Args:
        scores: float [N,A] or bool [N,A]; a float counts as active where it is >= threshold.
        threshold: in the scores' unit; takes no part for bools.

    Returns:
        uint8 [N,bytes], padded with zeros to a multiple of 4 bytes.

    Raises:
        ValueError: not two-dimensional, no action unit, not bool or real numbers, or NaN among them.
    """
    values = np.asarray(scores)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"scores must be [N,A] with A >= 1, got shape {list(values.shape)}")
    if values.dtype == np.bool_:
        active = values
    else:
        check_numbers(values, "scores")
        active = values >= threshold
    packed = np.packbits(active, axis=1, bitorder="little")
    padding = -packed.shape[1] % WORD
    return np.ascontiguousarray(np.pad(packed, ((0, 0), (0, padding))))


@overload
def code_keys(codes: npt.ArrayLike, /) -> Keys: ...
@overload
def code_keys(codes: npt.ArrayLike, second: npt.ArrayLike, /, *others: npt.ArrayLike) -> tuple[Keys, ...]: ...
def code_keys(codes: npt.ArrayLike, /, *others: npt.ArrayLike) -> Keys | tuple[Keys, ...]:
    """Turn packed codes into one integer each: equal codes, equal keys, and the other way round.

    Up to 64 bits the key is the code itself, so keys of separate calls compare. Wider codes are numbered in ascending
    order among all arrays of the call: pass both domains in one call to join them.

    Args:
        codes: uint8 [N,bytes], as from `pack_codes`.
        *others: further arrays of the same width.

    Returns:
        uint64 [N]; a tuple of them where several arrays were given.

    Raises:
        ValueError: wrong shape or type, or widths that differ.
    """
    arrays = [check_codes(array) for array in (codes, *others)]
    widths = {array.shape[1] for array in arrays}
    if len(widths) > 1:
        raise ValueError(f"codes of several widths cannot be compared: {sorted(widths)} bytes")
    keys = tuple(_narrow(array) for array in arrays) if widths.pop() <= 8 else _numbered(arrays)
    return keys if others else keys[0]


def check_codes(codes: npt.ArrayLike) -> Bytes:
    """Return packed codes as contiguous uint8 [N,bytes].

    Raises:
        ValueError: another shape or type.
    """
    array = np.asarray(codes)
    if array.ndim != 2 or array.dtype != np.uint8 or array.shape[1] == 0:
        raise ValueError(f"codes must be uint8 [N,bytes] from pack_codes, got {array.dtype} {list(array.shape)}")
    return np.ascontiguousarray(array)


def check_keys(keys: npt.ArrayLike, name: str) -> Keys:
    """Return keys as contiguous uint64 [N].

    Raises:
        ValueError: another shape, or not unsigned 64-bit integers.
    """
    array = np.asarray(keys)
    if array.ndim != 1 or array.dtype != np.uint64:
        raise ValueError(f"{name} must be uint64 [N] from code_keys, got {array.dtype} {list(array.shape)}")
    return np.ascontiguousarray(array)


def check_numbers(values: npt.NDArray[Any], name: str) -> None:
    """Refuse what is no real number; values are [rows,columns].

    Raises:
        ValueError: not numbers, or NaN among them; the first row with one is named.
    """
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be numbers, got {values.dtype}")
    bad = np.isnan(values).any(axis=1) if values.dtype.kind == "f" else np.zeros(len(values), bool)
    if bad.any():
        raise ValueError(
            f"{name} has NaN in {int(bad.sum())} of {len(values)} rows, the first is row {int(bad.argmax())}"
        )


def _narrow(codes: Bytes) -> Keys:
    # Little endian: AU 0 is the lowest bit of the key too, on any machine.
    wide = np.zeros((len(codes), 8), np.uint8)
    wide[:, : codes.shape[1]] = codes
    return wide.view("<u8")[:, 0].astype(np.uint64, copy=False)


def _numbered(arrays: list[Bytes]) -> tuple[Keys, ...]:
    rows = np.concatenate(arrays)
    # A row as one opaque value: np.unique compares bytes, in one sort for all arrays.
    whole = rows.view(np.dtype((np.void, rows.shape[1])))[:, 0]
    numbers = np.unique(whole, return_inverse=True)[1].astype(np.uint64)
    ends = np.cumsum([len(array) for array in arrays])[:-1]
    return tuple(np.ascontiguousarray(part) for part in np.split(numbers, ends))
