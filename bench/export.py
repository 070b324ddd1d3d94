"""ONNX of every installed method: `python -m bench.export [NAME ...] [--out bench/results/export_cpu.json]`.

Each method is trained for a few steps of the demo preset on few generated faces and exported:
seconds from the model to the file's contents, CPU seconds of the whole export (its comparison included), its size, the
largest difference of a probability to torch over 64 images, and images a second of torch and of onnxruntime on one
thread. `to_load` has the largest difference of a probability to `fercore.load(RUN).predict` over all images of the
target: of `fercore predict`'s table, of the run's predictions.csv, and of the file in plain onnxruntime. What refuses
to be exported says why. Add-ons are measured on a method that they can join. `--to torch`, `--form half` and
`--form int8` measure the other kinds.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parents[1]
JOINED = {"leaf_eaf": "fixmatch", "bsp": "dann", "mcc_term": "source_only", "sdat": "source_only"}
"""Add-on -> the method that it is measured with; of another add-on a row says that none is named here."""
DATA = {"source": "synthfer:studio?n=140", "target": "synthfer:wild?n=140&seed=1"}
STEPS = 4
ROW = "row "


def measure(plugins: str, kind: str, form: str) -> dict[str, Any]:
    """Train, export and return what was measured of one row."""
    import fercore
    from fercore.export.targets import KINDS, export_model

    settings = {"train.steps": STEPS, "train.threads": 1, "report.tensorboard": False}

    def train(names: str, out: Path, init: Path | None = None) -> Path:
        data = DATA if init is None else {"target": DATA["target"]}  # what adapts a model sees no source
        given = {"preset": "demo", "set": settings, "device": "cpu", "out": out, "init": init}
        return fercore.train(names, **data, **given).path

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        try:
            try:
                run = train(plugins, folder / "run")
            except fercore.UserInputError as error:
                if "--init" not in str(error):
                    raise
                run = train(plugins, folder / "run", train("source_only", folder / "init"))  # adapts a trained model
            begin = time.process_time()
            exported = export_model(run, folder / f"model{KINDS[kind].suffix}", to=kind, form=form)
            cpu_seconds = time.process_time() - begin
            told = differences(run, exported.path if kind == "onnx" else None, DATA["target"])
        except fercore.UserInputError as error:
            return {"refused": str(error).replace(place, "")}
    check = exported.check
    return {
        "seconds": round(exported.seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "megabytes": round(exported.bytes / 1e6, 2),
        "difference": check.difference,
        "agreement": check.agreement,
        "to_load": told,
        "images_per_second": {name: round(speed) for name, speed in check.speed.items()},
    }


def differences(run: Path, onnx: Path | None, target: str) -> dict[str, float]:
    """Return the largest difference of a probability to `fercore.load(run).predict`, by who says it.

    Args:
        run: a run folder. onnx: its export that takes float pixels; None = there is none.
        target: SPEC of the run's target, of which every image is predicted on.
    """
    import onnxruntime

    import fercore
    from fercore.data.domains.load import read_domain
    from fercore.data.spec import parse_spec

    images, _ = read_domain(parse_spec(target))
    model = fercore.load(run, device="cpu")
    pixels = list(images.read_many(range(len(images))))
    want = model.predict(pixels).probs
    with tempfile.TemporaryDirectory() as place:
        table = Path(place) / "answers.csv"
        fercore.predict(run, target, out=table, faces="whole", device="cpu")
        said = {"predict": shares(table, images.keys, model.classes)}
    said["predictions.csv"] = shares(run / "predictions.csv", images.keys, model.classes)
    if onnx is not None:
        session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        given = np.stack([model.fit(image) for image in pixels]).astype(np.float32) / 255
        (said["onnxruntime"],) = session.run(["output"], {"input": given})
    return {name: float(np.abs(probs - want).max()) for name, probs in said.items()}


def shares(path: Path, names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Return the probabilities float64[N,K] that a CSV table has for images by name; each has one row."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    by_name = {row["image"]: row for row in rows}
    assert len(rows) == len(by_name) == len(names), f"{path.name}: {len(rows)} rows for {len(names)} images"
    return np.array([[float(by_name[name][one]) for one in classes] for name in names])


def joined(name: str) -> str:
    """Return the plugins of a row: a method, or an add-on behind the method that it is measured with."""
    from fercore.hooks.discovery import installed_plugins, load_class

    if load_class(installed_plugins()[name]).kind == "method":
        return name
    return f"{JOINED[name]}+{name}" if name in JOINED else ""


def rows_of(names: list[str], kind: str, form: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, row), measured in a process beside this one; what crashes there is a row, and a new one goes on.

    One process measures many, as importing torch and its exporter costs as much as a row.
    """
    left = list(names)
    while left:
        plugins = [joined(name) or name for name in left]
        command = [sys.executable, "-m", "bench.export", *plugins, "--here", "--to", kind, "--form", form]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(ROW):
                    yield left.pop(0), json.loads(line.removeprefix(ROW))
        if left:
            yield left.pop(0), {"failed": f"exit {process.returncode}"}


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return the rows as text."""
    lines = [f"{'method':20} {'cpu s':>5} {'MB':>7} {'difference':>10} {'to load':>10}  images/s"]
    for name, values in rows.items():
        if fault := values.get("refused") or values.get("failed"):
            lines.append(f"{name:20} {fault}")
            continue
        speeds = ", ".join(f"{engine} {speed:,}" for engine, speed in values["images_per_second"].items())
        most = max(values["to_load"].values())
        figures = f"{values['cpu_seconds']:5.1f} {values['megabytes']:7.2f} {values['difference']:10.1e} {most:10.1e}"
        lines.append(f"{name:20} {figures}  {speeds}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="methods; none = all that are installed")
    parser.add_argument("--to", default="onnx", choices=("onnx", "torch"))
    parser.add_argument("--form", default="float32", choices=("float32", "half", "int8"))
    parser.add_argument("--out", type=Path, help="a JSON file; rows that are in it and not measured now stay")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        for plugins in given.names:
            print(ROW + json.dumps({"plugins": plugins, **measure(plugins, given.to, given.form)}), flush=True)
        return
    import torch

    from fercore.hooks.discovery import installed_plugins
    from fercore.runs.folder import versions

    rows: dict[str, dict[str, Any]] = {}
    if given.out and given.out.exists():
        rows = json.loads(given.out.read_text(encoding="utf-8"))["rows"]
    packages = {**versions(), **{module: __import__(module).__version__ for module in ("onnx", "onnxruntime")}}
    about = {"machine": platform.processor() or platform.machine(), "threads": 1, "torch": torch.__version__}
    record = {**about, "to": given.to, "form": given.form, "steps": STEPS, "data": DATA, "versions": packages}
    for name, row in rows_of(given.names or sorted(installed_plugins()), given.to, given.form):
        rows[name] = row
        print(table({name: row})[-1], flush=True)
        if given.out:
            given.out.write_text(json.dumps({**record, "rows": dict(sorted(rows.items()))}, indent=1) + "\n", "utf-8")
    done = [row for row in rows.values() if "difference" in row]
    most = max((max(row["difference"], *row["to_load"].values()) for row in done), default=0)
    print(f"{len(done)} of {len(rows)} exported; largest difference {most:.1e}")


if __name__ == "__main__":
    main()
