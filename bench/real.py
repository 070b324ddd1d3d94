"""Methods on the user's own datasets of real faces: all pairs that are there, from one source model a pair and seed.

    python -m bench.real OUT --data fer2013=fer2013:/data/fer2013.csv --data ckplus=ckplus:/data/CK+48 \
        --data jaffe=jaffe:/data/jaffe --data mine=folder:/data/faces [--sources NAME...] [--targets NAME...]
    python -m bench.real OUT --table FILE.json

Nothing is fetched. Every source is adapted to every other dataset: a source model is trained once for a pair and seed
(`--pretrain` steps of preset small, in `source_models/` beside OUT), and every method starts from it for `--steps`. OUT
is a folder of `fercore study`: what is finished is not run again, and `fercore study OUT --status` says how far it is.
Half of a target is adapted to without its labels, the other half scored, by the seed, unless its SPEC says otherwise.
Written are OUT/accuracy.md and OUT/balanced_accuracy.md, with 95 % intervals over seeds; FILE.json has figures alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fercore import Study
from fercore.arguments import assigned
from fercore.config import merge
from fercore.console import observer_for, print_lines
from fercore.errors import UserInputError
from fercore.experiments.tables import FORMATS, grid, long_rows, notes, study_table
from fercore.runs.folder import RunFolder
from fercore.writing import write_json, write_text

METHODS = (
    "source_only",
    "statistics: steady steady.views=one steady.entropy=0 steady.diversity=0 steady.confusion=0 steady.consistency=0 "
    "steady.teacher=0",
    "branches: la_cmfer la_cmfer.alpha=0 la_cmfer.beta=0 la_cmfer.gamma=0",
    "la_cmfer",
    "pocan",
    "mcc",
    "bnm",
    "shot",
    "fixmatch",
    "steady",
)
"""Rows. `statistics` is source_only with the target's batch statistics (AdaBN in training), `branches` LA-CMFER's
network without any of its terms; the last row of a table is the source model."""
SCORES = ("accuracy", "balanced_accuracy")
REFERENCES = ("source_only", "source")
SETTINGS: dict[str, Any] = {"train": {"checkpoint_every": 100}, "report": {"tensorboard": False}}


def read_data(texts: Sequence[str]) -> dict[str, str]:
    """Return name -> SPEC of the datasets that are named.

    Raises:
        UserInputError: for a text without a name, a name twice, or fewer than two datasets.
    """
    named: dict[str, str] = {}
    for text in texts:
        name, equals, spec = text.partition("=")
        if not equals or not name or ":" not in spec:
            fix = "write --data NAME=FORMAT:PATH, such as --data jaffe=jaffe:/data/jaffe"
            raise UserInputError(f"cannot read {text!r}", where="--data", fix=fix)
        if name in named:
            raise UserInputError(f"two datasets are called {name!r}", where="--data", fix="give one another name")
        named[name] = spec
    if len(named) < 2:
        what, fix = "a pair takes two datasets", "give --data at least twice"
        raise UserInputError(what, where="--data", fix=fix)
    return named


def study_of(
    data: Mapping[str, str],
    sources: Sequence[str],
    targets: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    pretrain: int,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the keys of the study of all pairs.

    Args:
        data: name -> SPEC. sources, targets: names; none = all. pretrain: steps of the source models.
        settings: laid over those of every run.

    Raises:
        UserInputError: for an unknown name, or no pair.
    """
    for name in (*sources, *targets):
        if name not in data:
            raise UserInputError(f"no dataset {name!r}", where="bench.real", fix=f"there are {', '.join(data)}")
    pairs = [
        {"name": f"{source} to {target}", "source": [data[source]], "target": data[target]}
        for source in sources or data
        for target in targets or data
        if source != target
    ]
    if not pairs:
        raise UserInputError("no pair", where="bench.real", fix="name a source and another target")
    return {
        "title": "Real faces, from a source model",
        "preset": "small",
        "seeds": list(seeds),
        "primary_metric": "balanced_accuracy",
        "pretrain_source": pretrain,
        "settings": merge(SETTINGS, settings),
        "methods": list(methods),
        "pairs": pairs,
    }


def write_tables(study: Study) -> list[str]:
    """Write the tables into the study's folder, and return them as lines of text."""
    lines = []
    for score in SCORES:
        made = study_table(study, metric=score)
        write_text(study.out / f"{score}.md", FORMATS["markdown"](made, "interval"))
        head, rows = grid(made, "interval")
        lines += [
            " | ".join(head),
            *(" | ".join(cell.text for cell in row) for row in rows),
            *notes(made, "interval"),
            "",
        ]
    return lines


def figures(study: Study) -> dict[str, Any]:
    """Return the figures of a study, with differences to each reference, and nothing of the images."""
    cells: dict[str, Any] = {}
    for reference in REFERENCES:
        if reference not in [row.name for row in study.file.methods]:
            continue
        study.file = study.file.model_copy(update={"reference": reference})
        for score in SCORES:
            cells[f"{score}, differences to {reference}"] = long_rows(study_table(study, metric=score))
    ((key, result), *_) = study.results().items()
    return {
        "note": "shares; seeds of data division, source model and adaptation; low and high: 95 % Student interval",
        "pretrain_source": study.file.pretrain_source,
        "settings": study.file.settings,
        "steps": {row.name: _steps(study, row.name) for row in study.file.methods},
        "cells": cells,
        "first": list(key),
        "versions": result.versions,
    }


def _steps(study: Study, method: str) -> int | None:
    folders = [RunFolder(cell.cell.folder) for cell in study.cells if cell.method == method]
    return next((folder.result().steps for folder in folders if folder.finished), None)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", action="append", default=[], metavar="NAME=SPEC")
    parser.add_argument("--sources", nargs="+", default=[])
    parser.add_argument("--targets", nargs="+", default=[])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="rows as fercore compare has them")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--pretrain", type=int, default=1500, help="steps of a source model")
    parser.add_argument("--steps", type=int, default=150, help="steps of a method")
    parser.add_argument("--set", nargs="+", default=[], help="settings of every run, section.key=value")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--table", type=Path, metavar="FILE.json", help="train nothing; write the figures there")
    args = parser.parse_args()
    try:
        if args.table is not None:
            study = Study.read(args.out)
            print_lines(write_tables(study))
            write_json(args.table, figures(study))
            return
        settings: dict[str, Any] = {"train": {"steps": args.steps}}
        for _, layer in assigned(args.set):
            settings = merge(settings, layer)
        keys = study_of(
            read_data(args.data), args.sources, args.targets, args.methods, args.seeds, args.pretrain, settings
        )
        study = Study(keys, args.out)
        study.run(jobs=args.jobs, observe=observer_for(args.jobs))
        print_lines(write_tables(study))
    except UserInputError as error:
        raise SystemExit(f"bench.real: error: {error}") from None


if __name__ == "__main__":
    main()
