"""What a plugin is and is for, read from the source of its class: listing imports nothing."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fercore.hooks.discovery import PluginInfo

DEEPEST = 30
"""Names that are followed from a class to its bases, through the modules that import them."""


@dataclass(frozen=True)
class About:
    """A plugin in a line.

    Attributes:
        kind: "method", "addon", or "unknown" where there is no source to read.
        purpose: first sentence of the class's docstring, else its package's summary. paper: where it comes from, or "".
    """

    kind: str
    purpose: str
    paper: str


def about(info: PluginInfo) -> About:
    """Read a plugin's kind, purpose and paper, importing nothing of it."""
    module, _, name = info.target.partition(":")
    classes = list(_classes(module.strip(), name.strip()))
    said = ast.get_docstring(classes[0]) if classes else None
    purpose = _first_sentence(said or info.summary)
    return About(_constant(classes, "kind") or "unknown", purpose, _constant(classes, "paper"))


def said_of(info: PluginInfo) -> str:
    """Return what the docstring of an entry point's function says first, else its package's summary."""
    module, _, name = info.target.partition(":")
    tree = _parsed(module.strip())
    body = tree.body if tree else []
    named = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == name.strip()]
    said = ast.get_docstring(named[0]) if named else None
    return _first_sentence(said or info.summary) + "."


def plugin_lines(infos: Iterable[PluginInfo]) -> list[str]:
    """Return a line for each package and, below it, one for each of its plugins."""
    packages: dict[str, list[PluginInfo]] = {}
    for info in infos:
        packages.setdefault(f"{info.distribution} {info.version}: {info.summary}", []).append(info)
    lines: list[str] = []
    for head, members in packages.items():
        lines.append(head.strip().removesuffix(":"))
        for info in members:
            said = about(info)
            paper = f" ({said.paper})" if said.paper else ""
            lines.append(f"  {info.name:<18} {said.kind:<7} {said.purpose}{paper}")
    return lines


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    sentence, stop, _ = paragraph.partition(". ")
    return (sentence + stop).strip().removesuffix(".")


def _constant(classes: list[ast.ClassDef], name: str) -> str:
    """Return the text that the first class with such an attribute gives it, as inheritance would find it."""
    for each in classes:
        for statement in each.body:
            targets = statement.targets if isinstance(statement, ast.Assign) else []
            targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
            value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""
    return ""


def _classes(module: str, name: str, depth: int = DEEPEST) -> Iterator[ast.ClassDef]:
    """Yield a class and its bases, depth first, wherever their modules say that they come from."""
    tree = _parsed(module)
    if tree is None or depth == 0:
        return
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef) and statement.name == name:
            yield statement
            for base in statement.bases:
                if isinstance(base, ast.Name):
                    yield from _classes(module, base.id, depth - 1)
            return
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    yield from _classes(_absolute(module, statement), alias.name, depth - 1)
                    return


def _absolute(module: str, statement: ast.ImportFrom) -> str:
    if not statement.level:
        return statement.module or ""
    path = _file(module)
    package = module.split(".") if path is not None and path.name == "__init__.py" else module.split(".")[:-1]
    kept = package[: len(package) - statement.level + 1]
    return ".".join([*kept, statement.module] if statement.module else kept)


@lru_cache(maxsize=256)
def _parsed(module: str) -> ast.Module | None:
    path = _file(module)
    try:
        return None if path is None else ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


@lru_cache(maxsize=256)
def _file(module: str) -> Path | None:
    """Return a module's source file; only of a top-level name can Python be asked without importing a package."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for root in spec.submodule_search_locations or ():
        path = Path(root, *rest)
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None
