"""Nothing that a plugin is handed leads to a label, a path or a class folder of the target, through any hook.

A spy implements every hook and walks the graph of whatever it is handed: attributes, slots, items, closures, globals
that code names, what methods are bound to, partials, iterators, generators' frames. It runs beside every plugin that
is installed, whose own parts hang in that graph too.
"""

from __future__ import annotations

import functools
import re
import types
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePath

import numpy as np
import pytest
import torch
from PIL import Image

from fercore.builtin.supervised import SourceOnly
from fercore.config import Settings
from fercore.data import DomainSet, Table
from fercore.data.domains.load import LoadedDomain
from fercore.data.images.readers import FileReader
from fercore.data.spec import parse_spec
from fercore.data.table import JoinedReader
from fercore.engine.initial import with_initial
from fercore.engine.run import run
from fercore.engine.setup import RunContext, build_context
from fercore.engine.trainer import Trainer
from fercore.evaluation.evaluate import Evaluator
from fercore.hooks import Plugin, hookimpl
from fercore.hooks.assemble import ResolvedRun, assemble
from fercore.hooks.checks import FIRST_RESULT, HOOKS, HookError
from fercore.hooks.discovery import PluginInfo, installed_plugins, load_class
from fercore.hooks.guard import encode_dataset as the_handed_function
from fercore.hooks.guard import unplaced
from fercore.hooks.manager import Plugins
from fercore.records.plan import ViewRequest
from fercore.records.step import PLAIN
from fercore.runs.folder import RunFolder
from fercore.testing.tiny import tiny_model
from tests.contract.chosen import CHOSEN
from tests.loading import load_domains

MARK = "zq17"
"""In every name of the planted target: its folder, its class folders, its files."""
CLASSES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
COUNTS = (6, 8, 10, 12, 14, 16, 18)
"""Images of each class: no two alike, so that a list of labels in any order is known by its counts."""
HOLDERS = (
    DomainSet,
    Table,
    LoadedDomain,
    FileReader,
    JoinedReader,
    RunContext,
    Trainer,
    Evaluator,
    RunFolder,
)
LEAVES = (str, bytes, int, float, complex, bool, type(None), type, types.ModuleType, torch.dtype, torch.device)


def reachable(roots: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield (way, object) of everything that can be reached from some named objects."""
    seen: dict[int, object] = {}
    waiting = list(roots.items())
    while waiting:
        way, thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen[id(thing)] = thing  # kept alive, so that no id comes twice
        yield way, thing
        if not isinstance(thing, LEAVES):
            waiting += [(f"{way}{step}", inner) for step, inner in inside(thing)]


def inside(thing: object) -> Iterator[tuple[str, object]]:
    """Yield (step, object) of what an object holds."""
    if isinstance(thing, Mapping):
        yield from ((f"[{key!r}]", value) for key, value in list(thing.items()))
        yield from ((f".key {key!r}", key) for key in list(thing))
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from ((f"[{number}]", value) for number, value in enumerate(list(thing)))
    elif isinstance(thing, np.ndarray):
        yield ".base", thing.base
        if thing.dtype == object:
            yield ".items", thing.tolist()
    elif isinstance(thing, weakref.ref):
        yield "()", thing()
    elif isinstance(thing, functools.partial):
        yield from ((".func", thing.func), (".args", thing.args), (".keywords", thing.keywords))
    elif isinstance(thing, types.GeneratorType):
        yield ".frame", thing.gi_frame and dict(thing.gi_frame.f_locals)
    elif isinstance(thing, types.CellType):
        yield ".cell", thing.cell_contents if thing != types.CellType() else None
    elif isinstance(thing, types.MethodType | types.BuiltinMethodType | types.MethodWrapperType):
        yield from ((".__self__", thing.__self__), (".__func__", getattr(thing, "__func__", None)))
    elif isinstance(thing, types.FunctionType):
        named = {name: thing.__globals__.get(name) for name in thing.__code__.co_names}
        yield from ((f".{name}", getattr(thing, name)) for name in ("__closure__", "__defaults__", "__kwdefaults__"))
        yield ".globals", {name: value for name, value in named.items() if not isinstance(value, LEAVES)}
    elif isinstance(thing, Iterator) and type(thing).__module__ in ("builtins", "itertools"):
        yield ".reduced", thing.__reduce__()[1:]
    yield from ((f".{name}", value) for name, value in list(getattr(thing, "__dict__", {}).items()))
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            yield f".{name}", getattr(thing, name, None)


class Secrets:
    """What of a target nobody may be handed."""

    def __init__(self, domains: DomainSet | None = None) -> None:
        self.labels: list[Counter[int]] = []
        self.sizes: set[int] = set()
        if domains is None:
            return
        parts = (domains.truth, domains.test.labels, domains.target.labels)
        self.labels = [Counter(labels.tolist()) for labels in parts]
        self.sizes = {len(labels) for labels in parts}

    def leak(self, thing: object) -> str:
        """Return what is wrong with an object; "" = nothing."""
        if isinstance(thing, HOLDERS):
            return f"a {type(thing).__name__}"
        if isinstance(thing, str | bytes | PurePath) and MARK in str(thing):
            return f"the name {thing!r}"
        if isinstance(thing, np.ndarray | torch.Tensor) and thing.ndim == 1 and len(thing) in self.sizes:
            thing = thing.tolist()
        if not isinstance(thing, list | tuple) or len(thing) not in self.sizes:
            return ""
        return "labels" if all(type(v) is int for v in thing) and Counter(thing) in self.labels else ""


class Spy(Plugin):
    """Keeps a way to every secret that is in reach of any hook."""

    kind = "addon"

    def __init__(self) -> None:
        super().__init__("spy", Settings())
        self.secrets = Secrets()
        self.leaks: list[str] = []
        self.asked: Counter[str] = Counter()
        self.tested: list[torch.Tensor] = []
        self.kept: list[object] = []

    def look(self, hook: str, **handed: object) -> None:
        self.asked[hook] += 1
        for way, thing in reachable(handed):
            if found := self.secrets.leak(thing):
                self.leaks.append(f"{hook}: {way} is {found}")

    @hookimpl(wrapper=True)
    def build_model(self, config, num_classes, task):
        self.look("build_model", config=config, num_classes=num_classes, task=task)
        model = yield
        self.look("build_model", model=model)
        return model

    @hookimpl
    def request_views(self, config):
        self.look("request_views", config=config)
        return [ViewRequest("target", "weak", "weak")]

    @hookimpl(wrapper=True)
    def plan(self, config, model, datasets, task):
        self.look("plan", config=config, model=model, datasets=datasets, task=task)
        return (yield)

    @hookimpl(wrapper=True)
    def build_sampler(self, config, model, dataset, side, clock):
        self.look("build_sampler", config=config, model=model, dataset=dataset, side=side, clock=clock)
        return (yield)

    @hookimpl
    def refresh(self, model, clock, encode_dataset, task):
        self.kept.append(encode_dataset)
        self.look("refresh", model=model, clock=clock, encode_dataset=encode_dataset, task=task)
        sides = ["target", *(["source"] if task.sources else [])]
        self.look("refresh", **{side: encode_dataset(side) for side in sides})

    @hookimpl(wrapper=True)
    def encode(self, model, batch, view, clock, side, purpose):
        self.look("encode", model=model, batch=batch, view=view, clock=clock, side=side, purpose=purpose)
        if purpose != "train":
            self.tested.append(batch.images[PLAIN].amax((1, 2, 3)))
        return (yield)

    @hookimpl(wrapper=True)
    def pseudo_label(self, model, batch, encoded, clock):
        self.look("pseudo_label", model=model, batch=batch, encoded=encoded, clock=clock)
        return (yield)

    @hookimpl
    def align(self, model, batch, encoded, pseudo, clock):
        self.look("align", model=model, batch=batch, encoded=encoded, pseudo=pseudo, clock=clock)
        return []

    @hookimpl
    def loss(self, model, batch, encoded, pseudo, clock):
        self.look("loss", model=model, batch=batch, encoded=encoded, pseudo=pseudo, clock=clock)
        return []

    @hookimpl(wrapper=True)
    def backward(self, model, closure, clock):
        self.look("backward", model=model, closure=closure, clock=clock)
        return (yield)

    @hookimpl(wrapper=True)
    def predict(self, model, encoded):
        self.look("predict", model=model, encoded=encoded)
        return (yield)

    @hookimpl
    def after_step(self, model, report, clock):
        self.look("after_step", model=model, report=report, clock=clock)

    @hookimpl
    def after_run(self, result):
        self.look("after_run", result=result)


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> str:
    """Write a target whose names all hold MARK, classes by brightness and files sorted by class; return its SPEC."""
    root = tmp_path_factory.mktemp(f"{MARK}-data")
    rng = np.random.default_rng(0)
    names, units = [], ["path,AU01,AU02,AU04,AU06,AU12,FaceScore"]
    for number, (name, count) in enumerate(zip(CLASSES, COUNTS, strict=True)):
        names.append(f'"{MARK}-{number}" = "{name}"')
        (root / f"faces/{MARK}-{number}").mkdir(parents=True)
        for i in range(count):
            path = root / f"faces/{MARK}-{number}/{MARK}-{i}.png"
            pixels = rng.integers(0, 20 + 30 * number, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
            units.append(f"{path},{','.join(map(str, rng.random(5).round(2)))},1")
    (root / f"{MARK}.toml").write_text("\n".join(names))
    (root / f"{MARK}-au.csv").write_text("\n".join(units))
    return f"folder:{root}/faces?names={root}/{MARK}.toml&name={MARK}"


def spied(names, tiny, target, path, listener, **data):
    """Run plugins with a spy beside them on a planted target; return the run's parts and the spy."""
    layer = {"data": {"target": target, "target_batch": 8, **data}, "train": {"steps": 4, "eval_every": 2}}
    layers = [tiny, layer]
    plugin = load_class(installed_plugins()[names[0]])
    if not plugin.needs_source:
        alone = {"data": {"sources": []}, "model": {"init": str(tiny_model())}}
        if "diversity" in plugin.Settings.model_fields:
            alone[names[0]] = {"diversity": 0.0}  # the planted images are noise, which a model calls one class
        layers = with_initial([{**tiny, "model": {}}, layer, alone])
    resolved, spy = assemble(names, layers), Spy()
    info = PluginInfo("spy", "tests:Spy", "tests", "0", "")
    resolved = ResolvedRun(resolved.config, (*resolved.plugins, spy), (*resolved.infos, info))
    spy.secrets = Secrets(load_domains(resolved.config.data, seed=resolved.config.seed))
    context = build_context(resolved)
    run(context, path / "run", listener())
    return context, spy


METHODS = [name for name, info in installed_plugins().items() if load_class(info).kind == "method"]
ALONE = [name for name in METHODS if not load_class(installed_plugins()[name]).needs_source]
METHODS = [name for name in METHODS if name not in ALONE]
ADDONS = [("source_only", name) for name, info in installed_plugins().items() if load_class(info).kind == "addon"]
TRIED = [
    pytest.param(
        names, few, marks=pytest.mark.soak if few and names[-1] not in CHOSEN else (), id="+".join(names) + kind
    )
    for names in [*((name,) for name in METHODS), *ADDONS]
    for few, kind in ((False, "-none"), (True, "-shots"))
]


@pytest.mark.slow
@pytest.mark.parametrize(("names", "few"), TRIED)
def test_no_hook_hands_over_what_leads_to_a_label_or_a_path(names, few, planted, tiny, tmp_path, listener):
    target = f"{planted}&shots=1" if few else planted
    if "adafer" in names:
        target += f"&au={planted.partition(':')[2].partition('/faces')[0]}/{MARK}-au.csv"
    context, spy = spied(names, tiny, target, tmp_path, listener)
    assert spy.leaks == []
    assert spy.asked.keys() == set(HOOKS)
    assert (context.domains.truth >= 0).all()
    assert len(context.domains.sources) == 2 + few


@pytest.mark.slow
@pytest.mark.parametrize("name", ALONE)
def test_no_hook_of_a_method_without_a_source_is_handed_it_either(name, planted, tiny, tmp_path, listener):
    context, spy = spied([name], tiny, planted, tmp_path, listener)
    assert spy.leaks == []
    assert {"build_model", "encode", "predict"} <= spy.asked.keys()
    assert len(context.domains.sources) == 0


def test_a_spy_implements_every_hook():
    wrapped = {name for name in HOOKS if getattr(Spy, name).fercore_impl["wrapper"]}
    assert wrapped == set(FIRST_RESULT)


KEPT: dict[str, object] = {}


class Link:
    """Holds something in a slot."""

    __slots__ = ("__weakref__", "held")

    def __init__(self, held: object) -> None:
        self.held = held

    def read(self) -> object:
        return self.held


@pytest.mark.parametrize(
    "hide",
    [
        lambda secret: lambda: secret,
        lambda secret: functools.partial(print, secret),
        lambda secret: [secret].__iter__(),
        lambda secret: map(print, [secret]),
        lambda secret: (x for x in [secret]),
        lambda secret: {"a": [(secret,)]},
        lambda secret: {secret: 1},
        lambda secret: types.SimpleNamespace(a=secret),
        lambda secret: types.SimpleNamespace(a=types.SimpleNamespace(b=secret)).__repr__,
        Link,
        lambda secret: Link(secret).read,
        lambda secret: weakref.ref(KEPT.setdefault(str(secret), Link(secret))),
        lambda secret: np.array([secret], dtype=object),
    ],
)
@pytest.mark.parametrize("secret", [f"/a/{MARK}", PurePath(MARK), FileReader(())])
def test_a_spy_finds_what_is_hidden(hide, secret):
    spy = Spy()
    spy.look("x", thing=hide(secret))
    assert spy.leaks


def test_a_spy_knows_labels_in_any_order(planted, tiny):
    data = assemble(["source_only"], [tiny, {"data": {"target": planted}}]).config.data
    domains = load_domains(data, seed=0)
    spy = Spy()
    spy.secrets = Secrets(domains)
    shuffled = np.random.default_rng(0).permutation(domains.truth)
    for labels in (shuffled, torch.from_numpy(shuffled), shuffled.tolist(), domains.target.labels[::-1]):
        spy.leaks = []
        spy.look("x", thing=[labels])
        assert spy.leaks
    spy.leaks = []
    spy.look("x", thing=[domains.truth * 0, domains.truth[:-1].copy(), np.full(len(domains.truth), -1)])
    assert spy.leaks == []


@pytest.mark.slow
def test_the_order_of_test_images_says_nothing_about_their_class(planted, tiny, tmp_path, listener):
    context, spy = spied(["source_only"], tiny, planted, tmp_path, listener)
    assert (np.diff(context.domains.test.labels) >= 0).all()  # as files are listed
    brightness = torch.cat(spy.tested[-8:])[-len(context.domains.test) :]
    ranks = np.argsort(np.argsort(brightness.numpy()))
    assert abs(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) < 0.5


@pytest.mark.slow
def test_encode_dataset_is_dead_outside_refresh(planted, tiny, tmp_path, listener):
    _, spy = spied(["source_only"], tiny, planted, tmp_path, listener)
    assert set(spy.kept) == {the_handed_function}
    with pytest.raises(HookError, match="works inside `refresh` alone"):
        spy.kept[0]("target")


@pytest.mark.parametrize(
    ("spec", "left"),
    [
        ("folder:/data/clinic?names=/data/names.toml&shots=5&seed=3", r"folder:[0-9a-f]{16}\?shots=5"),
        ("rafdb:/data/RAF?labels=100&label_rule=equal", r"rafdb:[0-9a-f]{16}\?labels=100&label_rule=equal"),
        ("folder:/data/RAF?label_file=/data/x.json&au=/data/a", r"folder:.{16}\?label_file=[^/]{16}&au=[^/]{16}"),
        ("list:a.txt?labels=rafdb&root=/data&transductive=true", r"list:[0-9a-f]{16}\?transductive=true"),
        ("synthfer:wild?n=70&seed=1", "synthfer:[0-9a-f]{16}"),
        ("lacmfer:/data/x?domain=raf&include_labelled=true", r"lacmfer:.{16}\?domain=raf&include_labelled=true"),
    ],
)
def test_a_spec_without_its_place(spec, left):
    found = unplaced(parse_spec(spec))
    assert re.fullmatch(left, found.text)
    assert found == unplaced(parse_spec(f" {spec}"))
    other = f"{spec}&split=train" if "?" in spec else f"{spec}?split=train"
    assert found != unplaced(parse_spec(other))


def test_settings_keep_what_methods_go_by(tiny):
    class Ear(SourceOnly):
        heard: list = []

        @hookimpl
        def plan(self, config):
            self.heard.append(config.data)

    data = {"data": {**tiny["data"], "target": "folder:/data/a?shots=2", "au": "/data/au.csv", "cache_dir": "/data/c"}}
    config = assemble(["source_only"], [tiny, data]).config
    Plugins([], [Ear("ear", SourceOnly.Settings())], {})._call("plan", config=config, model=None, datasets={})
    (handed,) = Ear.heard
    assert handed.task(0).few_shot_domain == config.task.few_shot_domain == 2
    assert handed.source_step == config.data.source_step
    assert "/data" not in repr(handed)
    assert (handed.au is None, config.data.au) == (False, "/data/au.csv")
