"""What must be as it was when a run goes on: plugins, versions, data, settings; and whether it may be made longer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from fercore.engine.setup import LAST, RunContext
from fercore.errors import UserInputError
from fercore.hooks.assemble import ResolvedRun
from fercore.runs import checkpoint
from fercore.runs.folder import CONFIG, RunFolder, versions

STEPS = "train.steps"
SPREAD = ("devices", "num_nodes", "strategy")
"""Settings by which processes share a run, and that may be others when it goes on."""


def check_resume(folder: RunFolder, resolved: ResolvedRun) -> None:
    """Refuse to resume with other plugins, versions or settings than the run has been trained with; bits would differ.

    More `train.steps` than before are left to `check_longer`.

    Raises:
        UserInputError: naming what differs, as it was and as it is; or a damaged checkpoint.
    """
    started, now = folder.plugin_versions(), resolved.versions
    before = {**folder.started()["versions"], **started}
    after = {**versions(), **now}
    for name in sorted(before.keys() | after.keys()):
        was, here = before.get(name, "absent"), after.get(name, "absent")
        if was != here:
            what = f"the run was started with {name} ({was}), now there is {name} ({here})"
            raise UserInputError(what, where=str(folder.path), fix=f"install {name} as it was, or start again")
    latest = checkpoint.newest(folder.checkpoints)
    if latest is not None:
        trained = checkpoint.load_entry(latest, "settings")
        with checkpoint.naming_damage(latest):
            _check_settings(folder, trained, settings_of(resolved))


def settings_of(resolved: ResolvedRun) -> dict[str, Any]:
    """Return all settings of a run as plain values, and its plugins in their order under "plugin"."""
    return {"plugin": [info.name for info in resolved.infos], **resolved.config.model_dump(mode="json")}


def _check_settings(folder: RunFolder, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = {name: pair for name, pair in differences(before, now).items() if name not in SPREAD}
    if not changed or (changed.keys() == {STEPS} and now["train"]["steps"] > before["train"]["steps"]):
        return
    fix = "put back what it was, or start again; only train.steps may grow"
    what = f"settings are not those that the run has been trained with: {changes_text(changed)}"
    raise UserInputError(what, where=str(folder.path / CONFIG), fix=fix)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the dotted name of every setting that differs -> its values in the two; None = not given."""
    # One by one, so that a message names a setting and not a table.
    old, new = dict(leaves(before)), dict(leaves(now))
    names = sorted(old.keys() | new.keys())
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name of every setting of a tree, those of plugins under their own names, and its value."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}".removeprefix("plugins."), value


def changes_text(changed: Mapping[str, tuple[Any, Any]], most: int = 5) -> str:
    """Return differences in words: "optim.lr 0.01 -> 0.02, ..."."""
    texts = [f"{name} {_shown(was)} -> {_shown(now)}" for name, (was, now) in changed.items()]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def _shown(value: Any) -> str:
    return "not given" if value is None else json.dumps(value, ensure_ascii=False)


def check_same_data(folder: RunFolder, fingerprint: Mapping[str, Any]) -> None:
    """Refuse to resume with other data than the run was started with.

    Raises:
        UserInputError: naming the part that differs.
    """
    started = folder.data_report()["fingerprint"]
    for part in sorted(started.keys() | fingerprint.keys()):
        if started.get(part) != fingerprint.get(part):
            fix = "bring the data back as it was, or start again"
            raise UserInputError(f"the data of {part!r} changed since the run began", where=str(folder.path), fix=fix)


def stages_of(context: RunContext) -> list[dict[str, Any]]:
    """Return a run's stages as plain values."""
    return [asdict(stage) for stage in context.stages]


def check_longer(context: RunContext, state: Mapping[str, Any]) -> None:
    """Refuse more steps where what has been trained would have been trained otherwise in a longer run.

    Args:
        context: the run with the steps it is to have. state: its checkpoint.

    Raises:
        UserInputError: naming what goes by the length: an earlier stage, a schedule, a plugin.
    """
    reasons = list(_bound(context, state))
    if reasons:
        was, now = state["settings"]["train"]["steps"], context.config.train.steps
        what = f"a run of {was} steps cannot become one of {now}: {', '.join(reasons)}"
        raise UserInputError(what, where=STEPS, fix="start again with that many")


def _bound(context: RunContext, state: Mapping[str, Any]) -> Iterator[str]:
    """Yield what keeps a run from being made longer."""
    before, now, at = state["stages"], stages_of(context), state["stage_index"]
    if before == now:
        yield "its length is not set by train.steps"
    if context.config.select.rule != LAST:
        yield f"select.rule={context.config.select.rule} chose among checkpoints that are gone"
    stage = context.stages[at]
    for old, new in zip(before[: at + 1], now, strict=False):
        # The stage that is running may become longer: what is left of it, and nothing that was done, changes.
        free = {"steps": 0} if old is before[at] and new["steps"] >= old["steps"] else {}
        if {**old, **free} != {**new, **free}:
            yield f"its stage {old['name']!r} would have been another"
    if before[at]["steps"] == stage.steps:
        return
    for phase in stage.phases:
        if phase.shares is None and phase.optimiser.goes_by_length:
            yield f"the {phase.optimiser.schedule} schedule of phase {phase.name!r} goes by the length"
    for plugin in context.resolved.plugins:
        reason = plugin.goes_by_length()
        if reason:
            yield f"{plugin.name} goes by the length ({reason})"
