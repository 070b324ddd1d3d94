"""Every hook is documented where authors look, and exercised by a test."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from fercore.hooks import specs
from fercore.hooks.checks import FIRST_RESULT, HOOKS
from fercore.hooks.manager import Plugins

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
TESTS = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests/hooks").glob("test_*.py"))


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_stands_in_the_architecture_with_its_arguments(hook):
    arguments = ", ".join(inspect.signature(getattr(specs, hook)).parameters)
    kind = "first result" if hook in FIRST_RESULT else "collected"
    assert re.search(rf"\| `{hook}\({re.escape(arguments)}\)` \| {kind}", DOCS)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_says_when_it_is_called_and_has_a_typed_method(hook):
    text = inspect.getdoc(getattr(specs, hook)) or ""
    assert ("First result" if hook in FIRST_RESULT else "Collected") in text
    method = inspect.signature(getattr(Plugins, hook))
    assert list(method.parameters)[1:] == list(inspect.signature(getattr(specs, hook)).parameters)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_exercised(hook):
    assert re.search(rf"\.{hook}\(", TESTS)
