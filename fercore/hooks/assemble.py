"""From plugin names and layers of settings to the run's checked settings and its plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fercore.config import RunConfig, build_config, check_settings, merge
from fercore.config.presets import FROM_MODEL, preset_settings
from fercore.hooks.checks import check_class, check_class_weights, check_company, check_sources, no_exit
from fercore.hooks.discovery import PluginInfo, find_plugin, installed_plugins, load_class
from fercore.hooks.plugin import Plugin
from fercore.models.at_hand import network_at_hand


@dataclass(frozen=True)
class ResolvedRun:
    """The plugins of a run with its settings.

    Attributes:
        config: the run's settings, plugin tables filled with every default.
        plugins: the plugin objects in command-line order.
        infos: their distributions.
    """

    config: RunConfig
    plugins: tuple[Plugin, ...]
    infos: tuple[PluginInfo, ...]

    @property
    def versions(self) -> dict[str, str]:
        """Plugin name -> "distribution version"."""
        return {info.name: f"{info.distribution} {info.version}" for info in self.infos}


def core_preset(preset: str, layers: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the core's settings of a preset; small starts from a pretrained backbone that is at hand.

    From a trained model the rates are lower.

    Args:
        layers: that are laid over it; a network that they choose stays.
    """
    given = preset_settings(preset)
    if starts_from_model(layers):
        given = merge(given, FROM_MODEL.get(preset, {}))
    network = network_at_hand(layers) if preset == "small" else {}
    return merge(given, {"model": network}) if network else given


def starts_from_model(layers: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a run with these settings starts from a trained model."""
    networks = [layer.get("model") for layer in layers]
    starts = [network["init"] for network in networks if isinstance(network, Mapping) and "init" in network]
    return bool(starts and starts[-1])


def own_preset(plugin: Plugin | type[Plugin], preset: str, layers: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return what a plugin wants in a preset, and on top where the run starts from a trained model.

    Args:
        layers: that are laid over it; they say what the run starts from.
    """
    own = plugin.presets.get(preset, {})
    return merge(own, plugin.from_model) if preset != "paper" and starts_from_model(layers) else own


@no_exit()
def assemble(names: Sequence[str], layers: Sequence[Mapping[str, Any]], *, preset: str = "demo") -> ResolvedRun:
    """Load the named plugins and resolve the settings.

    Later layers win: defaults, the preset, the plugins' own
    versions of it, then `layers` in order.

    Args:
        names: plugin names in command-line order.
        layers: nested settings; later ones win.
        preset: which preset to lay under `layers`.

    Raises:
        UserInputError: for an unknown plugin, a wrong setting, or plugins that cannot run together.
    """
    available = installed_plugins()
    infos = tuple(find_plugin(name, available) for name in names)
    classes = [check_class(load_class(info), info.name) for info in infos]
    presets = [own_preset(cls, preset, layers) for cls in classes]
    # Every layer before the plugins' own tables are checked: a later one may set what an earlier one left wrong.
    config = build_config([{"preset": preset}, core_preset(preset, [*presets, *layers]), *presets, *layers], names)
    plugins: list[Plugin] = []
    tables: dict[str, dict[str, Any]] = {}
    for info, cls in zip(infos, classes, strict=True):
        settings = check_settings(cls.Settings, config.plugins.get(info.name, {}), prefix=info.name)
        tables[info.name] = settings.model_dump(mode="json")
        plugins.append(cls(info.name, settings))
    check_company(plugins)
    check_sources(plugins, config.data.sources)
    check_class_weights(plugins, config.align.class_weights)
    return ResolvedRun(config.model_copy(update={"plugins": tables}), tuple(plugins), infos)
