"""`fercore clip`: a small CLIP to work with offline. Parse and print, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register_commands(group: typer.Typer) -> None:
    """Make a small CLIP for work without published weights."""
    group.command()(warmup)


def warmup(
    out: Annotated[Path, typer.Option(help="New .safetensors file for the weights.")],
    model: Annotated[str, typer.Option(help="tiny, tiny-rn, or an open_clip ViT or ResNet.")] = "tiny",
    data: Annotated[
        list[str] | None,
        typer.Option(help="FORMAT:PATH[?option=value&...], labelled, subjects known; may be repeated."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Batches to train on.")] = 1200,
    batch: Annotated[int, typer.Option(min=2, help="Images a step.")] = 64,
    lr: Annotated[float, typer.Option(min=0, help="Peak learning rate.")] = 2e-3,
    augment: Annotated[str, typer.Option(help="none, light, standard or crop.")] = "none",
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Seed of weights, subjects held out, and batches.")
    ] = 0,
) -> None:
    """Train a random CLIP on captions of synthetic faces; use the file as `pretrained`."""
    from fercore.plugin import parse_spec, refuse_taken, say, watch
    from fercore_pca.warmup import Warmup, save_clip, warm_up

    refuse_taken(out, ".safetensors")
    chosen = tuple(map(parse_spec, data)) if data else Warmup.data
    plan = Warmup(model, chosen, steps=steps, batch=batch, lr=lr, seed=seed, augment=augment)
    watcher = watch("step")
    watcher.begin(0, steps)
    try:
        clip, report = warm_up(plan, lambda step, total, loss: watcher.advance(step, f"loss {loss:.4f}"))
    finally:
        watcher.end()
    save_clip(clip, out, plan, report)
    subjects = f"{report['held_out']} images of subjects it never saw, {len(report['classes'])} classes"
    say(f"zero-shot balanced accuracy on {subjects}: {report['before']:.1%} before, {report['after']:.1%} after")
    say(f"written to {out}; use it with model={clip.model!r} and pretrained={str(out)!r}")
