"""What an export says of itself: its classes, what it takes, where it comes from, and whose terms it stands under."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fercore.data.spec import DomainSpec
from fercore.datasets.facts import FACTS
from fercore.engine.model_record import WEIGHTS, ModelRecord
from fercore.export.graph import Pixels
from fercore.files import sha256_of
from fercore.terminal import printable

SCALES: dict[Pixels, str] = {
    "float": "float32 RGB in 0..1",
    "uint8": "uint8 RGB in 0..255",
    "emotiefflib": "float32 RGB as EmotiEffLib normalises it",
}


def title_of(spec: DomainSpec) -> str:
    """Return what a dataset is called: its published name, else the format it was read in."""
    name = spec.format
    return FACTS[name].title if name in FACTS else name


def licence_notes(record: ModelRecord) -> list[str]:
    """Return a line for each dataset of the run on where its terms stand, and one on weights from elsewhere."""
    notes = []
    for domain in (*record.provenance.sources, record.provenance.target):
        name = domain.spec.format
        if name in FACTS:
            notes.append(f"{FACTS[name].title}: terms of use at {FACTS[name].page}")
        elif not domain.spec.generated:
            notes.append(f"dataset read as {name!r}: ask whoever it is from for its terms of use")
    network = record.settings.model
    if network.get("weights", "none") != "none":
        notes.append(f"backbone {network.get('backbone')} began from weights {network['weights']!r}: see their licence")
    return list(dict.fromkeys(notes)) or ["trained on generated faces alone"]


def describe(record: ModelRecord, folder: Path) -> dict[str, Any]:
    """Return what stands in every export: classes, images, plugins, digest of the weights, licences, versions."""
    return {
        "classes": record.classes,
        "size": record.images.size,
        "resize": record.images.resize,
        "plugins": [f"{plugin.name} ({plugin.distribution} {plugin.version})" for plugin in record.plugins],
        "weights_sha256": sha256_of(folder / WEIGHTS),
        "settings_sha256": record.provenance.settings_sha256,
        "licences": licence_notes(record),
        "versions": record.versions,
    }


def render(template: str, **values: Any) -> str:
    """Return a template of `templates/`, filled."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("fercore.export")
    places = Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    places.filters.update(md=markdown, title=title_of)
    return places.get_template(f"{template}.jinja").render(values)


def markdown(text: object) -> str:
    """Return a text as it stands, in Markdown: names of others set no table, link or tag."""
    return re.sub(r"([\\`*_{}\[\]<>()#|!~])", r"\\\1", printable(str(text)))
