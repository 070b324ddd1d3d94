"""`fercore data`: make, check, divide and convert data. Parse and print, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fercore.cli.cluster import OnAddress, OnCpus, OnExecutor, OnGpus, machines_of
from fercore.terminal import counted, say

if TYPE_CHECKING:
    from fercore.datasets.check.look import Progress
    from fercore.datasets.check.report import CheckReport

data_app = typer.Typer(help="Make, check, divide, convert and prepare data.", no_args_is_help=True)

Spec = Annotated[str, typer.Argument(help="FORMAT:PATH[?option=value&...]")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@data_app.command()
def synthfer(
    style: Annotated[str, typer.Argument(help="studio, posed, web, wild, nir, dark or thermal.")],
    out: Annotated[Path, typer.Option(help="New folder for images, labels and AU files.")],
    n: Annotated[int, typer.Option("--n", help="Number of images.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    size: Annotated[int | None, typer.Option(help="Side in pixels; the style's own if not given.")] = None,
) -> None:
    """Write synthetic faces with labels and AU files, for use elsewhere."""
    from fercore.synthfer import SynthFER, write

    write(SynthFER(style, n=n, seed=seed, size=size), out)
    say(f"{counted(n, 'image')} written to {out}")


@data_app.command()
def check(
    spec: Annotated[list[str], typer.Argument(help="FORMAT:PATH[?option=value&...], one or more.")],
    similar: Annotated[float, typer.Option(help="Correlation from which two pictures count as one.")] = 0.99,
    json_: Json = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if there is any fault.")] = False,
) -> None:
    """Count a dataset against what is published, and find what is wrong with its images, labels and parts."""
    from fercore.data.spec import parse_spec
    from fercore.datasets.check import check as run_check

    with progress_bar("looking at images", show=not json_) as progress:
        report = run_check([parse_spec(text) for text in spec], similar=similar, progress=progress)
    if json_:
        import json

        say(json.dumps(report, indent=1, ensure_ascii=False), keep="\n")
    else:
        _print_check(report)
    if strict and report["faults"]:
        raise typer.Exit(1)


def _print_check(report: CheckReport) -> None:
    from fercore.console import print_lines, print_table
    from fercore.data.domains.skipped import by_end_lines, left_out_lines, unread_lines
    from fercore.datasets.check.words import between_lines, count_rows, fault_lines

    for domain in report["domains"]:
        published = domain["published"]
        people = f", {counted(domain['subjects'], 'subject')}" if domain["subjects"] else ""
        brackets = "; published counts that differ in brackets" if published["wrong"] else ""
        print_lines([f"{domain['spec']}: {counted(domain['n'], 'image')}{people}{brackets}"])
        print_table("", *count_rows(domain))
        if published["title"]:
            print_lines([f"{published['title']}: licence and access at {published['page']}"])
        beside = [*left_out_lines(domain["skipped"]), *unread_lines(domain["unread_columns"])]
        beside += by_end_lines(domain["found_by_end"], domain["first_by_end"])
        print_lines([*beside, *fault_lines(domain)])
        print_lines([f"{domain['faults']} faults" if domain["faults"] else "no fault found"])
    print_lines(between_lines(report))


@data_app.command()
def split(
    spec: Spec,
    out: Annotated[Path, typer.Option(help="New split file; with --folds a new folder.")],
    parts: Annotated[str, typer.Option(help="Shares of the parts.")] = "train=0.8,test=0.2",
    folds: Annotated[int | None, typer.Option(help="Write one file a fold instead: test = the fold.")] = None,
    by: Annotated[str, typer.Option(help="subject: whole subjects; class: single samples; none: any.")] = "subject",
    seed: Annotated[int, typer.Option(help="Seed of the division.")] = 0,
) -> None:
    """Divide a dataset into parts by seed, and write it down with hashes; `?split_file=FILE` uses it."""
    from fercore.data.domains import split as dividing
    from fercore.data.domains.domain_set import read_chosen
    from fercore.data.domains.skipped import leftover_lines
    from fercore.data.spec import parse_spec
    from fercore.errors import UserInputError, did_you_mean

    if by not in dividing.RULES:
        raise UserInputError(f"unknown rule {by!r}", where="--by", fix=did_you_mean(by, dividing.RULES))
    table, scan = read_chosen(parse_spec(spec))
    if folds is None:
        shares = dividing.parse_shares(parts)
        drawn = {out: dividing.divide(table, shares, by=by, seed=seed)}
        how: dict[str, object] = {"by": by, "seed": seed, "shares": shares}
    else:
        several = dividing.folds(table, folds, by=by, seed=seed)
        drawn = {out / f"fold{k}.json": chosen for k, chosen in enumerate(several)}
        how = {"by": by, "seed": seed, "folds": folds}
    for line in leftover_lines(scan):
        say(line)
    for path, chosen in drawn.items():
        record = dividing.split_record(table, chosen, **how)
        dividing.write_split(record, path)
        sizes = ", ".join(f"{part} {sum(n.values())}" for part, n in record["counts"].items())
        say(f"{path}: {sizes}; sha256 {record['sha256'][:16]}")


@data_app.command()
def convert(
    spec: Spec,
    out: Annotated[Path, typer.Option(help="New folder for manifest.csv.")],
    to: Annotated[str, typer.Option(help="manifest is what there is.")] = "manifest",
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images into the folder.")] = False,
) -> None:
    """Write a dataset as a manifest; faces that are no files of their own become PNG files beside it."""
    from fercore.data.spec import parse_spec
    from fercore.datasets.convert import convert as run_convert
    from fercore.errors import UserInputError

    if to != "manifest":
        raise UserInputError(f"unknown format {to!r}", where="--to", fix="known: manifest")
    done = run_convert(parse_spec(spec), out, copy=copy)
    for line in done.notes:
        say(line)
    for key, reason in done.unusable:
        say(f"unusable, left out: {key}: {reason}")
    say(f"{counted(done.n, 'image')} written; read them as {done.spec}")


@data_app.command()
def prepare(
    spec: Spec,
    out: Annotated[Path, typer.Option(help="New folder, or that of an interrupted preparation, which then goes on.")],
    size: Annotated[int, typer.Option(help="Side of the face in pixels.")] = 112,
    align: Annotated[
        str, typer.Option(help="five = similarity transform of five points; box = the box, square.")
    ] = "five",
    margin: Annotated[float, typer.Option(help="Share of the side added all round.")] = 0.0,
    detector: Annotated[str, typer.Option(help="mtcnn, facenet, yunet, retinaface, or an installed one.")] = "mtcnn",
    weights: Annotated[Path | None, typer.Option(help="Weights of a detector that brings none.")] = None,
    boxes: Annotated[Path | None, typer.Option(help="py-feat CSV or OpenFace folder, instead of detecting.")] = None,
    choose: Annotated[str, typer.Option(help="Of several faces: largest, centre or surest.")] = "largest",
    min_score: Annotated[float, typer.Option(help="Refuse faces the detector is less sure of.")] = 0.8,
    min_size: Annotated[int, typer.Option(help="Refuse faces with a shorter box, pixels.")] = 20,
    image_format: Annotated[str, typer.Option("--format", help="png or jpg.")] = "png",
    device: Annotated[str, typer.Option(help="cpu or cuda, for detectors that can.")] = "cpu",
    workers: Annotated[int, typer.Option(min=0, max=256, help="Processes; 0 = one a core.")] = 0,
    executor: OnExecutor = "local",
    address: OnAddress = None,
    num_cpus: OnCpus = 1.0,
    num_gpus: OnGpus = 0.0,
) -> None:
    """Find the face in every image, align, cut out, resize; write images, manifest.csv and refused.csv."""
    import os
    import time

    from fercore.data.spec import parse_spec
    from fercore.datasets.prepare import PrepareSettings
    from fercore.datasets.prepare import prepare as run_prepare

    settings = PrepareSettings(
        size=size, align=align, margin=margin, detector=detector, weights=str(weights) if weights else None,
        device=device, boxes=str(boxes) if boxes else None, choose=choose, min_score=min_score, min_size=min_size,
        image_format=image_format,
    )  # fmt: skip
    begun = time.perf_counter()
    with progress_bar("finding faces") as progress:
        count = workers or os.cpu_count() or 1
        machines = machines_of(executor, address, num_cpus, num_gpus)
        report = run_prepare(parse_spec(spec), out, settings, workers=count, machines=machines, progress=progress)
    new, share = report["images"] - report["resumed"], report["prepared"] / max(1, report["images"])
    speed = f", {new / max(1e-9, time.perf_counter() - begun):.1f} images/s" if new else ", all done before"
    say(f"{report['prepared']} of {counted(report['images'], 'image')} prepared ({share:.1%}){speed}")
    for line in report["notes"]:
        say(line)
    for reason, n in report["reasons"].items():
        say(f"refused {n}: {reason}")
    say(f"read them as {report['spec']}; refused images are listed in {out / 'refused.csv'}")


@contextmanager
def progress_bar(what: str, *, show: bool = True) -> Iterator[Progress | None]:
    """Tell on standard error how far it is: a bar on a terminal, a line a minute elsewhere."""
    if not show:
        yield None
        return
    from rich.console import Console

    from fercore.console import watch

    watcher = watch(what, Console(stderr=True))
    seen = (0, 0)

    def progress(done: int, total: int) -> None:
        nonlocal seen
        if (new := total != seen[1] or done <= seen[0]) and seen[1]:
            watcher.end()
        if new:  # the first dataset, or the next one
            watcher.begin(done - 1, total)
        seen = done, total
        watcher.advance(done)

    try:
        yield progress
    finally:
        if seen[1]:
            watcher.end()
