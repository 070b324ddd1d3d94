"""Writing the model of a finished run as a folder of data, `model/`: see `fercore.engine.model_record`."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fercore.data import side_table
from fercore.data.noise import permutation
from fercore.engine.model_record import (
    FEATURES,
    HELD_OUT,
    RECORD,
    WEIGHTS,
    Domain,
    Evaluation,
    ImageFormat,
    ModelRecord,
    PluginVersion,
    Provenance,
    RunSettings,
    Shift,
    Source,
    training_only,
)
from fercore.engine.resume import settings_of
from fercore.engine.setup import RunContext
from fercore.evaluation import distances
from fercore.records.outputs import Outputs
from fercore.records.step import SIDES, Progress, Side
from fercore.runs.folder import versions
from fercore.writing import whole_folder, write_json, write_sums, write_tensors


def write_model(context: RunContext, path: Path, clock: Progress, held_out: Outputs | None) -> None:
    """Write the network that a run reports, once it is evaluated; what an earlier run of it left goes first.

    Args:
        context: the run. path: the folder, `model/` of the run's. clock: as the evaluation had it.
        held_out: what the network says of held-out source, where there is some.

    Raises:
        WriteError: if it cannot be written.
    """
    features, shift = _shift(context, clock)
    record = _record_of(context, clock).model_copy(update={"shift": shift})
    skipped = training_only(context.resolved.plugins)
    state = context.reported.state_dict()
    tensors = {
        name: tensor.detach().to("cpu").contiguous().clone()
        for name, tensor in state.items()
        if not name.startswith(skipped)
    }
    # Of a shorter run: what is not replaced would contradict the new record.
    shutil.rmtree(path, ignore_errors=True)
    with whole_folder(path, RECORD) as draft:
        write_tensors(draft / WEIGHTS, tensors)
        write_tensors(draft / FEATURES, features)
        write_json(draft / RECORD, record.model_dump(by_alias=True))
        if held_out is not None:
            arrays = {"probs": held_out.probs.astype(np.float32), "labels": held_out.labels}
            write_tensors(draft / HELD_OUT, {name: torch.from_numpy(array) for name, array in arrays.items()})
        write_sums(draft, (WEIGHTS, FEATURES, *([] if held_out is None else [HELD_OUT]), RECORD))


def _shift(context: RunContext, clock: Progress) -> tuple[dict[str, Tensor], Shift | None]:
    """Return branch -> features f[N,D] of a random sample of the sources, if any, and how far the target is from it."""
    if not context.domains.sources:
        return {}, None
    features_of: dict[Side, dict[str, np.ndarray]] = {}
    for side in SIDES:
        table = side_table(context.domains, side)
        # In the table's order: neighbours in a file are read faster than samples at random.
        some = np.sort(permutation(len(table), "features", side)[: distances.SAMPLE])
        features_of[side] = context.evaluator.predict(context.reported, table.subset(some), clock, side).features
    source, target = features_of["source"], features_of["target"]
    features = {name: torch.from_numpy(rows) for name, rows in source.items()}
    n, m = (len(next(iter(rows.values()))) for rows in (source, target))
    # The spread of so few would be larger than any distance.
    if min(n, m) < distances.LEAST:
        return features, None
    values = {"target": distances.distance(source, target), "spread": distances.spread(source, target)}
    if not np.isfinite(list(values.values())).all():
        return features, None
    return features, Shift(**values, n_source=n, n_target=m)


def _record_of(context: RunContext, clock: Progress) -> ModelRecord:
    config, domains, model = context.config, context.domains, context.reported
    settings = config.model_dump(
        mode="json", exclude={"data": {"size", "resize", "mean", "std", "classes", "eval_batch"}}
    )
    scaling = domains.report["target"].get("scaling", {})
    # Sorted: equal settings have equal digests, in whatever order they were given.
    written = json.dumps(settings_of(context.resolved), sort_keys=True)
    return ModelRecord(
        plugins=[
            PluginVersion(name=i.name, distribution=i.distribution, version=i.version) for i in context.resolved.infos
        ],
        classes=list(domains.classes),
        images=ImageFormat(
            size=config.data.size,
            resize=config.data.resize,
            colour="RGB",
            mean=list(model.mean),
            std=list(model.std),
            range=scaling.get("range"),
        ),
        evaluation=Evaluation(
            batch=config.data.eval_batch,
            stage=clock.stage,
            epoch=clock.epoch,
            step=clock.step,
            total_steps=clock.total_steps,
        ),
        settings=RunSettings.model_validate(settings),
        versions=versions(),
        provenance=Provenance(
            sources=[
                Source(spec=spec, n=len(table), per_class=table.counts(domains.classes))
                for spec, table in zip(config.data.sources, domains.sources, strict=True)
            ],
            target=Domain(spec=config.data.target, n=len(domains.adaptation)),
            seed=config.seed,
            settings_sha256=hashlib.sha256(written.encode()).hexdigest(),
            averaged=context.average is not None,
        ),
        calibration=context.evaluator.calibration,
        units=list(domains.au_names),
        initial=context.initial.record if context.initial is not None and context.adapts_as_it_is else None,
    )
