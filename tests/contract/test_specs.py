"""A SPEC is text on the command line, in settings files and in reports; between them it is a `DomainSpec`.

And `encode` is told whose samples it has and what for: nobody reads that off a view's name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fercore.builtin.supervised import SourceOnly
from fercore.data.spec import FORMATS
from fercore.engine.run import run
from fercore.engine.setup import build_context
from fercore.hooks import hookimpl
from fercore.hooks.assemble import assemble
from fercore.records.step import PLAIN

ROOT = Path(__file__).parents[2]
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for folder in ("fercore", "plugins")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "build" not in path.parts
}
HOME = "fercore/data/spec/"
READERS = {"parse_spec", "as_spec", "is_spec", "folder_or_spec"}
BOUNDARY = (
    "fercore/api/", "fercore/arguments.py", "fercore/cli/", "fercore/config/settings.py",
    "fercore/prediction/inputs.py", "fercore/testing/tiny.py", "fercore/data/__init__.py", "fercore/plugin/__init__.py",
    "plugins/pca/fercore_pca/commands.py", "plugins/pca/fercore_pca/warmup.py",
)  # fmt: skip
"""Where text of users and of defaults becomes a `DomainSpec`, and the two lists of names that packages import from."""
STRINGS = {"startswith", "endswith", "partition", "rpartition", "split", "rsplit", "replace", "removeprefix", "find"}
TEXT_OF_SPEC = re.compile(r"(^|\W)(spec|(data|settings|task|protocol)\.target)(\.text)?\)?$")
WRITTEN = re.compile(rf"({'|'.join(FORMATS)}):(?!\s)")


def readers(code: str) -> set[str]:
    """Return the names in a file that read SPEC text."""
    named = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    named |= {node.attr for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute)}
    return named & READERS


def handled_as_text(code: str) -> list[str]:
    """Return the string operations on SPECs in a file, and texts that begin as one."""
    tree = ast.parse(code)
    found = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in STRINGS and TEXT_OF_SPEC.search(ast.unparse(node.func.value))
    ]
    notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return found + [node.value for node in texts if id(node) not in notes and WRITTEN.match(node.value)]


def views_by_name(code: str, *, core: bool) -> list[str]:
    """Return where a file goes by a view's name: comparisons in `encode`, and in the core images under a fixed one."""
    tree = ast.parse(code)
    hooks = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "encode")
    inside = [node for hook in hooks for node in ast.walk(hook)]
    found: list[ast.AST] = [n for n in inside if isinstance(n, ast.Compare) and "view" in names(n)]
    found += [n for n in inside if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "view"]
    if core:
        keys = (node for node in ast.walk(tree) if isinstance(node, ast.Subscript))
        found += [
            n
            for n in keys
            if "images" in ast.unparse(n.value) and isinstance(n.slice, ast.Constant) and isinstance(n.slice.value, str)
        ]
    return [ast.unparse(node) for node in found]


def names(node: ast.AST) -> Iterator[str]:
    return (n.id for n in ast.walk(node) if isinstance(n, ast.Name))


def test_spec_text_is_read_at_the_boundary_alone():
    outside = {path: readers(code) for path, code in SOURCES.items() if not path.startswith((HOME, *BOUNDARY))}
    assert {path: found for path, found in outside.items() if found} == {}
    assert all(any(path.startswith(place) for path in SOURCES) for place in BOUNDARY)


def test_no_spec_is_handled_as_text():
    outside = {path: handled_as_text(code) for path, code in SOURCES.items() if not path.startswith((HOME, *BOUNDARY))}
    assert {path: found for path, found in outside.items() if found} == {}


def test_no_view_is_known_by_its_name():
    found = {path: views_by_name(code, core=path.startswith("fercore/")) for path, code in SOURCES.items()}
    assert {path: where for path, where in found.items() if where} == {}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("spec = parse_spec(text)", readers),
        ("fercore.data.spec.parse_spec(text)", readers),
        ("spec.startswith('x')", handled_as_text),
        ("str(settings.target).partition('?')", handled_as_text),
        ("data.target.text.split('&')", handled_as_text),
        ("f'folder:{path}?split=test'", handled_as_text),
        ("def encode(self, view):\n    return view == 'none'", lambda code: views_by_name(code, core=False)),
        ("def encode(self, view):\n    return view.startswith('x')", lambda code: views_by_name(code, core=False)),
        ("batch.images['none']", lambda code: views_by_name(code, core=True)),
    ],
)
def test_these_tests_see_what_they_look_for(code, found):
    assert found(code)


def test_encode_is_told_its_side_and_purpose(tiny, tmp_path, listener):
    heard = []

    class Ear(SourceOnly):
        joint_forward = False

        @hookimpl
        def refresh(self, clock, encode_dataset, task):
            if clock.epoch == 0:
                heard.append(task)
                encode_dataset("target")
                encode_dataset("source")

        @hookimpl
        def encode(self, model, batch, view, side, purpose):
            heard.append((side, purpose, view, len(batch) if purpose == "train" else 0))
            return model(batch.images[view])

    layers = [tiny, {"train": {"steps": 1}}]
    resolved = assemble(["source_only"], layers)
    plugin = Ear("source_only", SourceOnly.Settings())
    context = build_context(type(resolved)(**{**vars(resolved), "plugins": (plugin,)}))
    run(context, tmp_path / "run", listener())
    task, *calls = heard
    assert task == context.task
    assert (task.batch.source, task.batch.target, task.target.n) == (28, 14, len(context.domains.adaptation))
    order = list(dict.fromkeys(calls))
    assert order == [
        ("target", "refresh", PLAIN, 0), ("source", "refresh", PLAIN, 0), ("source", "train", "weak", 28),
        ("target", "evaluate", PLAIN, 0), ("source", "evaluate", PLAIN, 0),
    ]  # fmt: skip
