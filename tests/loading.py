"""What tests of the data open without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fercore.config import DataSettings, check_settings
from fercore.data import DomainSet
from fercore.data import load_domains as load_task
from fercore.data.spec import parse_spec
from fercore.datasets.check import check


def data_settings(**values: object) -> DataSettings:
    """Return settings of the data as a run checks them: a wrong SPEC is a `UserInputError`."""
    return check_settings(DataSettings, values, prefix="data")


def load_domains(settings: DataSettings, *, seed: int = 0, label_file: Path | None = None) -> DomainSet:
    """Read the domains that settings of the data name."""
    return load_task(settings.task(seed), settings, label_file=label_file)


def check_texts(specs: list[str], **arguments: Any) -> dict[str, Any]:
    """Look at the datasets that SPECs name."""
    return check([parse_spec(text) for text in specs], **arguments)
