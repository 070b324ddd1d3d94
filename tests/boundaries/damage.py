"""Campaigns at a boundary: whole files of other hands are read; damaged ones are read too, or refused in one line."""

from __future__ import annotations

import json
import random
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from fercore.data.images.codecs import Unusable
from fercore.documents import without_none
from fercore.engine.results import peak_memory_mb, reset_peak_memory
from fercore.errors import UserInputError
from fercore.files import name_fault

CPU = torch.device("cpu")
SHORT, LONG = 100, range(1_000, 21_000)
MOST_SECONDS, MOST_MB, MOST_LETTERS = 10.0, 400.0, 3000
"""What reading one damaged file may take at most, what all of a campaign in memory, and how long a message may be."""


def seeds(short: int = SHORT) -> list[Any]:
    """Return seeds of a short campaign, and of the one of 20,000 files that `pytest -m soak` runs."""
    return [
        pytest.param(range(short), id="short"),
        pytest.param(LONG, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(7200)]),
    ]


Harm = Callable[[bytes, random.Random], bytes]

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 0.5, -1.5, 1e400, float("nan"), 10**30, -(2**63), "", "x", "nan", "1", "../x",
    "\x1b[2J", "é\0", "\ud800", "x" * 3000, [], [[]], [None], [1, 2, 3], ["x"], {}, {"x": 1}, {"": None}, [{}],
    {"$tensor": "x"}, {"$dict": []}, {"a": 1, "b": 2},
)  # fmt: skip
WORDS = (
    "", '"', "'", ",", ";", "\t", "\n", "\r", " ", "\0", "#", "=", "[", "]", "{", "}", "nan", "inf", "-1", "0", "1e999",
    "9" * 30, "9" * 5000, "../x", "/dev/zero", "/", ".", "é", "\ufeff", "=1+1", "x" * 3000, "null", "true", "anger",
    "\\", "\\u0000", "\udcff",
)  # fmt: skip


@dataclass(frozen=True)
class Boundary:
    """Where files of others come in.

    Attributes:
        files: name -> contents, whole. read: reads the folder they are in. harm: damages the contents of one.
        untouched: names of those that stay whole. refused: share of the damaged that must be refused at least.
    """

    files: Mapping[str, bytes]
    read: Callable[[Path], object]
    harm: Harm
    untouched: tuple[str, ...] = ()
    refused: float = 0.2


def campaign(boundary: Boundary, folder: Path, seeds: range) -> None:
    """Read the whole files, then with one of them damaged for each seed."""
    for name, content in boundary.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    boundary.read(folder)
    names = sorted(boundary.files.keys() - set(boundary.untouched))
    reset_peak_memory(CPU)
    before, refusals = peak_memory_mb(CPU), []
    for seed in seeds:
        dice = random.Random(seed)
        name = dice.choice(names)
        (folder / name).write_bytes(boundary.harm(boundary.files[name], dice))
        started = time.process_time()
        try:
            refusals += [(seed, name, said) for said in refusal(boundary, folder)]
        except BaseException as error:
            error.add_note(f"seed {seed}, {name}")
            raise
        assert time.process_time() - started < MOST_SECONDS, f"seed {seed}, {name}"
        (folder / name).write_bytes(boundary.files[name])
    assert [said for said in refusals if "\n" in said[2] or not 0 < len(said[2]) < MOST_LETTERS] == []
    assert len(refusals) >= boundary.refused * len(seeds)
    assert peak_memory_mb(CPU) - before < MOST_MB
    print(f"{len(seeds)} damaged, {len(refusals)} refused")


def refusal(boundary: Boundary, folder: Path) -> Iterator[str]:
    """Yield what a user is told if the files are refused; nothing if they are read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            boundary.read(folder)
    except (UserInputError, Unusable) as error:
        yield str(error)
    except OSError as error:
        fault = name_fault(error)
        if fault is None:
            raise
        yield str(fault)  # as the command line says it


def any_bytes(content: bytes, dice: random.Random) -> bytes:
    """Cut, double or change bytes."""
    data = bytearray(content)
    kind = dice.randrange(5)
    if kind == 0:
        return bytes(data[: dice.randrange(len(data))])
    if kind == 1:
        start = dice.randrange(len(data))
        return bytes(data[:start] + data[start : start + dice.randrange(64)] * 2 + data[start:])
    for _ in range(dice.choice((1, 1, 2, 8))):
        data[dice.randrange(len(data))] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
    return bytes(data)


def any_text(content: bytes, dice: random.Random) -> bytes:
    """Replace, insert or drop words and lines; sometimes bytes."""
    if dice.random() < 0.2:
        return any_bytes(content, dice)
    text = content.decode("utf-8", "surrogateescape")
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        pieces = re.split(r"([\s,;=\[\]{}\":?&.+-])", text) if dice.random() < 0.7 else re.split("(\n)", text)
        at = dice.randrange(len(pieces))
        pieces[at] = dice.choice(("", pieces[at] * 2, *[dice.choice(WORDS)] * 6))
        text = "".join(pieces)
    return text.encode("utf-8", "surrogatepass" if dice.random() < 0.2 else "surrogateescape")


def any_tree(tree: Any, dice: random.Random) -> Any:
    """Replace, drop, add or exchange a value somewhere in nested plain values; sometimes nest it deep."""
    if dice.random() < 0.02:
        return nested(tree, dice.choice((1, 40, 5000)))
    places = list(_places(tree))
    holder, key = dice.choice(places) if places else (None, None)
    if holder is None:
        return dice.choice(ODD)
    copy = json.loads(json.dumps(tree))
    inner = copy
    for step in holder:
        inner = inner[step]
    kind = dice.randrange(8)
    if kind == 0:
        del inner[key]
    elif kind == 1 and isinstance(inner, dict):
        inner[dice.choice((f"{key}x", "", "x", str(key).upper(), "\x1b]0;"))] = inner.pop(key)
    elif kind == 2 and isinstance(inner, list):
        inner.insert(key, dice.choice((*ODD, inner[key])))
    else:
        inner[key] = dice.choice(ODD)
    return copy if dice.random() < 0.7 else any_tree(copy, dice)


def nested(tree: Any, levels: int) -> Any:
    for _ in range(levels):
        tree = [tree]
    return tree


def _places(tree: Any, path: tuple[Any, ...] = ()) -> Any:
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inside:
        yield path, key
        yield from _places(value, (*path, key))


@cache
def _parsed(content: bytes) -> Any:
    return json.loads(content)


def written(tree: Any) -> bytes:
    """Write JSON however deep."""
    levels = 0
    while isinstance(tree, list) and len(tree) == 1 and isinstance(tree[0], list):
        tree, levels = tree[0], levels + 1
    return ("[" * levels + json.dumps(tree) + "]" * levels).encode()


def any_json(seal: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> Harm:
    """Damage JSON: its values, its text, its bytes; `seal` makes checksums right again, half of the time."""

    def harm(content: bytes, dice: random.Random) -> bytes:
        if dice.random() < 0.3:
            return any_text(content, dice)
        tree = any_tree(_parsed(content), dice)
        if seal is not None and isinstance(tree, dict) and dice.random() < 0.8:
            tree = seal(tree)
        return written(tree)

    return harm


def any_toml(content: bytes, dice: random.Random) -> bytes:
    """Damage TOML: its values, its text, its bytes; sometimes nothing is left of it."""
    if dice.random() < 0.02:
        return b""
    if dice.random() < 0.3:
        return any_text(content, dice)
    import tomllib

    tree = any_tree(tomllib.loads(content.decode()), dice)
    try:
        return tomli_w.dumps(without_none(tree)).encode()
    except (TypeError, AttributeError, ValueError, RecursionError):  # nothing that TOML can hold
        return any_text(content, dice)
