"""Every method from one source model: `python -m bench.baselines [NAME ...] [--out bench/results/baselines.json]`.

A network learns the sources once (`source_only`), and every method goes on from it (`--init`) for the same number of
steps, with the same batches, optimiser, augmentation and no average of weights; what a method has besides stays at its
defaults of preset demo. `--scratch` starts from random weights instead. No setting was chosen by scores on the target.
Sources give their training persons, 7 in 10; the target is scored on its other 3.
`--source`, `--target` and `--init` take data and a trained model of your own, such as a real pair of datasets.
Each run is a process of its own on one thread, for its time and memory; seconds are those of its processor. Rows that
are in the JSON stay, so that more methods and seeds can be added; the difference to `source_only` is paired by seed.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
SOURCES = ["synthfer:studio?n=1400", "synthfer:posed?n=1400&seed=1", "synthfer:web?n=1400&seed=2"]
TARGET = "synthfer:wild?n=1700&seed=3"
SHIFTED = "synthfer:wild?n=3300&seed=3"
COMMON = ("happiness", "neutral", "sadness", "surprise", "anger", "fear", "disgust")
"""Classes from the most to the least common: the first is 5 times as frequent as the last in a shifted target."""
SAME = {
    "data.source_batch": 36,
    "data.target_batch": 36,
    "data.augment": "light",
    "data.size": 48,
    "data.workers": 0,
    "train.ema": None,
    "train.threads": 1,
    "report.tensorboard": False,
}


@dataclass(frozen=True)
class Run:
    """Settings of a run beside its data, the model that it starts from, and the folder to keep."""

    preset: str
    settings: dict[str, Any]
    init: Path | None = None
    out: Path | None = None


LEFT_OUT = {"pca", "pca_ifer", "clip_finetune", "clip_linear_probe", "clip_zero_shot", "coop", "maple"}
"""Methods on a frozen CLIP, which has another network."""
UNITS = {"adafer"}
"""Methods that need action units: of generated faces those that a detector of 9 in 10 would have said."""
FIRST = (
    "source_only dann cdan dan mcc bnm afn jan mcd deep_coral fixmatch la_cmfer adafer pocan leaf dsan ecan detn mdd "
    "atdoc mfsan m3sda mdan adamatch flexmatch freematch"
).split()
"""Methods that most tables have: their rows come first."""


def measure(name: str, data: dict[str, Any], seed: int, given: Run) -> dict[str, Any]:
    """Train one method once; return scores, seconds a step, and the peak of memory."""
    import fercore

    # The engine's clock counts the time of others too, where a machine is shared.
    time.perf_counter = time.process_time
    with tempfile.TemporaryDirectory() as place:
        out = given.out or Path(place) / "run"
        run = fercore.train(
            name, **data, preset=given.preset, set=given.settings, seed=seed, device="cpu", out=out, init=given.init
        )
        result = run.result
    scores = result.target
    return {
        "accuracy": scores.accuracy,
        "balanced_accuracy": scores.balanced_accuracy,
        "seconds_per_step": result.seconds_per_step,
        "peak_memory_mb": result.peak_memory_mb,
        "n": scores.n,
        "seconds": round(time.process_time(), 1),
    }


def child(name: str, data: dict[str, Any], seed: int, given: Run) -> dict[str, Any]:
    """Run `measure` in a forked process, which has every import already; a refusal or a crash is a row too."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def work() -> None:
        try:
            there.send(measure(name, data, seed, given))
        except BaseException as error:
            there.send({"failed": f"{type(error).__name__}: {error}".splitlines()[0]})

    process = context.Process(target=work)
    process.start()
    there.close()
    try:
        row = here.recv()
    except EOFError:
        row = {"failed": "the process ended without an answer"}
    process.join()
    return row


def draw(place: Path, *, shifted: bool) -> dict[str, Any]:
    """Draw the faces once, and return source and target of every run."""
    from fercore.data.spec import parse_spec
    from fercore.synthfer.dataset import SynthFER
    from fercore.synthfer.export import write

    manifests = []
    for name, text in (*enumerate(SOURCES), ("shifted", SHIFTED) if shifted else ("even", TARGET)):
        spec, folder = parse_spec(text), place / str(name)
        options = {key: int(value) for key, value in spec.options.items()}
        manifests.append(folder / "manifest.csv")
        if not folder.exists():
            write(SynthFER(spec.path, **{"seed": 0, **options}), folder)
            if name == "shifted":
                shift(manifests[-1])
    specs = [f"manifest:{path}" for path in manifests]
    return {"source": specs[:-1], "target": specs[-1]}


def with_units(data: dict[str, Any], provider: str | None) -> dict[str, Any]:
    """Return the specs with who says their action units: a provider, or the file that generated faces came with."""

    def told(spec: str) -> str:
        beside = Path(spec.removeprefix("manifest:")).with_name("au.csv")
        return f"{spec}{'&' if '?' in spec else '?'}au={provider or beside}"

    return {"source": [told(spec) for spec in data["source"]], "target": told(data["target"])}


def shift(manifest: Path) -> None:
    """Take rows out of a manifest of even classes, so that they fall evenly from 5 to 1."""
    with manifest.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns, rows = reader.fieldnames or (), list(reader)
    counts = Counter(row["label"] for row in rows)
    left = {label: round(counts[label] * 5 ** (-rank / 6)) for rank, label in enumerate(COMMON)}
    kept = []
    for row in rows:
        left[row["label"]] -= 1
        if left[row["label"]] >= 0:
            kept.append(row)
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(kept)


def methods() -> list[str]:
    """Return every installed method but those on another network, and add-ons with what they were published with."""
    from fercore.hooks.discovery import installed_plugins, load_class

    found = []
    for name, info in sorted(installed_plugins().items()):
        plugin = load_class(info)
        if name not in LEFT_OUT and plugin.kind == "method" and plugin.needs_source:
            found.append(name)
    early = [name for name in FIRST if name in found]
    return [*early, *(name for name in found if name not in early), "cdan+bsp", "cdan+mcc_term+sdat"]


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return the rows as text: means over seeds, and differences to source_only paired by seed."""
    lines = [f"{'method':20} {'acc':>6} {'bal':>6} {'over':>6} {'ms/step':>8} {'MB':>6}  seeds"]
    reference = rows.get("source_only", {})
    for name, seeds in rows.items():
        good = {seed: row for seed, row in seeds.items() if "accuracy" in row}
        if not seeds:
            continue
        if not good:
            lines.append(f"{name:20} {next(iter(seeds.values()))['failed']}")
            continue
        mean = lambda key, good=good: sum(row[key] for row in good.values()) / len(good)  # noqa: E731
        both = [
            row["accuracy"] - reference[s]["accuracy"] for s, row in good.items() if "accuracy" in reference.get(s, {})
        ]
        over = f"{100 * sum(both) / len(both):+6.1f}" if both else f"{'':6}"
        figures = f"{100 * mean('accuracy'):6.1f} {100 * mean('balanced_accuracy'):6.1f} {over}"
        lines.append(
            f"{name:20} {figures} {1000 * mean('seconds_per_step'):8.0f} {mean('peak_memory_mb'):6.0f}  {len(good)}"
        )
    return lines


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="METHOD[+ADDON...]; none = all that are installed")
    parser.add_argument("--out", type=Path, default=HERE / "bench/results/baselines.json")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--steps", type=int, default=60, help="of every method")
    parser.add_argument("--source-steps", type=int, default=700, help="of the source model")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--scratch", action="store_true", help="from random weights")
    parser.add_argument("--shifted", action="store_true", help="the target's classes from 5 to 1")
    parser.add_argument("--again", action="store_true", help="measure rows that are in the JSON too")
    parser.add_argument("--source", action="append", metavar="SPEC", help="in place of the generated faces")
    parser.add_argument("--target", metavar="SPEC")
    parser.add_argument("--au", metavar="PROVIDER", help="of action units, for the methods that need them")
    parser.add_argument("--init", type=Path, metavar="RUN", help="the source model, for every seed")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keeps faces and source models for another call")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of every row")
    given = parser.parse_args()
    if (given.source is None) != (given.target is None):
        parser.error("--source and --target go together")
    return given


def main() -> None:
    given = parse()
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    import timm  # noqa: F401  # before the processes are forked: each then has it
    import torch

    import fercore.engine.run  # noqa: F401
    from fercore.runs.folder import versions

    settings: dict[str, Any] = {**SAME, "train.steps": given.steps, "optim.lr": given.lr}
    settings |= {key: json.loads(value) for key, value in (text.split("=", 1) for text in given.set)}
    own = given.scratch or given.init is not None
    # Folders of this machine are no part of a record: a dataset is known by its folder's name.
    shown = lambda text: text.split(":")[0] + ":" + Path(text.split(":", 1)[1]).name  # noqa: E731
    setting = {"start": "random" if given.scratch else "a trained model" if given.init else "source model"}
    setting |= {"source_steps": None if own else given.source_steps, "shifted": given.shifted}
    setting |= {
        "sources": [shown(text) for text in given.source or SOURCES],
        "target": shown(given.target or (SHIFTED if given.shifted else TARGET)),
    }
    setting |= {"preset": given.preset, "set": settings}
    rows: dict[str, dict[str, Any]] = {}
    start: dict[str, Any] = {}
    if given.out.exists():
        record = json.loads(given.out.read_text(encoding="utf-8"))
        if record["setting"] != setting:
            sys.exit(f"{given.out} has rows of another setting; give another --out")
        rows, start = record["rows"], record["start"]
    about = {"machine": platform.processor() or platform.machine(), "threads": 1, "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as folder:
        place = given.work or Path(folder)
        data = {"source": given.source, "target": given.target}
        if not given.source:
            data = draw(place, shifted=given.shifted)
        for seed in given.seeds.split(","):
            wanted = [name for name in given.names or methods() if given.again or seed not in rows.get(name, {})]
            run = Run(given.preset, settings, init=given.init)
            if not own and wanted:
                longer = {**settings, "train.steps": given.source_steps, "optim.lr": 2e-3}
                source = Run(given.preset, longer, out=place / f"source{seed}")
                run = replace(run, init=source.out)
                if not (place / f"source{seed}").exists():
                    start[seed] = child("source_only", data, int(seed), source)
                    print(f"source model, seed {seed}: {start[seed]}", flush=True)
            for name in wanted:
                needs_units = UNITS.intersection(name.split("+"))
                given_data = with_units(data, given.au) if needs_units else data
                rows.setdefault(name, {})[seed] = child(name, given_data, int(seed), run)
                print(table({"source_only": rows.get("source_only", {}), name: rows[name]})[-1], flush=True)
                record = {**about, "versions": versions(), "setting": setting, "start": start, "rows": rows}
                given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
