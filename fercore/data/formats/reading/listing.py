"""Finding the files that a list names, also where it was written on another machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fercore.data.formats.reading.scan import existing, safe_path
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError


@dataclass
class Listing:
    """The folder that listed paths start from.

    Attributes:
        base: the folder.
        trusted: whether the user named it (`root=`): paths may then lead anywhere, and one that leads to no file is
            looked for below the folder by its end, the longest one first.
        listed_paths: file -> path as listed, and whether it was found by the end of that.
    """

    base: Path
    trusted: bool = False
    listed_paths: dict[str, tuple[str, bool]] = field(default_factory=dict)

    def file(self, text: str, where: str) -> str:
        """Return the file that a listed path means; it may be missing.

        Raises:
            UserInputError: as `safe_path`, or if two paths would be one file only because of how they end.
        """
        named = safe_path(text, self.base, trusted=self.trusted, where=where)
        if not self.trusted:
            return named
        file = next((path for path in (named, *self._below(text)) if os.path.isfile(path)), "")
        if not file:
            return named
        path, by_end = self.listed_paths.setdefault(file, (text, file != named))
        # Two paths that end alike must not become one file: labels of different images would meet on it.
        if path != text and (by_end or file != named):
            what = f"{path!r} and {text!r} are both found as {file}"
            raise UserInputError(what, where=where, fix="give a ?root= that tells them apart")
        return file

    def by_end(self) -> list[str]:
        """Return "PATH as FILE" for every file that was found by the end of a listed path."""
        return [f"{path!r} as {file}" for file, (path, by_end) in self.listed_paths.items() if by_end]

    def _below(self, text: str) -> Iterator[str]:
        """Yield files below the folder by the ends of a path, the longest first."""
        parts = [part for part in text.strip().replace("\\", "/").split("/") if part not in ("", ".")]
        for start in range(1, len(parts)):
            if ".." not in parts[start:]:
                yield os.path.join(self.base, *parts[start:])


def listing(spec: DomainSpec, default: Path) -> Listing:
    """Return where a spec's listed paths start: in `root=`, else in `default`.

    Raises:
        UserInputError: if `root=` is no folder.
    """
    root = spec.options.get("root")
    return Listing(default) if root is None else Listing(existing(root, folder=True, where=spec.where), trusted=True)
