"""Test-time methods on streams of generated faces: what they answer, the model after them, and what they cost.

    python -m bench.test_time scores MODEL... [--out FILE] [--methods NAME...] [--n 1600]
    python -m bench.test_time cost MODEL [--out FILE] [--frames 512]
    python -m bench.test_time long MODEL [--out FILE] [--method tent] [--frames 10000]

MODEL are finished runs on `studio`, `posed` and `web`, one for each seed. `scores` adds to FILE what is not in it
yet, so that it may be stopped. "initial" is the model as it is, on the same stream.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

METHODS = ("initial", "adabn", "tent", "eata", "sar", "delta", "rotta", "note", "lame", "t3a", "cotta", "memo")
SETTINGS: dict[str, dict[str, Any]] = {"cotta": {"views": 8}, "memo": {"views": 8}}
"""Fewer views than published, for what they cost."""
DOMAINS = ("wild", "dark", "nir", "thermal")
ORDERS = ("shuffled", "correlated")
SCORES = ("accuracy", "balanced_accuracy")


def layers_of(model: str, name: str, target: str, order: str, seed: int) -> tuple[str, list[dict[str, Any]]]:
    """Return the plugin that stands for a method, and the settings of its run."""
    plugin = "adabn" if name == "initial" else name
    own = {"alpha": 0.0, "momentum": 0.0} if name == "initial" else SETTINGS.get(name, {})
    stream = {"order": order, **({"alarm": "off"} if name == "initial" else {})}
    data = {"sources": [], "target": target, "cache": "disk"}
    layer = {"seed": seed, "device": "cpu", "data": data, "model": {"init": model}, "stream": stream, plugin: own}
    return plugin, [layer, {"train": {"threads": 1}, "report": {"tensorboard": False}}]


def score(model: str, name: str, domain: str, order: str, seed: int, n: int) -> dict[str, Any]:
    """Return what a method came to on a stream, in shares of 1."""
    from fercore.engine.initial import with_initial
    from fercore.engine.observer import Observer
    from fercore.engine.run import run
    from fercore.engine.setup import build_context
    from fercore.hooks.assemble import assemble

    plugin, layers = layers_of(model, name, f"synthfer:{domain}?n={n}&seed=77", order, seed)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        result = run(
            build_context(assemble([plugin], with_initial(layers))), Path(folder) / "run", Observer()
        ).to_json()
    online, after = result["online"], result["target"]
    kept = {key: online[key] for key in ("n", "batch", "resets", "alarms", "stopped_at")}
    return {
        "seed": seed, "method": name, "domain": domain, "order": order, **kept,
        "online": {key: online[key] for key in SCORES}, "after": {key: after[key] for key in SCORES},
        "seconds": round(time.perf_counter() - begun, 1),
    }  # fmt: skip


def scores(args: argparse.Namespace) -> None:
    """Fill in the table, and print it."""
    rows = json.loads(args.out.read_text())["rows"] if args.out.is_file() else []
    there = {(row["seed"], row["method"], row["domain"], row["order"]) for row in rows}
    for seed, model in enumerate(args.models):
        for name in args.methods:
            for domain in args.domains:
                for order in ORDERS:
                    if (seed, name, domain, order) in there:
                        continue
                    rows.append(score(model, name, domain, order, seed, args.n))
                    args.out.write_text(json.dumps({**machine(), "n": args.n, "rows": rows}, indent=1) + "\n")
                    print(line(rows[-1]), flush=True)
    print("\n".join(table(rows)))


def line(row: dict[str, Any]) -> str:
    """Return a run in a line."""
    shares = [f"{100 * row[part][key]:.1f}" for part in ("online", "after") for key in SCORES]
    return f"{row['seed']} {row['method']:8} {row['domain']:8} {row['order']:10} {' '.join(shares)} {row['alarms']}"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return a Markdown table: for each method and stream balanced accuracy (accuracy) online, the mean over seeds."""
    cells: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["method"], row["order"], row["domain"]), []).append(row)
    streams = [(order, domain) for order in ORDERS for domain in DOMAINS]
    lines = ["| method | " + " | ".join(f"{domain}, {order}" for order, domain in streams) + " |"]
    lines.append("|---" * (len(streams) + 1) + "|")
    for name in METHODS:
        texts = []
        for order, domain in streams:
            own = cells.get((name, order, domain), [])
            if not own:
                texts.append("")
                continue
            balanced, plain = (100 * statistics.mean(row["online"][key] for row in own) for key in reversed(SCORES))
            alarms = sum(bool(row["alarms"]) for row in own)
            texts.append(f"{balanced:.1f} ({plain:.1f})" + (f" !{alarms}" if alarms else ""))
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return lines


def machine() -> dict[str, Any]:
    """Return what figures depend on."""
    import fercore

    return {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "fercore": fercore.__version__,
    }


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("scores")
    one.add_argument("models", nargs="+")
    one.add_argument("--out", type=Path, default=Path("bench/results/test_time.json"))
    one.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    one.add_argument("--domains", nargs="+", default=list(DOMAINS), choices=DOMAINS)
    one.add_argument("--n", type=int, default=1600)
    one.set_defaults(command=scores)
    args = parser.parse_args()
    args.command(args)


if __name__ == "__main__":
    main()
