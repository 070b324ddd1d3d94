"""Settings in words: the name, value, allowed values and meaning of each, and which layer gave the value."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from fercore.config.settings import Settings

DEFAULT = "default"
"""What gave a value that no layer has."""


@dataclass(frozen=True)
class SettingInfo:
    """One setting.

    Attributes:
        name: dotted, as --set takes it. value: as TOML text; "none" where it is not set.
        allowed: what it may be, in words. meaning: its description. origin: what gave the value.
    """

    name: str
    value: str
    allowed: str
    meaning: str
    origin: str = DEFAULT

    def matches(self, word: str) -> bool:
        """Return whether a word stands in its name, meaning or allowed values, in any case."""
        return word.lower() in f"{self.name} {self.meaning} {self.allowed}".lower()


def settings_of(
    section: Settings, layers: Sequence[tuple[str, Mapping[str, Any]]] = (), prefix: str = ""
) -> list[SettingInfo]:
    """Return every setting of a section and of the sections in it.

    Args:
        section: checked settings, whose values are told.
        layers: (origin, nested values) in the order in which they were laid, the last winning.
        prefix: where the section stands, "la_cmfer." for a plugin's.
    """
    return list(_walk(section, layers, prefix))


def _walk(section: BaseModel, layers: Sequence[tuple[str, Mapping[str, Any]]], prefix: str) -> Iterator[SettingInfo]:
    schema = type(section).model_json_schema(mode="serialization")
    values = section.model_dump(mode="json", by_alias=True)
    for attribute, info in type(section).model_fields.items():
        key, inner = info.alias or attribute, getattr(section, attribute)
        field = schema["properties"][key]
        if isinstance(inner, BaseModel):
            held = [(origin, layer[key]) for origin, layer in layers if isinstance(layer.get(key), Mapping)]
            yield from _walk(inner, held, f"{prefix}{key}.")
            continue
        origin = next((name for name, layer in reversed(layers) if key in layer), DEFAULT)
        allowed = allowed_values(field, schema.get("$defs", {}))
        yield SettingInfo(f"{prefix}{key}", _text(values[key]), allowed, meaning(type(section), attribute), origin)


def meaning(section: type[BaseModel], attribute: str) -> str:
    """Return a setting's description, or that of the setting of a base class whose default it changes; "" = none."""
    fields = (base.model_fields.get(attribute) for base in section.__mro__ if issubclass(base, BaseModel))
    return next((field.description for field in fields if field is not None and field.description), "")


def allowed_values(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Return in words what a field of a JSON schema may be: "anger | disgust", "number from 0 to 1"."""
    if "$ref" in field:
        return allowed_values(definitions[field["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(allowed_values(option, definitions) for option in field["anyOf"]))
    if "enum" in field:
        return " | ".join(map(_text, field["enum"]))
    if "const" in field:
        return _text(field["const"])
    return _of_type(field, definitions)


def _of_type(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    kind = field.get("type")
    if kind in ("integer", "number"):
        return f"{'whole number' if kind == 'integer' else 'number'}{_bounds(field)}"
    if kind == "array":
        items = field.get("prefixItems")
        if items:
            return f"list of {len(items)}: {allowed_values(items[0], definitions)}"
        return f"list of {allowed_values(field.get('items', {}), definitions)}"
    if kind == "object":
        return "table" if not isinstance(of := field.get("additionalProperties"), Mapping) else f"table of {_plain(of)}"
    return {"boolean": "true | false", "null": "none", "string": "text"}.get(str(kind), "any value")


def _plain(field: Mapping[str, Any]) -> str:
    return {"number": "numbers", "integer": "whole numbers", "string": "texts"}.get(str(field.get("type")), "tables")


def _bounds(field: Mapping[str, Any]) -> str:
    low, high = field.get("minimum"), field.get("maximum")
    above, below = field.get("exclusiveMinimum"), field.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    words = [("at least", low), ("above", above), ("at most", high), ("below", below)]
    told = [f"{word} {bound}" for word, bound in words if bound is not None]
    return f" {' and '.join(told)}" if told else ""


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def setting_lines(settings: Iterable[SettingInfo], *, indent: str = "") -> list[str]:
    """Return two lines for each setting: name, value, allowed values and origin; below them its meaning."""
    lines: list[str] = []
    for one in settings:
        origin = "" if one.origin == DEFAULT else f"   (from {one.origin})"
        lines.append(f"{indent}{one.name} = {one.value}   [{one.allowed}]{origin}")
        lines.append(f"{indent}    {one.meaning}")
    return lines
