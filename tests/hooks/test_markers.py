"""Hooks say since when they are there, and warn those who use one that is to go."""

from __future__ import annotations

import pluggy
import pytest
from packaging.version import Version

import fercore
from fercore.hooks import specs
from fercore.hooks.checks import HOOKS
from fercore.hooks.markers import PROJECT, HookDeprecationWarning, hookimpl, hookspec


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_says_since_when(hook):
    assert Version(getattr(specs, hook).fercore_since) <= Version(fercore.__version__)


class Specs:
    @hookspec(since="0.1", deprecated="since 0.4, gone in 0.6: implement `after`")
    def before(self): ...

    @hookspec(since="0.1", deprecated_arguments={"old": "since 0.4, gone in 0.6: take `new`"})
    def after(self, old, new): ...


class Old:
    @hookimpl
    def before(self): ...


class OldArgument:
    @hookimpl
    def after(self, old): ...


class New:
    @hookimpl
    def after(self, new): ...


def registered(plugin):
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Specs)
    manager.register(plugin)


def test_one_that_is_to_go_is_told_of_with_what_replaces_it(recwarn):
    with pytest.warns(HookDeprecationWarning, match="hook 'before' is deprecated since 0.4, gone in 0.6: implement"):
        registered(Old())
    with pytest.warns(HookDeprecationWarning, match="argument 'old' of hook 'after' is deprecated since 0.4"):
        registered(OldArgument())
    registered(New())
    assert not [one for one in recwarn if issubclass(one.category, HookDeprecationWarning)]
