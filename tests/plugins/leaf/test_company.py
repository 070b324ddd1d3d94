"""leaf_eaf beside every installed method, and in resolved it cannot keep."""

from __future__ import annotations

import math
import re
from contextlib import contextmanager
from pathlib import Path

import fercore_leaf
import pytest
from torch import nn

from fercore.engine.run import run
from fercore.errors import UserInputError
from fercore.hooks.assemble import assemble
from fercore.hooks.discovery import installed_plugins, load_class
from fercore.models import ExpertMixture

TINY = {"n_experts": 3}
MUST_RUN = {"fercore", "fercore-ssl", "fercore-la-cmfer", "fercore-adafer", "fercore-pocan"}
CLASSES = {name: load_class(info) for name, info in installed_plugins().items() if name != "leaf"}
METHODS = [name for name, plugin in CLASSES.items() if plugin.kind == "method" and plugin.needs_source]
"""Without those that adapt a trained model alone: the add-on learns from labelled samples."""


@contextmanager
def refused_or_not():
    """Let a run end in the refusal of methods that go past their branches, and in no other error."""
    try:
        yield
    except UserInputError as error:
        if "scores images past its branches and heads" not in str(error):
            raise


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_it_runs_around_every_installed_method(method, make_context, tmp_path, listener):
    spread = {"gate": {"balance": 0.1}}
    context = make_context(method, "leaf_eaf", layers=({"leaf_eaf": TINY | spread, "train": {"steps": 2}},))
    heard = listener()
    if installed_plugins()[method].distribution not in MUST_RUN:
        with refused_or_not():
            run(context, tmp_path / "run", heard)
        return
    record = run(context, tmp_path / "run", heard)
    assert record.plugins == [method, "leaf_eaf"]
    assert any(isinstance(part, nn.Sequential | ExpertMixture) for part in context.model.parts.values())
    for report in heard.reports:
        assert all(math.isfinite(value) for value in report.terms.values())
        by_addon = {name for name in report.terms if name.startswith("leaf_eaf/")}
        assert by_addon - {"leaf_eaf/balance"} == {"leaf_eaf/consistency"}
    assert any("leaf_eaf/balance" in report.terms for report in heard.reports)  # a method may encode without gradients
    assert f"{method}/consistency" not in heard.reports[-1].terms


def test_methods_of_consistency_are_among_those_installed():
    assert {"source_only", "fixmatch", "flexmatch", "mean_teacher", "vat", "mixmatch"} <= set(METHODS)


def test_it_names_no_method():
    folder = Path(fercore_leaf.__file__).parent
    text = "".join((folder / name).read_text() for name in ("addon.py", "levels.py"))
    assert [name for name in METHODS if re.search(rf"\b{name}\b", text)] == []


def test_add_ons_alone_and_wrong_company_are_one_clear_line():
    with pytest.raises(UserInputError, match="no method in this run, only add-ons: leaf_eaf.*add a method"):
        assemble(["leaf_eaf"], [])
    with pytest.raises(UserInputError, match="'leaf_eaf' cannot run with 'leaf'"):
        assemble(["leaf", "leaf_eaf"], [])
    with pytest.raises(UserInputError, match="two methods in one run: leaf and source_only"):
        assemble(["leaf", "source_only", "leaf_eaf"], [])


def test_images_the_network_does_not_take_are_one_clear_line(make_context):
    layer = {"model": {"backbone": "vit_tiny_patch16_224"}}
    with pytest.raises(UserInputError, match="does not take 32 px images"):
        make_context("source_only", "leaf_eaf", layers=(layer,))
