"""From arguments, as the command line and `fercore.train` take them, to layers of settings."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from fercore.errors import UserInputError
from fercore.files import absolute
from fercore.hooks.discovery import split_names
from fercore.processes import first_here, started

if TYPE_CHECKING:
    from fercore.data.spec import DomainSpec
    from fercore.hooks.assemble import ResolvedRun


Assignments: TypeAlias = Sequence[str] | Mapping[str, Any]
"""Settings as --set has them, "section.key=value", or dotted name -> value."""


@dataclass(frozen=True)
class Request:
    """What arguments come to.

    Attributes:
        layers: nested settings, later ones win. preset: what is laid under them. why: it is that one, in words.
    """

    layers: list[dict[str, Any]]
    preset: str
    why: str


def request_of(
    *,
    source: Sequence[DomainSpec | str] = (),
    target: DomainSpec | str | None = None,
    protocol: str | None = None,
    data_root: Path | None = None,
    preset: str | None = None,
    config: Path | None = None,
    assignments: Assignments = (),
    init: str | None = None,
    **top: Any,
) -> Request:
    """Read the arguments that say what is trained on, and how.

    Args:
        init: the trained model to start from. top: further settings at the top, such as the seed; None = not given.

    Raises:
        UserInputError: for arguments that do not go together, and wrong settings of the data.
    """
    from fercore.config import DataSettings, check_settings, merge, read_toml
    from fercore.config.presets import preset_settings
    from fercore.data.spec import as_spec

    # Lowest first: a file and --set may change what a protocol says, the flags of the command line win.
    layers = _protocol_layers(protocol, data_root, given=bool(source or target))
    layers += [read_toml(config)] if config else []
    flags: dict[str, Any] = {key: value for key, value in top.items() if value is not None}
    if init is not None:
        flags["model"] = {"init": init}
    data: dict[str, Any] = {"sources": list(map(as_spec, source))} if source else {}
    if target:
        data["target"] = as_spec(target)
    elif divided := next((spec for spec in data.get("sources", ()) if spec.asks_for_labels), None):
        data["target"] = divided  # the rest of that dataset
    if "sources" in data and "target" not in data:
        _refuse_half()
    layers += [layer for _, layer in assigned(assignments)] + [merge(flags, {"data": data} if data else {})]
    # Merged here only to see whose data they are: presets and plugins lay theirs under the same layers later.
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, layer)
    given, own = merged.get("data"), False
    if isinstance(given, dict):
        checked = check_settings(DataSettings, given, prefix="data")  # what follows goes by its sources and target
        if "target" in given and "sources" not in given and (target or checked.own_data):
            layers.append({"data": {"sources": []}})  # of a run without a source, which its plugins must allow
            checked = check_settings(DataSettings, {**given, "sources": []}, prefix="data")
        own = checked.own_data
        if own and "target" not in given and not any(spec.asks_for_labels for spec in checked.sources):
            _refuse_half()
    chosen, why = _preset(preset, merged.get("preset"), own=own)
    preset_settings(chosen)
    layers = [{key: value for key, value in layer.items() if key != "preset"} for layer in layers]
    if any("init" in layer.get("model", {}) for layer in layers if isinstance(layer.get("model", {}), dict)):
        from fercore.engine.initial import with_initial

        layers = with_initial(layers)
    return Request(layers, chosen, why)


def assigned(assignments: Assignments) -> list[tuple[str, dict[str, Any]]]:
    """Return the dotted name and the nested table of every assignment."""
    from fercore.config import nested, parse_assignment

    if isinstance(assignments, Mapping):
        return [(name, nested(name, value)) for name, value in assignments.items()]
    return [(text.partition("=")[0].strip(), parse_assignment(text)) for text in assignments]


def _preset(flag: str | None, setting: object, *, own: bool) -> tuple[str, str]:
    """Return the preset to take and why, in words.

    Args:
        flag: of the command line. setting: in a settings file or --set. own: whether the data are the user's.
    """
    if flag or setting:
        return str(flag or setting), "as --preset says" if flag else "as the settings say"
    if own:
        return "paper", "the data are your own; --preset small suits images of 48 to 64 px and a laptop"
    return "demo", "the data are synthetic faces"


def _protocol_layers(name: str | None, root: Path | None, *, given: bool) -> list[dict[str, Any]]:
    """Return the settings of the protocol that is named, if any."""
    if name is None:
        if root is not None:
            raise UserInputError("--data-root without --protocol", where="fercore", fix="see `fercore protocols`")
        return []
    if given:
        fix = "leave them out, or write the specs without --protocol"
        raise UserInputError("--protocol goes with neither --source nor --target", where="fercore", fix=fix)
    from fercore.datasets.protocols import load_protocol, protocol_layer

    return [{**protocol_layer(load_protocol(name), root), "protocol": name}]


def _refuse_half() -> None:
    raise UserInputError("--target is missing", where="fercore", fix="give both, or neither for bundled faces")


def reopen(path: Path, assignments: Assignments = ()) -> ResolvedRun:
    """Return the settings and plugins of a run that goes on, with more steps where that is asked for.

    Raises:
        UserInputError: if there is none, it is finished or in use, or what it is resumed with is not what it was.
    """
    from fercore.config import merge
    from fercore.engine.resume import SPREAD, check_resume
    from fercore.hooks.assemble import assemble
    from fercore.runs.folder import RunFolder

    # Only what cannot change a bit of what has been trained; the cache is where images wait.
    given: dict[str, dict[str, Any]] = {name: {} for name in ("train.steps", "data.cache_dir", *SPREAD)}
    for name, layer in assigned(assignments):
        if name not in given:
            raise only_longer()
        given[name] = merge(given[name], layer)
    more = given["train.steps"]
    folder = RunFolder(path)
    settings = folder.config_layers()
    if folder.finished and not more:
        fix = "its scores are in result.json; --set train.steps=NUMBER trains on"
        raise UserInputError("that run is finished", where=str(path), fix=fix)
    if first_here():
        folder.refuse_in_use()
    preset, names = str(settings.pop("preset")), list(folder.plugin_versions())
    spread = [given[name] for name in SPREAD]
    if not any(spread) and started() is not None:
        # As many as a launcher has begun, whatever the run had before.
        settings = {name: value for name, value in settings.items() if name not in SPREAD}
    resolved = assemble(names, [settings, *spread], preset=preset)
    _refuse_outside(resolved, given["data.cache_dir"], path)
    check_resume(folder, resolved)
    if more:
        steps = resolved.config.train.steps
        resolved = assemble(names, [settings, *spread, more], preset=preset)
        if resolved.config.train.steps <= steps:
            fix = "give a larger number, or --resume alone"
            raise UserInputError(f"the run has {steps} steps", where="--set train.steps", fix=fix)
    return resolved


def _refuse_outside(resolved: ResolvedRun, given: dict[str, Any], path: Path) -> None:
    """Make sure that a run folder, which may be from somebody else, has nothing written outside it unasked.

    Raises:
        UserInputError: if its settings name a cache folder that `given` does not.
    """
    folder, named = resolved.config.data.cache_dir, given.get("data", {}).get("cache_dir")
    if folder is not None and (named is None or absolute(str(named)) != folder):
        fix = f"if that is wanted: --set {shlex.quote(f'data.cache_dir={folder}')}"
        raise UserInputError(f"the run's settings have a cache in {folder}", where=str(path), fix=fix)


def only_longer() -> UserInputError:
    """Return the error of settings beside --resume."""
    fix = "the settings are the run's own; --set train.steps=NUMBER may make it longer, --devices share it out anew"
    return UserInputError("--resume goes with no other setting", where="fercore run", fix=fix)


def names_of(plugin: str | Sequence[str]) -> list[str]:
    """Return the names in METHOD[+ADDON...], or in several of them."""
    return [name for text in ([plugin] if isinstance(plugin, str) else plugin) for name in split_names(text)]


def new_folder(names: Sequence[str]) -> Path:
    """Return a folder under runs/ that is not there yet, called by names and the time."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / f"{'+'.join(names)}-{stamp}"
    number, path = 1, base
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path
