"""`fercore select`, `verdict` and `ask`: which model to take without labels, or with few. Parse and print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fercore import api
from fercore.cli.mirror import mirrors
from fercore.errors import UserInputError
from fercore.terminal import counted, say

if TYPE_CHECKING:
    from fercore.decisions.ranking import Ranking
    from fercore.evaluation.verdict import Verdict

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DECIDE: dict[str, Any] = {
    "target": Annotated[
        str | None,
        typer.Option(help="FORMAT:PATH[?split=...] to predict; without it, what the runs recorded of theirs."),
    ],
    "device": Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto, cpu or cuda.")],
}
"""Options of the commands that predict."""
VERDICT: dict[str, Any] = {
    **DECIDE,
    "reference": Annotated[
        Path, typer.Argument(help="Run that was not adapted: source_only, same sampling and steps.")
    ],
    "adapted": Annotated[Path, typer.Argument(help="Run that was.")],
    "others": Annotated[
        list[Path] | None, typer.Option("--with", help="A further run whose word is heard; may be repeated.")
    ],
    "labels": Annotated[Path | None, typer.Option(help="The CSV of `fercore ask`, filled in.")],
}
ASK: dict[str, Any] = {
    **DECIDE,
    "out": Annotated[
        Path, typer.Option(help="New folder for the page, the CSV to fill in, and how images were drawn.")
    ],
    "n": Annotated[int, typer.Option("--n", min=1, help="Number of images.")],
    "seed": Annotated[int, typer.Option(min=0, help="Seed of the drawing.")],
    "sampling": Annotated[
        Literal["equal", "consensus"] | None,
        typer.Option(help="equal chances (for two models: the verdict needs it), or consensus-driven (for more)."),
    ],
    "labels": Annotated[
        list[Path] | None, typer.Option(help="Labels of an earlier round, which this one goes by; may be repeated.")
    ],
}


def select(
    folder: Annotated[list[Path], typer.Argument(help="Run folders, one run for its checkpoints, or a comparison's.")],
    score: Annotated[
        str | None, typer.Option(help="Rank by this score; without it by the mean rank of several.")
    ] = None,
    oracle: Annotated[
        bool, typer.Option("--oracle", help="Also show what target labels say; it ranks nothing.")
    ] = False,
    labels: Annotated[
        list[Path] | None, typer.Option(help="Rank by the CSV of `fercore ask`, filled in; one a round.")
    ] = None,
    json_: Json = False,
) -> None:
    """Rank runs, checkpoints or rows of a comparison by scores without target labels, or by the few asked for."""
    ranking = api.select(folder, score=score, oracle=oracle, labels=labels or ())
    if json_:
        _print_json(ranking.to_json())
    else:
        print_ranking(ranking)


def print_ranking(ranking: Ranking) -> None:
    """Print candidates, best first, and which one to take."""
    from fercore.console import print_lines, print_table
    from fercore.decisions.ranking import CHANCE, MEAN_RANK

    by = {MEAN_RANK: "mean rank; no label of the target", CHANCE: "chance of being the best, with the labels given"}
    print_table(f"best first by {by.get(ranking.by, f'{ranking.by}; no label of the target')}", *ranking.table())
    if ranking.transductive:
        print_lines(["transductive: adapted to the test images themselves"])
    print_lines([f"take {ranking.names[0]}"])


@mirrors(api.verdict, VERDICT)
def verdict(given: dict[str, Any], json_: Json = False) -> None:
    """Say whether adapting helped, without labels of the target or with the few that were asked for."""
    judged, reference, adapted = api.verdict(**given), given["reference"], given["adapted"]
    if json_:
        _print_json(judged.to_json())
        return
    print_verdict(judged, reference, adapted)


def print_verdict_of(run: api.Run, reference: api.Run) -> None:
    """Print the verdict on a run that has a reference; a line where there is none to give."""
    from fercore.console import print_lines

    try:
        judged = api.verdict(reference.path, run.path)
    except UserInputError as error:  # the same model, or too few images: the run is good all the same
        print_lines([f"no verdict against {reference.path}: {error.what}"])
    else:
        print_verdict(judged, reference.path, run.path)


def print_verdict(judged: Verdict, reference: Path, adapted: Path) -> None:
    """Print a verdict, what it goes by, and what to do now."""
    from fercore.console import print_lines
    from fercore.decisions.judging import advice, fairness
    from fercore.evaluation.label_shift import shares_lines

    low, high = judged.interval
    lines = [
        f"{judged.verdict}: {100 * judged.difference:+.1f} points, {100 * low:+.1f} to {100 * high:+.1f}",
        f"two answers on {judged.disagreements} of {counted(judged.n, 'image')}",
    ]
    lines += [f"{name}: {100 * value:+.1f} points" for name, value in judged.witnesses.items() if value]
    if judged.evidence is not None:
        told = judged.evidence
        right = f"{told['better']:.0f} right by the adapted model alone, {told['worse']:.0f} by the reference alone"
        lines.append(
            f"{counted(judged.labels_used, 'label')}: {right}; p {told['p']:.3g}, e-value {told['e_value']:.3g}"
        )
        lines.append(f"with what was expected without labels: {told['chance']:.0%} that the adapted model is better")
    shares = shares_lines(judged.estimated_shares)
    print_lines([*lines, *shares, *fairness(reference, adapted), advice(judged, reference, adapted)])


@mirrors(api.ask, ASK)
def ask(
    given: dict[str, Any],
    reference: Annotated[Path, typer.Argument(help="Run that was not adapted.")],
    adapted: Annotated[list[Path], typer.Argument(help="Runs that were.")],
) -> None:
    """Choose the images whose labels settle which model is better, and write a page to label them on."""
    from fercore.console import print_lines
    from fercore.decisions import asking

    models = [reference, *adapted]
    chosen, out = api.ask(models, **given), given["out"]
    if chosen.sampling == "consensus":
        rounds = " ".join(f"--labels {file}" for file in [*given.get("labels", ()), out / asking.TEMPLATE])
        then = f"fercore select {' '.join(map(str, models))} {rounds}"
    else:
        then = f"fercore verdict {reference} {adapted[0]} --labels {out / asking.TEMPLATE}"
    print_lines(
        [
            f"{len(chosen.images)} of {counted(chosen.disagreements, 'image')} with several answers, of {chosen.n}",
            f"label them on {out / asking.PAGE}, save the CSV in that folder, then:",
            then,
        ]
    )


def _print_json(values: dict[str, Any]) -> None:
    say(json.dumps(values, indent=1, ensure_ascii=False), keep="\n")
