"""Where data lies, written so that it means the same from every folder: a run goes on wherever one stands."""

from __future__ import annotations

import os

from fercore.config import DataSettings
from fercore.data.spec import DomainSpec, parse_spec, spec_text, split_spec
from fercore.files import absolute


def absolute_settings(data: DataSettings) -> DataSettings:
    """Return settings of data in which every path is absolute.

    Raises:
        UserInputError: for a spec that cannot be read.
    """
    update = {
        "sources": tuple(map(absolute_spec, data.sources)),
        "target": absolute_spec(data.target),
        "au": data.au and absolute_units(data.au),
    }
    return data.model_copy(update=update)


def absolute_spec(text: str) -> str:
    """Return a spec whose path, and those of its options, are absolute; all else as it was written.

    Raises:
        UserInputError: as `parse_spec`.
    """
    spec = parse_spec(text)
    form, path, tail = split_spec(spec.text)
    if spec.format != "synthfer":
        path = spec_text(absolute(spec.path))
    pairs = [_absolute_option(pair, spec) for pair in tail.split("&")]
    return f"{form}:{path}" + (f"?{'&'.join(pairs)}" if tail else "")


def _absolute_option(pair: str, spec: DomainSpec) -> str:
    name = pair.partition("=")[0]
    if name in spec.paths:
        return f"{name}={spec_text(absolute(spec.options[name]))}"
    return f"{name}={spec_text(absolute_units(spec.options[name]))}" if name == "au" else pair


def absolute_units(provider: str) -> str:
    """Return what says which action units images show, an absolute path where it is one."""
    is_path = provider.lower().endswith((".csv", ".safetensors")) or os.path.isdir(os.path.expanduser(provider))
    return absolute(provider) if is_path else provider
