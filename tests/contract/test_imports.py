"""Imports run one way, the step is the only caller of the core hooks, and the command line answers at once."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

from fercore.hooks.checks import HOOKS

ROOT = Path(__file__).parents[2]
CORE = [path for path in (ROOT / "fercore").rglob("*.py")]


def test_import_direction():
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_core_names_no_plugin():
    plugins = [path.name for path in (ROOT / "plugins").iterdir() if path.is_dir()]
    named = [
        f"{path.name}: {name}"
        for path in CORE
        for name in plugins
        if re.search(rf"\bfercore_{name}\b", path.read_text())
    ]
    assert named == []


def test_the_engine_names_no_method():
    """Neither a package nor a plugin of this repository, however it is written."""
    names = {path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")}
    for path in ROOT.glob("plugins/*/pyproject.toml"):
        names |= set(tomllib.loads(path.read_text(encoding="utf-8"))["project"]["entry-points"]["fercore.plugins"])
    written = "|".join(
        sorted(name.replace("_", "[-_ ]?") for name in names - set(HOOKS))
    )  # a plugin is called as a hook
    found = [
        f"{path.name}: {match[0]}"
        for path in (ROOT / "fercore/engine").glob("*.py")
        for match in re.finditer(rf"(?<![\w.])({written})(?![\w(])", path.read_text(encoding="utf-8"), re.I)
    ]
    assert found == []


STABLE = ("fercore.plugin", "fercore.losses", "fercore.models", "fercore.ops", "fercore.retrieval")


def imports(path):
    """Return the modules that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from ([node.module] if node.module != "fercore" else [f"fercore.{a.name}" for a in node.names])
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("plugin", sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")))
def test_a_plugin_imports_itself_and_what_is_stable(plugin):
    files = list((ROOT / "plugins" / plugin).rglob("*.py"))
    assert files
    allowed = (f"fercore_{plugin}", *STABLE)
    other = {
        f"{path.name}: {module}"
        for path in files
        for module in imports(path)
        if module.startswith("fercore") and not f"{module}.".startswith(tuple(f"{name}." for name in allowed))
    }
    assert other == set()


def test_what_a_plugin_may_import_is_there_once():
    from fercore import plugin

    assert all(hasattr(plugin, name) for name in plugin.__all__)
    assert len(set(plugin.__all__)) == len(plugin.__all__)


def test_one_file_calls_the_core_hooks():
    pattern = re.compile(r"plugins\.(pseudo_label|align|loss)\(")
    callers = {path.name for path in (ROOT / "fercore/engine").glob("*.py") if pattern.search(path.read_text())}
    assert callers == {"step.py"}


@pytest.mark.parametrize(
    "module",
    [
        "fercore",
        "fercore.cli",
        "fercore.hooks.discovery",
        "fercore.experiments.comparison",
        "fercore.console",
        "fercore.api",
    ],
)
def test_light_modules_leave_torch_alone(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_alone_is_there_at_once():
    """Under 0.15 s: the fastest of some is the package's own, the others the machine's."""
    code = "import time; t = time.perf_counter(); import fercore; print(time.perf_counter() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    assert min(float(done.stdout) for done in runs) < 0.15


HEAVY = (
    "faiss", "lightning_fabric", "numba", "open_clip", "scipy", "sklearn", "tensorboard", "timm", "torchvision",
    "torch._dynamo", "triton",
)  # fmt: skip


def test_the_engine_imports_little_but_torch():
    """Each of these costs 0.1 to 1.2 s of CPU time; a run imports those it needs once its settings are checked."""
    modules = "sys, fercore.engine.run, fercore.engine.describe"
    code = f"import {modules}; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_what_is_printed_goes_through_one_function():
    """Names of others may hold orders to the terminal; `fercore.terminal`, `console` and `progress` write them out."""
    for path in CORE:
        text = path.read_text(encoding="utf-8")
        if path.name not in ("terminal.py", "console.py", "progress.py") and "ops" not in path.parts:
            assert not re.search(r"(?<![\w.])(print|typer\.echo|console\.print|sys\.std(out|err)\.write)\(", text), path


def test_no_pickle_and_no_eval_in_the_library():
    for path in CORE:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])(pickle\.load|eval|exec)\(", text.replace(".eval()", "")), path
        assert not re.search(r"torch\.load\((?![^)]*weights_only=True)", text), path


def test_no_module_needs_itself():
    """No cycle of imports, those inside functions and for types included."""
    graph = grimp.build_graph("fercore", cache_dir=None)
    needs = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert len(needs) > 200
    list(TopologicalSorter(needs).static_order())  # raises CycleError, which names the modules
