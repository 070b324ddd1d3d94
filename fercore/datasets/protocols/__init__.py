"""The papers' protocols as named TOML files: what trains with labels, what adapts without, what is tested.

A file stands here as FAMILY/NAME.toml, or anywhere as a path. `{root}` in a spec is the folder that holds the datasets,
each under its name: RAF-DB, FER2013, FERPlus, AffectNet, CK+, JAFFE, Oulu-CASIA, SFEW, ExpW, NVIE (with nvie.csv),
LA-CMFER, CD-FER. `NAME@SOURCE` takes one of a protocol's sources alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from fercore.config import Settings, Spec, check_settings, read_toml
from fercore.data.formats.reading.scan import user_path
from fercore.data.labels import canonical_label
from fercore.data.spec import DomainSpec
from fercore.datasets.facts import FACTS
from fercore.errors import UserInputError, did_you_mean
from fercore.files import absolute, no_file

HERE = Path(__file__).parent


class Protocol(Settings):
    """A protocol; the fields are the file's keys."""

    title: str
    paper: str
    sources: dict[str, Spec] = Field(min_length=1, description="name -> spec")
    target: Spec
    transductive: bool
    classes: tuple[str, ...] = Field(min_length=2)
    metrics: tuple[str, ...] = Field(
        ("accuracy",), min_length=1, description="what the paper reports, the first foremost"
    )
    n_test: int | None = Field(None, ge=1, description="test images, where the paper or the set fixes them")
    adaptation: str = Field("", description="the unlabelled images, in words")
    test: str = Field("", description="the test images, in words")
    note: str = ""
    settings: dict[str, Any] = Field(default_factory=dict, description="further settings of a run")
    methods: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="plugin -> its settings under this protocol, where it is in the run"
    )


def protocol_names() -> list[str]:
    """Return the names of all protocols that come with fercore, sorted."""
    return sorted(path.relative_to(HERE).with_suffix("").as_posix() for path in HERE.glob("*/*.toml"))


def load_protocol(name: str) -> Protocol:
    """Return a protocol by name, or from a TOML file, sources narrowed to those after an "@".

    Raises:
        UserInputError: for an unknown name or source, or a file whose keys, classes or specs are wrong.
    """
    base, wanted = _parts(name)
    names = protocol_names()
    if base in names:
        path = HERE / f"{base}.toml"
    elif base.endswith(".toml"):
        path = user_path(base)
    else:
        raise UserInputError(f"unknown protocol {base!r}", where="--protocol", fix=did_you_mean(base, names))
    if not path.is_file():
        raise no_file(path, "protocol file", fix="check --protocol")
    try:
        protocol = check_settings(Protocol, read_toml(path), prefix="")
    except UserInputError as error:
        where = error.where if str(path) in error.where else str(path)
        raise UserInputError(error.what, where=where, fix=error.fix) from None
    _check(protocol, str(path))
    return protocol if wanted is None else _narrowed(protocol, wanted, path.name)


def _parts(name: str) -> tuple[str, str | None]:
    """Return a protocol's name or file, and the source after an "@"; folders may have one in their names."""
    base, at, wanted = name.rpartition("@")
    return (base, wanted) if at and not name.endswith(".toml") else (name, None)


def absolute_protocol(name: str) -> str:
    """Return a protocol's name; of one that is a file its absolute path."""
    base, wanted = _parts(name)
    if not base.endswith(".toml"):
        return name
    return absolute(base) + ("" if wanted is None else f"@{wanted}")


def _narrowed(protocol: Protocol, wanted: str, where: str) -> Protocol:
    chosen = [part.strip() for part in wanted.split(",")]
    for part in chosen:
        if part not in protocol.sources:
            raise UserInputError(f"no source {part!r}", where=where, fix=did_you_mean(part, protocol.sources))
    return protocol.model_copy(update={"sources": {part: protocol.sources[part] for part in chosen}})


def _check(protocol: Protocol, where: str) -> None:
    for label in protocol.classes:
        canonical_label(label, where=where)
    if not isinstance(protocol.settings.get("data", {}), Mapping):
        raise UserInputError("settings.data is no table", where=where, fix="write [settings.data] and its keys below")
    # Stated twice on purpose: whether test images are adapted to changes what the numbers mean.
    if protocol.target.flag("transductive") != protocol.transductive:
        fix = "write both, or neither"
        raise UserInputError("transductive differs between the protocol and its target", where=where, fix=fix)


def protocol_layer(protocol: Protocol, root: Path | None) -> dict[str, Any]:
    """Return the settings of a run under a protocol.

    Args:
        protocol: a loaded one. root: the folder that holds the datasets; None if no spec has "{root}".

    Raises:
        UserInputError: if the folder is missing, or datasets in it are; names all of them and where to ask for them.
    """
    specs = [*protocol.sources.values(), protocol.target]
    if any(spec.below_root for spec in specs):
        if root is None:
            fix = "add --data-root DIR, the folder that holds the datasets"
            raise UserInputError("a protocol needs the data", where="--protocol", fix=fix)
        if not root.is_dir():
            raise UserInputError("no such folder", where=f"--data-root {root}")
        placed = [spec.under(root) for spec in specs]
        _refuse_missing([spec for spec, was in zip(placed, specs, strict=True) if was.below_root], root)
        specs = placed
    data: dict[str, Any] = {"sources": specs[:-1], "target": specs[-1], "classes": list(protocol.classes)}
    settings = dict(protocol.settings)
    more = settings.pop("data", {})
    methods = {"methods": protocol.methods} if protocol.methods else {}
    # The protocol's specs and classes go before what its own table of settings may say of them.
    return {**settings, **methods, "data": {**more, **data}}


def _refuse_missing(specs: Sequence[DomainSpec], root: Path) -> None:
    missing: dict[str, str] = {}
    for spec in specs:
        if not os.path.exists(user_path(spec.path)):
            facts = FACTS.get(spec.format)
            missing[os.path.relpath(spec.path, root)] = f" (ask at {facts.page})" if facts else ""
    if missing:
        listed = ", ".join(name + page for name, page in missing.items())
        fix = "put or link them there under these names"
        raise UserInputError(f"datasets missing: {listed}", where=f"--data-root {root}", fix=fix)


def describe_protocol(name: str, protocol: Protocol) -> list[str]:
    """Return a protocol in lines for people."""
    test = f"{protocol.test} ({protocol.n_test})" if protocol.n_test else protocol.test
    lines = [
        f"{name}: {protocol.title} ({protocol.paper})",
        *(f"source {key}: {spec}" for key, spec in protocol.sources.items()),
        f"target: {protocol.target}",
        f"adaptation, without labels: {protocol.adaptation}",
        f"test: {test}" + ("; transductive" if protocol.transductive else ""),
        f"classes: {', '.join(protocol.classes)}",
        f"metric: {', '.join(protocol.metrics)}",
    ]
    lines += [f"{name}.{key} = {value}" for name, table in protocol.methods.items() for key, value in table.items()]
    return [*lines, protocol.note] if protocol.note else lines
