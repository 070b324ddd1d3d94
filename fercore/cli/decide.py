"""`fercore select`, `verdict` and `ask`: which model to take without labels, or with few. Parse and print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fercore.config import Device as DeviceName
from fercore.errors import UserInputError
from fercore.terminal import say

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Target = Annotated[
    str | None, typer.Option(help="FORMAT:PATH[?split=...] to predict; without it, what the runs recorded of theirs.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def select(
    folder: Annotated[list[Path], typer.Argument(help="Run folders, one run for its checkpoints, or a comparison's.")],
    score: Annotated[
        str | None, typer.Option(help="Rank by this score; without it by the mean rank of several.")
    ] = None,
    oracle: Annotated[
        bool, typer.Option("--oracle", help="Also show what target labels say; it ranks nothing.")
    ] = False,
    json_: Json = False,
) -> None:
    """Rank runs, checkpoints or rows of a comparison by scores without target labels."""
    from fercore.decisions.ranking import rank

    if json_:
        _print_json(rank(folder, score=score, oracle=oracle).to_json())
    else:
        print_ranking(folder, score, oracle=oracle)


def print_ranking(folders: list[Path], score: str | None, *, oracle: bool = False) -> None:
    """Print candidates, best first, and which one to take."""
    from fercore.console import print_lines, print_table
    from fercore.decisions.ranking import MEAN_RANK, rank

    ranking = rank(folders, score=score, oracle=oracle)
    by = "mean rank" if ranking.by == MEAN_RANK else ranking.by
    print_table(f"best first by {by}; no label of the target", *ranking.table())
    if ranking.transductive:
        print_lines(["transductive: adapted to the test images themselves"])
    print_lines([f"take {ranking.names[0]}"])


def verdict(
    reference: Annotated[Path, typer.Argument(help="Run that was not adapted: source_only, same sampling and steps.")],
    adapted: Annotated[Path, typer.Argument(help="Run that was.")],
    target: Target = None,
    also: Annotated[
        list[Path] | None, typer.Option("--with", help="A further run whose word is heard; may be repeated.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="The CSV of `fercore ask`, filled in.")] = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Say whether adapting helped, without labels of the target or with the few that were asked for."""
    from fercore.console import print_lines
    from fercore.data.spec import parse_spec
    from fercore.decisions.judging import advice, fairness, judge

    spec = None if target is None else parse_spec(target)
    judged = judge(reference, adapted, target=spec, others=also or (), labels=labels, device=_device(device))
    if json_:
        _print_json(judged.to_json())
        return
    low, high = judged.interval
    lines = [
        f"{judged.verdict}: {100 * judged.difference:+.1f} points, {100 * low:+.1f} to {100 * high:+.1f}",
        f"two answers on {judged.disagreements} of {judged.n} images",
    ]
    lines += [f"{name}: {100 * value:+.1f} points" for name, value in judged.witnesses.items()]
    if judged.evidence is not None:
        told = judged.evidence
        right = f"{told['better']:.0f} right by the adapted model alone, {told['worse']:.0f} by the reference alone"
        lines.append(f"{judged.labels_used} labels: {right}; p {told['p']:.3g}, e-value {told['e_value']:.3g}")
    print_lines([*lines, *fairness(reference, adapted), advice(judged, reference, adapted)])


def ask(
    reference: Annotated[Path, typer.Argument(help="Run that was not adapted.")],
    adapted: Annotated[list[Path], typer.Argument(help="Runs that were.")],
    out: Annotated[Path, typer.Option(help="New folder for the page, the CSV to fill in, and how images were drawn.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Number of images.")] = 30,
    target: Target = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the drawing.")] = 0,
    device: Device = "auto",
) -> None:
    """Choose the images whose labels settle which model is better, and write a page to label them on."""
    from fercore.console import print_lines
    from fercore.data.spec import parse_spec
    from fercore.decisions import asking

    spec = None if target is None else parse_spec(target)
    chosen = asking.ask([reference, *adapted], out, n=n, target=spec, seed=seed, device=_device(device))
    print_lines(
        [
            f"{len(chosen.images)} of {chosen.disagreements} images with several answers, of {chosen.n}",
            f"label them on {out / asking.PAGE}, save the CSV in that folder, then:",
            f"fercore verdict {reference} {adapted[0]} --labels {out / asking.TEMPLATE}",
        ]
    )


def _device(text: str) -> DeviceName:
    names: dict[str, DeviceName] = {"auto": "auto", "cpu": "cpu", "cuda": "cuda"}
    if text not in names:
        raise UserInputError(f"unknown device {text!r}", where="--device", fix="auto, cpu or cuda")
    return names[text]


def _print_json(values: dict[str, Any]) -> None:
    say(json.dumps(values, indent=1, ensure_ascii=False), keep="\n")
