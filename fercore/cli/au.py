"""`fercore au`: find action units in images. Parse and print, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fercore.terminal import counted, say
from fercore.writing import refuse_taken

au_app = typer.Typer(help="Find action units in images.", no_args_is_help=True)


@au_app.command("train")
def au_train(
    out: Annotated[Path, typer.Option(help="New .safetensors file for the network.")],
    style: Annotated[list[str] | None, typer.Option(help="SynthFER style to learn from; may be repeated.")] = None,
    test_style: Annotated[str, typer.Option(help="Another style, for the report.")] = "wild",
    n: Annotated[int, typer.Option("--n", help="Images of each style.")] = 2000,
    epochs: Annotated[int, typer.Option(help="Passes over them.")] = 12,
    seed: Annotated[int, typer.Option(help="Seed of faces, weights and batches.")] = 0,
) -> None:
    """Train the small action-unit network on synthetic faces and report F1 for each unit on another style."""
    from fercore.au.network import save_network
    from fercore.au.training import AUTraining, train_network

    refuse_taken(out, ".safetensors")
    styles = AUTraining.styles if style is None else tuple(style)
    plan = AUTraining(styles, test_style, n=n, epochs=epochs, seed=seed)
    network, report = train_network(plan, say)
    save_network(network, out, report)
    say(f"F1 on {report['test']} (other subjects, a style it never saw):")
    say(", ".join(f"{name} {value:.2f}" for name, value in report["f1"].items()))
    say(f"mean {report['mean_f1']:.3f}; written to {out}")


@au_app.command("detect")
def au_detect(
    source: Annotated[str, typer.Option(help="FORMAT:PATH[?option=value&...]")],
    weights: Annotated[str, typer.Option(help="Network of `fercore au train`, or an installed detector's name.")],
    out: Annotated[Path, typer.Option(help="New CSV file: path,AU01,...")],
    size: Annotated[int, typer.Option(min=16, max=1024, help="Side of the images the detector sees, pixels.")] = 64,
) -> None:
    """Write the action units of a dataset's images to a CSV for data.au."""
    from fercore.data.spec import parse_spec
    from fercore.datasets.action_units import detect_to_csv

    written, unusable, faceless = detect_to_csv(parse_spec(source), weights, out, size=size)
    line = f"{counted(written, 'image')} written to {out}"
    line += f"; no face found in {faceless}" if faceless else ""
    say(line + (f"; {unusable} cannot be read" if unusable else ""))
