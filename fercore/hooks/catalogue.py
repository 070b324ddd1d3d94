"""Plugins and settings for people who choose: what `fercore plugins NAME` and `fercore settings` print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fercore.config import build_config
from fercore.config.catalogue import SettingInfo, setting_lines, settings_of
from fercore.config.presets import PRESETS, preset_settings
from fercore.hooks.about import about
from fercore.hooks.assemble import ResolvedRun, assemble, core_preset
from fercore.hooks.checks import check_class
from fercore.hooks.discovery import find_plugin, installed_plugins, load_class
from fercore.hooks.plugin import Plugin

BASELINE = "source_only"
"""The method beside which an add-on is shown."""

Layers = list[tuple[str, Mapping[str, Any]]]


def company_of(name: str) -> list[str]:
    """Return the smallest set of plugins in which this one can run: a method alone, an add-on behind a method.

    Raises:
        UserInputError: for an unknown plugin, or one that does not import.
    """
    available = installed_plugins()
    kind = check_class(load_class(find_plugin(name, available)), name)
    needed = [other for other in kind.requires if other in available]
    methods = [name, *needed]
    if any(check_class(load_class(available[each]), each).kind == "method" for each in methods):
        return [*needed, name]
    return [BASELINE, *needed, name]


def core_settings(preset: str) -> list[SettingInfo]:
    """Return the settings that every run has, as a preset leaves them."""
    layers = _core_layers(preset)
    return _of_core(build_config([layer for _, layer in layers], []), layers)


def run_settings(names: Sequence[str], preset: str) -> list[SettingInfo]:
    """Return every setting of a run of these plugins, their own included.

    Raises:
        UserInputError: for an unknown plugin or preset, or plugins that do not go together.
    """
    return _of_run(assemble(names, [], preset=preset), preset)


def all_settings(preset: str) -> list[SettingInfo]:
    """Return the core's settings and the own ones of every installed plugin."""
    listed = core_settings(preset)
    for name in installed_plugins():
        listed += own_settings(name, preset)
    return listed


def own_settings(name: str, preset: str) -> list[SettingInfo]:
    """Return the settings under a plugin's own name."""
    resolved = assemble(company_of(name), [], preset=preset)
    return _of_plugins([plugin for plugin in resolved.plugins if plugin.name == name], _layers(resolved, preset))


def _of_run(resolved: ResolvedRun, preset: str) -> list[SettingInfo]:
    layers = _layers(resolved, preset)
    return _of_core(resolved.config, layers) + _of_plugins(resolved.plugins, layers)


def _of_core(config: Any, layers: Layers) -> list[SettingInfo]:
    return [one for one in settings_of(config, layers) if one.name != "plugins"]  # each plugin's table comes typed


def _of_plugins(plugins: Iterable[Plugin], layers: Layers) -> list[SettingInfo]:
    listed: list[SettingInfo] = []
    for plugin in plugins:
        own = [(origin, layer[plugin.name]) for origin, layer in layers if plugin.name in layer]
        listed += settings_of(plugin.settings, own, f"{plugin.name}.")
    return listed


def _core_layers(preset: str) -> Layers:
    return [(f"preset {preset}", {"preset": preset, **preset_settings(preset)})]


def _layers(resolved: ResolvedRun, preset: str) -> Layers:
    """Return what is laid under a run's settings, as `assemble` does."""
    own = [(f"preset {preset} of {p.name}", p.presets[preset]) for p in resolved.plugins if preset in p.presets]
    return [(f"preset {preset}", core_preset(preset, [layer for _, layer in own])), *own]


def plugin_page(name: str, preset: str) -> list[str]:
    """Return what there is to know of one plugin: kind, paper, needs, settings with values, presets.

    Raises:
        UserInputError: for an unknown plugin or preset, or a plugin that does not import.
    """
    info = find_plugin(name, installed_plugins())
    said, kind = about(info), check_class(load_class(info), name)
    rows = [
        ("kind", f"{said.kind}, of {info.distribution} {info.version}"),
        ("paper", said.paper or "none named"),
        ("needs", "; ".join(_needs(kind))),
        ("length", _length(name, preset)),
    ]
    lines = [f"{name}: {said.purpose}", *(f"  {key:<8} {value}" for key, value in rows)]
    lines.append(f"settings, as preset {preset} leaves them (`fercore settings {name}` has those of the run too):")
    own = setting_lines(own_settings(name, preset), indent="  ")
    lines += own or ["  none of its own"]
    lines.append("presets, beside what the core has under each:")
    for each in PRESETS:
        lines.append(f"  {each:<8} {', '.join(_assignments(kind.presets.get(each, {}))) or 'nothing of its own'}")
    if kind.from_model:
        lines.append(f"from a trained model, but under preset paper: {', '.join(_assignments(kind.from_model))}")
    return lines


def _needs(kind: type[Plugin]) -> list[str]:
    needs = ["a labelled source and a target" if kind.needs_source else "a target; it runs without a source too"]
    build = getattr(getattr(kind, "build_model", None), "fercore_impl", None)
    if kind.kind == "addon":
        needs.append("a method to run beside")
    elif build is None or build["wrapper"]:
        needs.append("a trained model to start from (--init)")
    needs += [f"plugin {other}" for other in kind.requires]
    needs += [f"not {other} in the same run" for other in kind.conflicts]
    return needs


def _length(name: str, preset: str) -> str:
    plugin = next(p for p in assemble(company_of(name), [], preset=preset).plugins if p.name == name)
    reason = plugin.goes_by_length()
    return f"a run cannot be made longer: {reason}" if reason else "nothing in it goes by the length of the run"


def _assignments(layer: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return a nested table as "section.key=value", in the order in which it is written."""
    told: list[str] = []
    for key, value in layer.items():
        inner = isinstance(value, Mapping) and value
        told += _assignments(value, f"{prefix}{key}.") if inner else [f"{prefix}{key}={value}"]
    return told
