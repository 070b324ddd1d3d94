"""Things that are chosen by name: the built-in ones, and those that installed packages add by an entry point."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from fercore.errors import UserInputError

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """A table that packages add to: `[project.entry-points."fercore.<group>"]`, NAME = "module:thing".

    Names are known without an import; a package is imported when its thing is taken. A built-in name stays built in.

    Args:
        group: of the entry points. builtin: name -> thing.
    """

    def __init__(self, group: str, builtin: Mapping[str, T]) -> None:
        self.group, self.builtin = group, dict(builtin)

    def added(self) -> dict[str, importlib.metadata.EntryPoint]:
        """Return what packages add, by name."""
        points = importlib.metadata.entry_points(group=self.group)
        return {point.name: point for point in points if point.name not in self.builtin}

    def __getitem__(self, name: str) -> T:
        if name in self.builtin:
            return self.builtin[name]
        point = self.added()[name]
        try:
            thing: T = point.load()
        except Exception as error:
            what = f"{name!r} of {self.group} does not import: {type(error).__name__}: {error}"
            raise UserInputError(what, where=point.value, fix="repair or reinstall that package") from error
        return thing

    def __contains__(self, name: object) -> bool:
        return name in self.builtin or name in self.added()

    def __iter__(self) -> Iterator[str]:
        yield from self.builtin
        yield from self.added()

    def __len__(self) -> int:
        return len(list(iter(self)))


def one_of(name: str, registry: Registry[Any], own: tuple[str, ...]) -> str:
    """Return a name that a setting may have: one of `own`, or one that a package adds.

    Raises:
        ValueError: naming all of them.
    """
    names = (*own, *registry.added()) if name not in own else own
    if name not in names:
        *others, last = map(repr, names)
        raise ValueError(f"input should be {', '.join(others)} or {last}")
    return name
