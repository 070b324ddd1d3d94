"""Checks of plugins and of what their hooks return, each with a message that names plugin and hook."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from fercore.errors import UserInputError, did_you_mean
from fercore.hooks import specs
from fercore.hooks.markers import PROJECT
from fercore.hooks.plugin import Plugin

if TYPE_CHECKING:
    import pluggy

HOOKS: tuple[str, ...] = tuple(name for name, item in vars(specs).items() if hasattr(item, f"{PROJECT}_spec"))
FIRST_RESULT: tuple[str, ...] = tuple(name for name in HOOKS if getattr(specs, name).fercore_spec["firstresult"])
T = TypeVar("T")
BUILTIN = "builtin:"
SIDES = ("source", "target")


class HookError(TypeError):
    """A plugin broke the contract of a hook: a fault of the plugin's author, not of the user.

    Attributes:
        named: whether the message already names the plugin.
    """

    named: bool = False


@contextmanager
def no_exit() -> Iterator[None]:
    """Turn `sys.exit` into an error: a run that a plugin's code leaves has no result, whatever the code says.

    Raises:
        HookError: in place of SystemExit.
    """
    try:
        yield
    except SystemExit as error:
        what = f"sys.exit({error.code!r}) was called inside a run, by a plugin's network, sampler or constructor"
        raise HookError(what) from error


def check_class(plugin: type, name: str) -> type[Plugin]:
    """Return a plugin class; refuse one that is no Plugin, has an unknown hook, or gives a hook argument a default.

    Raises:
        UserInputError: naming the plugin, the hook and the remedy.
    """
    if not issubclass(plugin, Plugin):
        raise UserInputError(f"plugin {name!r}: {plugin.__name__} does not subclass fercore.hooks.Plugin")
    for method_name, method in inspect.getmembers(plugin, callable):
        if not hasattr(method, f"{PROJECT}_impl"):
            continue
        if method_name not in HOOKS:
            fix = did_you_mean(method_name, HOOKS)
            raise UserInputError(f"plugin {name!r} implements unknown hook {method_name!r}", fix=fix)
        _check_signature(name, method_name, method)
    return plugin


def _check_signature(plugin: str, hook: str, method: Any) -> None:
    known = tuple(inspect.signature(getattr(specs, hook)).parameters)
    for argument, parameter in list(inspect.signature(method).parameters.items())[1:]:
        where = f"plugin {plugin!r}, hook {hook!r}"
        if argument not in known:
            raise UserInputError(f"unknown hook argument {argument!r}", where=where, fix=did_you_mean(argument, known))
        if parameter.default is not parameter.empty:
            raise UserInputError(f"hook argument {argument!r} has a default", where=where, fix="remove the default")
    if method.fercore_impl["hookwrapper"]:
        raise UserInputError(f"plugin {plugin!r}, hook {hook!r}: old-style hookwrapper", fix="use wrapper=True")


def check_company(plugins: Sequence[Plugin]) -> None:
    """Refuse a set of plugins that cannot run together.

    Raises:
        UserInputError: no method, two methods, or a requirement or conflict that is not met.
    """
    methods = [p.name for p in plugins if p.kind == "method"]
    names = [p.name for p in plugins]
    if len(set(names)) < len(names):
        raise UserInputError(f"a plugin is named twice: {', '.join(names)}", where="--plugin")
    if not methods:
        what = f"no method in this run, only add-ons: {', '.join(names)}" if names else "no plugin named"
        raise UserInputError(what, where="--plugin", fix="add a method, e.g. --plugin source_only")
    if len(methods) > 1:
        fix = "name one method; add-ons may follow it"
        raise UserInputError(f"two methods in one run: {' and '.join(methods)}", where="--plugin", fix=fix)
    for plugin in plugins:
        for other in set(plugin.requires) - set(names):
            raise UserInputError(f"plugin {plugin.name!r} needs {other!r}", fix=f"add --plugin {other}")
        for other in set(plugin.conflicts) & set(names):
            raise UserInputError(f"plugin {plugin.name!r} cannot run with {other!r}", fix="drop one of them")


def check_class_weights(plugins: Sequence[Plugin], asked: str) -> None:
    """Refuse `align.class_weights` for plugins that compare domains and do not weigh by it, or compare none.

    Raises:
        UserInputError: naming the plugin.
    """
    if asked == "none":
        return
    where, fix = f"align.class_weights={asked}", "take align.class_weights=none"
    for plugin in plugins:
        if getattr(plugin, "align", None) is not None and not plugin.weighs_source:
            raise UserInputError(f"plugin {plugin.name!r} does not weigh source samples by class", where=where, fix=fix)
    if not any(plugin.weighs_source for plugin in plugins):
        names = "+".join(plugin.name for plugin in plugins)
        raise UserInputError(f"{names} has no term between domains", where=where, fix=fix)


def check_sources(plugins: Sequence[Plugin], sources: Sequence[object]) -> None:
    """Refuse a target alone for plugins that learn from a labelled source.

    Raises:
        UserInputError: naming the plugin.
    """
    for plugin in plugins:
        if plugin.needs_source and not sources:
            fix = "give --source SPEC beside the target, or neither for bundled faces"
            raise UserInputError(f"plugin {plugin.name!r} needs a labelled source", where="--source", fix=fix)


def check_owners(manager: pluggy.PluginManager) -> None:
    """Refuse two owners of one first-result hook; pluggy would silently take the last registered.

    Raises:
        UserInputError: naming the hook and both plugins.
    """
    for hook in FIRST_RESULT:
        impls = getattr(manager.hook, hook).get_hookimpls()
        owners = [impl.plugin_name for impl in impls if not impl.wrapper and not impl.plugin_name.startswith(BUILTIN)]
        if len(owners) > 1:
            what = f"two plugins own hook {hook!r}: {' and '.join(owners)}"
            raise UserInputError(what, where="--plugin", fix="one of them must wrap it (hookimpl(wrapper=True))")


def expect(value: object, kind: type[T], hook: str) -> T:
    """Return a hook's value, refusing one of the wrong type.

    Raises:
        HookError: naming the hook, the expected and the received type.
    """
    if not isinstance(value, kind):
        raise HookError(f"hook {hook!r} must return {kind.__name__}, got {type(value).__name__}")
    return value


def expect_or_none(value: object, kind: type[T], hook: str) -> T | None:
    """Return a hook's value or None, refusing any other type.

    Raises:
        HookError: naming the hook, the expected and the received type.
    """
    return None if value is None else expect(value, kind, hook)


def flatten(results: Iterable[object], kind: type[T], hook: str) -> list[T]:
    """Join the lists that a collected hook returned, checking every element's type.

    Raises:
        HookError: if an implementation returned no list, or an element is of the wrong type.
    """
    flat: list[T] = []
    for result in results:
        if not isinstance(result, list | tuple):
            raise HookError(f"hook {hook!r} must return list or tuple, got {type(result).__name__}")
        flat += [expect(item, kind, hook) for item in result]
    return flat
