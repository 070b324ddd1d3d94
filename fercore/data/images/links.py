"""Links in a dataset: one that leads out of its folder is refused, for an unpacked archive is data from elsewhere."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from fercore.data.cache.files import FileBacked
from fercore.data.formats.reading.scan import user_path
from fercore.data.images.readers import Reader
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError


def refuse_links_out(spec: DomainSpec, reader: Reader) -> None:
    """Check that every image file really lies in the dataset's folder, links followed.

    Nothing is checked with `links=follow`, or where `root=` says that the paths of a list are trusted.

    Raises:
        UserInputError: for the first file that lies elsewhere; names it.
    """
    follow = spec.choice("links", ("refuse", "follow"), "refuse") == "follow"
    if follow or not isinstance(reader, FileBacked) or "root" in spec.options:
        return
    path = user_path(spec.path)
    start = path if path.is_dir() else path.parent
    # The lists of LA-CMFER lie beside the images.
    bases = [start.parent if spec.format == "lacmfer" else start]
    bases += [user_path(spec.options[name]) for name in spec.paths]  # folders of the user's own choice
    allowed = tuple(os.path.realpath(base) for base in bases)

    # One realpath a folder: a dataset has many files in few folders. A file that is a link itself is resolved alone.
    @cache
    def inside(folder: str) -> bool:
        return _under(os.path.realpath(folder), allowed)

    for file in reader.paths:
        good = _under(os.path.realpath(file), allowed) if os.path.islink(file) else inside(os.path.dirname(file))
        if not good:
            fix = "put the file itself there, or add ?links=follow to say that you trust it"
            raise UserInputError("link that leads out of the dataset's folder", where=str(Path(file)), fix=fix)


def _under(path: str, bases: tuple[str, ...]) -> bool:
    # The separator matters: /data/set2 is not inside /data/set.
    return any(path == base or path.startswith(base.rstrip(os.sep) + os.sep) for base in bases)
