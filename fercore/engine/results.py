"""What a finished run says of itself: result.json and the optional report files."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fercore import ops
from fercore.au import asked_for
from fercore.config import PredictSettings, RunConfig
from fercore.data import Table, side_table
from fercore.documents import CsvWriter
from fercore.engine.class_weights import used_shares
from fercore.engine.describe import count
from fercore.engine.online import Online
from fercore.engine.selection import Chosen, final_scores
from fercore.engine.setup import RunContext
from fercore.errors import UserInputError, did_you_mean
from fercore.evaluation.calibration import calibration_of, limited
from fercore.evaluation.evaluate import score, score_labels
from fercore.evaluation.label_shift import named_estimates
from fercore.evaluation.selection.validators import class_prior
from fercore.hooks.discovery import REPORTS, PluginInfo, installed_plugins, load_entry
from fercore.models import Model, PseudoLabelRecord
from fercore.records.data import DomainReport
from fercore.records.outputs import FinishedRun, Outputs, Samples
from fercore.records.result import (
    SCHEMA,
    Arithmetic,
    Average,
    InitialScores,
    Labelled,
    LabelQuality,
    LabelSplit,
    OnlineScores,
    OracleBest,
    Parameters,
    Result,
    Scores,
    Selection,
    ShareEstimate,
    Source,
    Target,
)
from fercore.records.step import Progress, Side
from fercore.runs.folder import PREDICTIONS, TEST_LABELS, RunFolder, versions
from fercore.runs.predictions import RecordedScores, write_scores
from fercore.writing import whole, write_json


def evaluate_target(context: RunContext, clock: Progress) -> Scores:
    """Score the target's test part; the only use of its labels."""
    predictions = context.evaluator.predict(context.reported, context.domains.test, clock)
    return score(predictions, context.domains.classes)


def evaluate_initial(context: RunContext, clock: Progress) -> Scores | None:
    """Score the trained model that a run adapts, before its first step; None where a plugin built the network."""
    return evaluate_target(context, clock) if context.adapts_as_it_is else None


@dataclass(frozen=True)
class Trained:
    """What training came to.

    Attributes:
        steps: of all stages. seconds: of wall time in them. images: that passed through them.
        skipped: "<stage>/<phase>" -> steps without a gradient.
        chosen: the checkpoint that is reported, where it is not the last one.
        oracle: scores at the step that labels of the target would choose, where that is asked for.
        online: the stream, where the run had one. answers: class probabilities f[b,K] of its batches, as they came.
        initial: scores of the trained model that was adapted, where there is one.
        planned: steps that it was to have, where it was ended before; None = it had them.
    """

    steps: int
    seconds: float
    images: int
    skipped: Mapping[str, int]
    chosen: Chosen | None
    oracle: OracleBest | None
    online: Online | None = None
    answers: Sequence[Tensor] = ()
    initial: Scores | None = None
    planned: int | None = None


def calibrate(context: RunContext, clock: Progress) -> bool:
    """Calibrate the reported network's probabilities as settings ask, and say whether they do."""
    wanted = context.config.predict
    if wanted.model_copy(update={"classes": None}) == PredictSettings():
        return False
    domains, held_out = context.domains, context.domains.validation
    held_out_outputs, target_probs = None, None
    if (wanted.calibrate or wanted.prior == "estimated") and held_out is not None:
        outputs = _own(context, held_out, clock, "target")
        held_out_outputs = outputs.probs, outputs.labels
    if wanted.prior == "estimated":
        target_probs = _own(context, domains.adaptation, clock, "target").probs
    prior = class_prior(side_table(domains, "source").labels, len(domains.classes))
    found = calibration_of(context.config, domains.classes, prior, held_out_outputs, target_probs)
    left = limited(context.config, domains.classes)
    if found is not None and left is not None:
        found = found.model_copy(update={"predicted": left.predicted})
    context.evaluator.calibration = found or left
    return True


def held_out_source(context: RunContext, clock: Progress) -> Outputs | None:
    """Return the network's own probabilities, before calibration, of held-out source; None where there is none."""
    held_out = context.domains.validation
    return _own(context, held_out, clock, "source") if held_out is not None and len(held_out) else None


def class_shares(
    context: RunContext, clock: Progress, held_out: Outputs | None
) -> dict[str, dict[str, ShareEstimate]] | None:
    """Return estimator -> class -> share of the adaptation part and its interval; None without held-out source."""
    domains = context.domains
    if held_out is None or not len(domains.adaptation):
        return None
    target = _own(context, domains.adaptation, clock, "target")
    return named_estimates(domains.classes, target.probs, held_out.probs, held_out.labels, seed=context.config.seed)


def _own(context: RunContext, table: Table, clock: Progress, side: Side) -> Outputs:
    """Return the network's own probabilities of a table, before they are calibrated."""
    evaluator = context.evaluator
    asked, evaluator.calibration = evaluator.calibration, None
    try:
        return evaluator.predict(context.reported, table, clock, side)
    finally:
        evaluator.calibration = asked


def build(context: RunContext, scores: Scores, trained: Trained) -> Result:
    """Return the contents of result.json; schema in docs/architecture.md."""
    config, train, domains = context.config, context.config.train, context.domains
    parameters, split = list(context.model.parameters()), domains.report["label_split"]
    return Result(
        schema_=SCHEMA,
        plugins=list(context.plugins.names),
        seed=config.seed,
        device=str(context.fabric.device.type),
        kernels=ops.kernels(context.fabric.device),
        target=_target(context, scores),
        sources=[
            Source(spec=spec.text, n=len(table), **_scaling(read))
            for spec, table, read in zip(config.data.sources, domains.sources, domains.report["sources"], strict=True)
        ],
        selection=Selection(rule=config.select.rule, oracle_best=trained.oracle, **_chosen(trained.chosen)),
        primary_metric=config.report.primary_metric,
        ema=None if train.ema is None else Average(decay=train.ema, buffers=train.ema_buffers),
        label_split=None if split is None else LabelSplit.model_validate(split),
        pseudo_labels=label_quality(context),
        class_weights=used_shares(context.model, config),
        **_online(context, trained),
        **_initial(context, trained),
        parameters=Parameters(total=count(parameters), trained=count(p for p in parameters if p.requires_grad)),
        steps=trained.steps,
        **_planned(trained),
        skipped_steps=dict(trained.skipped),
        train_seconds=round(trained.seconds, 3),
        seconds_per_step=round(trained.seconds / max(1, trained.steps), 6),
        train_images_per_second=round(trained.images / max(trained.seconds, 1e-9), 1),
        peak_memory_mb=peak_memory_mb(context.fabric.device),
        threads=torch.get_num_threads(),
        arithmetic=Arithmetic(
            precision=train.precision,
            memory_format=train.memory_format,
            joint_forward=context.joint,
            compile=train.compile,
            fused_optimiser=train.fused_optimiser,
            deterministic=train.deterministic,
            **_shared(context),
        ),
        preset=config.preset,
        versions={**versions(), **context.resolved.versions},
    )


def _target(context: RunContext, scores: Scores) -> Target:
    domains, read = context.domains, context.domains.report["target"]
    return Target(
        **dict(scores),
        spec=context.config.data.target.text,
        labelled=Labelled(**read["labelled"]),
        n_adaptation=len(domains.adaptation),
        transductive=domains.transductive,
        adaptation_filtered_by_label=read["adaptation_filtered_by_label"],
        test_images_in_sources=domains.report["test_images_in_sources"],
        **_scaling(read),
        **_predictable(context),
    )


def _predictable(context: RunContext) -> dict[str, Any]:
    """Return which classes may be predicted, where not all may."""
    left, classes = limited(context.config, context.domains.classes), context.domains.classes
    if left is None or left.predicted is None:
        return {}
    return {"predictable": [name for name, kept in zip(classes, left.predicted, strict=True) if kept]}


def _planned(trained: Trained) -> dict[str, Any]:
    """Return the steps that a run was to have, where it was ended before them; empty where it had them."""
    return {} if trained.planned is None else {"planned_steps": trained.planned}


def _initial(context: RunContext, trained: Trained) -> dict[str, Any]:
    """Return the scores of the model that was adapted; empty without one."""
    if trained.initial is None or context.initial is None:
        return {}
    return {"initial": InitialScores(**dict(trained.initial), sha256=context.initial.sha256)}


def _online(context: RunContext, trained: Trained) -> dict[str, Any]:
    """Return what the predictions of a stream came to, made before the batch was adapted to; empty without one."""
    if trained.online is None:
        return {}
    config, domains, online = context.config, context.domains, trained.online
    probs, order = _answers(context, trained).numpy(), context.stream
    outputs = Outputs(probs, {}, {}, domains.truth[order])
    stage = next(stage for stage in context.stages if stage.stream)
    return {
        "online": OnlineScores(
            **dict(score(outputs, domains.classes)),
            order=config.stream.order,
            dirichlet=config.stream.dirichlet if config.stream.order == "correlated" else None,
            order_uses_target_labels=config.stream.order == "correlated",
            batch=stage.target_batch or config.data.target_batch,
            resets=dict(online.resets),
            alarms=list(online.alarms),
            stopped_at=online.stopped_at,
        )
    }


def _answers(context: RunContext, trained: Trained) -> Tensor:
    """Return a stream's probabilities f[n,K] as they came, without classes that the target does not have."""
    probs, left = torch.cat(list(trained.answers)), limited(context.config, context.domains.classes)
    return probs if left is None else left.apply(probs)


def write_online(context: RunContext, folder: RunFolder, trained: Trained) -> None:
    """Write online.csv: a line for each image of a stream, as it came, with its class probabilities."""
    domains, order = context.domains, context.stream
    # `adaptation` has keys that say nothing: names are those of `target`, which is sorted by the rows of the reader.
    at = np.searchsorted(domains.target.rows, domains.adaptation.rows[order])
    with whole(folder.path / "online.csv", "w") as handle:
        writer = CsvWriter(handle, end="\r\n")
        writer.writerow(["image", "prediction", *domains.classes])
        for place, row in zip(at.tolist(), _answers(context, trained).tolist(), strict=True):
            prediction = domains.classes[row.index(max(row))]
            writer.writerow([domains.target.keys[place], prediction, *(f"{p:.6f}" for p in row)])


def _shared(context: RunContext) -> dict[str, Any]:
    """Return how several processes shared the run; empty for one."""
    train, processes = context.config.train, context.processes
    if not processes.several:
        return {}
    return {"processes": processes.world, "sync": train.sync, "batch_norm": train.batch_norm}


# What does not apply is not given: `Result.to_json` leaves out what was not set.
def _chosen(chosen: Chosen | None) -> dict[str, Any]:
    return {} if chosen is None else {"step": chosen.step, "candidates": chosen.candidates}


def _scaling(read: DomainReport) -> dict[str, Any]:
    """Return how a domain's one-channel images became 8 bits, where its spec has a range."""
    return {"scaling": read["scaling"]} if "scaling" in read else {}


def label_quality(context: RunContext) -> dict[str, LabelQuality]:
    """Return "<plugin>/<record>" -> how good the pseudo labels are that a method left on the adaptation part."""
    by_record = {}
    for name, part in context.model.parts.items():
        if isinstance(part, PseudoLabelRecord) and len(part.weight):
            probs, weight = part.probs.cpu().numpy(), part.weight.cpu().numpy()
            by_record[name] = score_labels(probs, weight, context.domains.truth, context.domains.classes)
    return by_record


def reset_peak_memory(device: torch.device) -> None:
    """Begin to measure the largest memory from here, so that an earlier run in this process does not count."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        # 5 resets the mark of the largest resident set (proc(5)).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_mb(device: torch.device) -> float:
    """Return the largest memory in use so far, in MiB: the device's on CUDA, else the process's resident set."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    # In bytes on macOS, in KiB elsewhere.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    with contextlib.suppress(OSError):  # Linux: the mark that can be reset
        status = Path("/proc/self/status").read_text(encoding="ascii")
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 2**10
    return round(peak, 1)


def predict_target(context: RunContext, clock: Progress, test: Outputs, adaptation: Outputs) -> np.ndarray:
    """Return class probabilities f[n,K] of every image of the target, in the order of `domains.target`.

    Where the run has action units, those that it neither adapts to nor tests on have none, and no row: NaN.

    Args:
        test, adaptation: predictions of these parts, which are taken as they are.
    """
    domains = context.domains
    # NaN marks what no model has seen.
    probs = np.full((len(domains.target), len(domains.classes)), np.nan, dtype=np.float32)

    def place(table: Table, part_probs: np.ndarray) -> None:
        # Parts hold rows of the target's reader, and `target` is sorted by them.
        probs[np.searchsorted(domains.target.rows, table.rows)] = part_probs

    place(domains.test, test.probs)
    if not domains.transductive:
        place(domains.adaptation, adaptation.probs)
    others = domains.target.subset(np.flatnonzero(np.isnan(probs[:, 0])))
    if len(others) and not domains.au_names:
        place(others, context.evaluator.predict(context.reported, others, clock).probs)
    return probs


def write_predictions(context: RunContext, folder: RunFolder, probs: np.ndarray) -> None:
    """Write predictions.csv: one line for each image of the target, its part, and its class probabilities.

    Args:
        probs: as `predict_target` returns them.
    """
    domains = context.domains
    with whole(folder.path / PREDICTIONS, "w") as handle:
        writer = CsvWriter(handle, end="\r\n")
        writer.writerow(["image", "part", "prediction", *domains.classes])
        for key, part, row in zip(domains.target.keys, domains.target_parts, probs, strict=True):
            if not np.isnan(row).any():
                writer.writerow([key, part, domains.classes[int(row.argmax())], *(f"{p:.6f}" for p in row)])


def write_test_labels(context: RunContext, folder: RunFolder) -> None:
    """Write test_labels.csv: subject and true class of every labelled test image, which paired tests are made of.

    Nothing that chooses or trains reads it: choices go by predictions.csv, which holds no truth.
    """
    test, classes = context.domains.test, context.domains.classes
    if not (test.labels >= 0).any():
        return
    with whole(folder.path / TEST_LABELS, "w") as handle:
        writer = CsvWriter(handle, end="\r\n")
        writer.writerow(["image", "subject", "label"])
        for key, subject, label in zip(test.keys, test.subjects, test.labels.tolist(), strict=True):
            if label >= 0:
                writer.writerow([key, subject, classes[label]])


def write_reports(context: RunContext, folder: RunFolder, clock: Progress) -> None:
    """Write predictions.csv, scores.json, test_labels.csv, features.npz if asked, and other reports (`reports_of`).

    features.npz holds, of the target's test part, `labels`, `probs`, `features/BRANCH` and `logits/BRANCH`; the same of
    the sources under `source/...` with `source/domain`; and `prototypes/BRANCH` f[K,D] of every linear head, whose rows
    lie in the space of the features.
    """
    report, domains, evaluator = context.config.report, context.domains, context.evaluator
    test_outputs = adaptation = evaluator.predict(context.reported, domains.test, clock)
    if not domains.transductive:
        adaptation = evaluator.predict(context.reported, domains.adaptation, clock)
    write_predictions(context, folder, predict_target(context, clock, test_outputs, adaptation))
    part = "test" if domains.transductive else "adaptation"
    write_scores(folder.path, RecordedScores(part=part, n=len(adaptation.probs), scores=final_scores(adaptation)))
    write_test_labels(context, folder)
    if report.features:
        table = side_table(context.domains, "source")
        arrays = {**_arrays(test_outputs, ""), **_prototypes(context.reported)}
        if len(table):
            train_outputs = context.evaluator.predict(context.reported, table, clock, "source")
            arrays |= {**_arrays(train_outputs, "source/"), "source/domain": table.domain}
        with whole(folder.path / "features.npz") as handle:
            np.savez_compressed(handle, **arrays)
    finished = _finished(context, clock)
    for info in reports_of(context.config):
        write_json(folder.path / f"{info.name}.json", load_entry(info)(finished))


def reports_of(config: RunConfig) -> list[PluginInfo]:
    """Return the reports of installed packages that a run writes: those asked for, and "au" where it has action units.

    Raises:
        UserInputError: if no package brings one that is asked for.
    """
    installed, asked = installed_plugins(group=REPORTS), list(config.report.also)
    if config.report.distances:
        asked.append("distances")
    if "distances" in asked and not config.data.sources:
        raise UserInputError("distances to the sources in a run without one", where="report", fix="leave them out")
    for name in asked:
        if name not in installed:
            raise UserInputError(f"unknown report {name!r}", where="report.also", fix=did_you_mean(name, installed))
    if "au" in installed and config.data.sources and asked_for(config.data):
        asked.append("au")
    return [installed[name] for name in dict.fromkeys(asked)]


def _finished(context: RunContext, clock: Progress) -> FinishedRun:
    domains, joined = context.domains, side_table(context.domains, "source")

    def outputs(part: Literal["source", "test"]) -> Outputs:
        if part == "source":
            if not len(joined):
                raise UserInputError("a report needs a source, and the run has none", where="report.also")
            return context.evaluator.predict(context.reported, joined, clock, "source")
        return context.evaluator.predict(context.reported, domains.test, clock)

    return FinishedRun(
        classes=domains.classes,
        units=domains.au_names,
        specs=tuple(map(str, context.config.data.sources)),
        names=(*(table.name for table in domains.sources), domains.adaptation.name),
        source=Samples(joined.labels, joined.domain, joined.extras),
        adaptation=Samples(domains.truth, domains.adaptation.domain, domains.adaptation.extras),
        outputs=outputs,
    )


def _arrays(outputs: Outputs, prefix: str) -> dict[str, Any]:
    parts = {"features": outputs.features, "logits": outputs.logits}
    branches = {f"{prefix}{part}/{name}": array for part, named in parts.items() for name, array in named.items()}
    return {f"{prefix}labels": outputs.labels, f"{prefix}probs": outputs.probs, **branches}


def _prototypes(model: Model) -> dict[str, Any]:
    heads = {name: head for name, head in model.heads.items() if isinstance(head, nn.Linear)}
    return {f"prototypes/{name}": head.weight.detach().float().cpu().numpy() for name, head in heads.items()}
