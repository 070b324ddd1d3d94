"""What `fercore plugins NAME` and `fercore settings` say is what a run has."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field

from fercore.config import Settings, dotted_names
from fercore.config.catalogue import settings_of
from fercore.config.settings import RunConfig
from fercore.errors import UserInputError
from fercore.hooks import catalogue
from fercore.hooks.assemble import assemble


class Inner(Settings):
    """A section in a section."""

    rate: float = Field(0.5, gt=0, le=2, description="of change")


class Outer(Settings):
    """A section."""

    mode: Literal["a", "b"] = Field("a", description="which")
    size: int | None = Field(None, ge=1, le=9, description="how large")
    pair: tuple[float, float] = Field((1.0, 2.0), description="two numbers")
    shares: dict[str, float] = Field({}, description="by class")
    lambda_: float = Field(1.0, ge=0, alias="lambda", description="a weight")
    inner: Inner = Inner()


class Heir(Outer):
    """Another default, and no description of its own."""

    mode: Literal["a", "b"] = "b"


def test_settings_come_with_value_range_meaning_and_origin():
    layers = [("preset demo", {"size": 3, "inner": {"rate": 1.0}}), ("preset demo of x", {"inner": {"rate": 2.0}})]
    listed = settings_of(Heir(size=3, inner=Inner(rate=2.0)), layers, "x.")
    assert [(one.name, one.value, one.allowed, one.meaning, one.origin) for one in listed] == [
        ("x.mode", "b", "a | b", "which", "default"),
        ("x.size", "3", "whole number from 1 to 9 or none", "how large", "preset demo"),
        ("x.pair", "[1.0, 2.0]", "list of 2: number", "two numbers", "default"),
        ("x.shares", "{}", "table of numbers", "by class", "default"),
        ("x.lambda", "1.0", "number at least 0", "a weight", "default"),
        ("x.inner.rate", "2.0", "number above 0 and at most 2", "of change", "preset demo of x"),
    ]


@pytest.mark.parametrize("preset", ["demo", "paper"])
def test_every_setting_of_a_run_is_listed_with_its_value(preset):
    listed = {one.name: one for one in catalogue.run_settings(["la_cmfer"], preset)}
    resolved = assemble(["la_cmfer"], [], preset=preset)
    core = [name for name in dotted_names(RunConfig) if name != "plugins"]
    own = [f"la_cmfer.{name}" for name in dotted_names(type(resolved.plugins[0].settings))]
    assert list(listed) == core + own
    assert listed["optim.lr"].value == str(resolved.config.optim.lr)
    assert listed["train.steps"].origin.startswith(f"preset {preset}")
    assert listed["la_cmfer.beta"].value == str(resolved.plugins[0].settings.beta)


def test_every_setting_of_the_core_has_a_meaning():
    assert [one.name for one in catalogue.core_settings("demo") if not one.meaning] == []


@pytest.mark.slow
def test_every_setting_of_every_plugin_has_a_meaning():
    listed = catalogue.all_settings("demo")
    assert len({one.name for one in listed}) == len(listed) > 300
    assert [one.name for one in listed if not one.meaning] == []


def test_an_addon_is_shown_beside_a_method():
    assert catalogue.company_of("source_only") == ["source_only"]
    assert catalogue.company_of("leaf_eaf") == ["source_only", "leaf_eaf"]
    assert any(one.name.startswith("leaf_eaf.") for one in catalogue.own_settings("leaf_eaf", "demo"))


def test_one_plugin_on_a_page(fercore):
    code, out, _ = fercore("plugins", "la_cmfer")
    assert code == 0
    for text in (
        "kind     method, of fercore-la-cmfer", "paper    ", "needs    a labelled source and a target",
        "la_cmfer.beta = 0.5   [number at least 0]", "weight of the consistency term",
        "presets, beside what the core has under each:", "hook chain (outermost first):", "la_cmfer implements",
    ):  # fmt: skip
        assert text in out
    assert "--init" not in out
    assert "a method to run beside" in fercore("plugins", "leaf_eaf")[1]
    assert "a trained model to start from (--init)" in fercore("plugins", "tent")[1]


def test_settings_are_searched(fercore):
    code, out, _ = fercore("settings", "fixmatch+leaf_eaf", "--preset", "paper", "--search", "learning rate")
    assert code == 0
    assert out.startswith("optim.lr = ")
    assert all("earning rate" in line or "=" in line for line in out.splitlines())
    code, out, _ = fercore("settings")
    assert "train.steps = 250   [whole number from 1 to 1000000000]   (from preset demo)" in out.splitlines()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["settings", "la_cmfr"], "unknown plugin 'la_cmfr' (--plugin); did you mean 'la_cmfer'"),
        (["settings", "--preset", "tiny"], "unknown preset 'tiny'"),
        (["settings", "source_only", "--search", "quasar"], "no setting has 'quasar'"),
        (["plugins", "la_cmfr"], "unknown plugin 'la_cmfr'"),
        (["plugins", "la_cmfer", "--explain"], "--explain goes with --plugin"),
    ],
)
def test_wrong_names_are_told(fercore, words, message):
    code, _, error = fercore(*words)
    assert code == 2
    assert message in error


def test_a_plugin_that_is_not_there_has_no_company():
    with pytest.raises(UserInputError, match="unknown plugin 'nobody'"):
        catalogue.company_of("nobody")
