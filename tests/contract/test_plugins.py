"""Rules every installed plugin keeps: it trains, resumes and loads to the bit, and leaves its own object alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import fercore
from fercore.engine.run import run
from fercore.errors import UserInputError
from fercore.hooks.discovery import installed_plugins, load_class

METHODS = [name for name, info in installed_plugins().items() if load_class(info).kind == "method"]
ADDONS = [name for name, info in installed_plugins().items() if load_class(info).kind == "addon"]
COMPANIES = [(name,) for name in METHODS] + [("source_only", name) for name in ADDONS]
QUICK = [("source_only",), ("la_cmfer",)]
TRAINED = [
    pytest.param(names, marks=[] if names in QUICK else pytest.mark.slow, id="+".join(names)) for names in COMPANIES
]


def parts_of(tree, prefix=""):
    if isinstance(tree, torch.Tensor):
        yield prefix, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from parts_of(value, f"{prefix}/{key}")
    elif isinstance(tree, list | tuple):
        for number, value in enumerate(tree):
            yield from parts_of(value, f"{prefix}/{number}")


@pytest.mark.slow
@pytest.mark.parametrize("names", TRAINED)
def test_a_plugin_trains_resumes_to_the_bit_and_stays_itself(names, tmp_path, make_context, listener, weights_of):
    context = make_context(*names)
    before = [copy.deepcopy(vars(plugin)) for plugin in context.resolved.plugins]
    whole = run(context, tmp_path / "whole", listener())
    assert [vars(plugin) for plugin in context.resolved.plugins] == before
    with pytest.raises(KeyboardInterrupt):
        run(make_context(*names), tmp_path / "cut", listener(stop_after=5))
    resumed = run(make_context(*names), tmp_path / "cut", listener(), resume=True)
    left, right = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    tensors = dict(parts_of({key: left[key] for key in ("model", "optimisers", "random", "loader")}))
    again = dict(parts_of({key: right[key] for key in ("model", "optimisers", "random", "loader")}))
    assert tensors.keys() == again.keys()
    assert [key for key in tensors if not torch.equal(tensors[key], again[key])] == []
    assert resumed["target"] == whole["target"]
    model, test = fercore.load(tmp_path / "cut"), context.domains.test
    evaluated = context.evaluator.predict(context.reported, test, model.record.evaluation.clock)
    images = list(test.read_many(range(len(test))))
    assert np.array_equal(model.predict(images, extras=test.extras).probs, evaluated.probs)


@pytest.mark.parametrize("names", COMPANIES, ids="+".join)
@pytest.mark.parametrize("preset", ["demo", "small", "paper"])
def test_every_preset_resolves(names, preset):
    from fercore.hooks.assemble import assemble

    resolved = assemble(names, [], preset=preset)
    assert resolved.config.preset == preset
    assert set(resolved.config.plugins) == set(names)


@pytest.mark.slow
@pytest.mark.parametrize("names", TRAINED)
def test_a_plugin_that_says_it_does_not_go_by_the_length_does_not(names, tmp_path, make_context, listener, weights_of):
    def context(number):
        return make_context(*names, layers=({"optim": {"schedule_steps": 6}, "train": {"steps": number}},))

    run(context(4), tmp_path / "run", listener())
    reasons = [f"{plugin.name} goes by the length" for plugin in context(4).resolved.plugins if plugin.goes_by_length()]
    if len(context(6).stages) > 1 or reasons:
        with pytest.raises(UserInputError, match="|".join([*reasons, "its stage", "schedule of phase", "not set by"])):
            run(context(6), tmp_path / "run", listener(), resume=True)
        return
    run(context(6), tmp_path / "run", listener(), resume=True)
    run(context(6), tmp_path / "whole", listener())
    left, right = (dict(parts_of(weights_of(tmp_path / name)["model"])) for name in ("run", "whole"))
    assert [key for key in left if not torch.equal(left[key], right[key])] == []
