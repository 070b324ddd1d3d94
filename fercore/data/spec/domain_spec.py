"""Domain specs: FORMAT:PATH[?key=value&...], the text that names a dataset on the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote, unquote

from fercore.data.spec.format_table import FORMATS
from fercore.errors import UserInputError, did_you_mean
from fercore.files import absolute

COMMON_OPTIONS: tuple[str, ...] = (
    "split", "transductive", "name", "limit", "seed", "au",
    "links", "drop", "split_file", "divide", "range",
    "label_rule", "label_count", "label_by", "label_file", "include_labelled", "shots", "fraction", "present",
)  # fmt: skip
"""Options every format takes: see `parse_spec`."""

SPLITS: tuple[str, ...] = ("train", "test", "all")

NUMBER = re.compile(r"[+-]?[0-9.]+")
SPECIAL = re.compile(r"%(?=[0-9A-Fa-f]{2})|[?&\udc80-\udcff]")
"""What has a meaning of its own in a spec, and bytes of file names that are no UTF-8."""
SHARE = re.compile(r"0?\.[0-9]{1,12}")
HOW_MANY: tuple[str, ...] = ("label_count", "shots", "fraction", "label_file")
"""Options that say which samples of a dataset are labelled; a spec has one of them."""


ROOT = "{root}"
"""In a protocol's spec, the folder that holds the datasets."""


@dataclass(frozen=True, eq=False)
class DomainSpec:
    """A parsed spec; two are equal that mean the same dataset in the same way, however they are written.

    Attributes:
        format: a key of `fercore.data.spec.FORMATS`.
        path: file or folder (the style, for synthfer).
        options: option -> value, names checked.
        text: the spec as it was written.
    """

    format: str
    path: str
    options: Mapping[str, str] = field(default_factory=dict)
    text: str = ""

    @classmethod
    def of(cls, form: str, path: str, options: Mapping[str, str] = MappingProxyType({})) -> DomainSpec:
        """Return the spec of parts that are known to be right, with the text that says them."""
        pairs = "&".join(f"{option_name(name)}={spec_text(value)}" for name, value in options.items())
        text = f"{form}:{spec_text(path)}" + (f"?{pairs}" if pairs else "")
        return cls(form, path, dict(options), text)

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DomainSpec) and self._meaning() == other._meaning()

    def __hash__(self) -> int:
        return hash(self._meaning())

    def _meaning(self) -> tuple[str, str, frozenset[tuple[str, str]]]:
        path, options = self._absolute()
        return self.format, path, frozenset(options.items())

    def _absolute(self) -> tuple[str, dict[str, str]]:
        """Return path and options, what is a path in them from the root on."""
        options = {name: absolute(value) if name in self.paths else value for name, value in self.options.items()}
        if "au" in options:
            options["au"] = absolute_units(options["au"])
        return self.path if self.generated else absolute(self.path), options

    def absolute(self) -> DomainSpec:
        """Return the spec with every path in it from the root on, so that it means the same from every folder."""
        path, options = self._absolute()
        if (path, options) == (self.path, self.options):
            return self
        return DomainSpec.of(self.format, path, options)

    @property
    def below_root(self) -> bool:
        """Whether it lies in the folder that holds a protocol's datasets."""
        return ROOT in self.text

    def under(self, root: Path) -> DomainSpec:
        """Return a protocol's spec with the folder that holds the datasets in its place."""
        return parse_spec(self.text.replace(ROOT, spec_text(str(root))))

    @property
    def generated(self) -> bool:
        """Whether its images are made, not read."""
        return FORMATS[self.format].generated

    @property
    def divides(self) -> bool:
        """Whether it asks for labelled and unlabelled samples of one dataset."""
        return any(option in self.options for option in HOW_MANY)

    @property
    def asks_for_few(self) -> bool:
        """Whether it asks for a few labelled samples of a target: shots= or fraction=."""
        return "shots" in self.options or "fraction" in self.options

    @property
    def asks_for_labels(self) -> bool:
        """Whether it divides one dataset into labelled and unlabelled samples: labels=NUMBER or label_file=."""
        return self.divides and not self.asks_for_few

    @property
    def how_many(self) -> str:
        """Name of the option by which it says how much is labelled, as people write it; "" without one."""
        return next((option_name(option) for option in HOW_MANY if option in self.options), "")

    @property
    def paths(self) -> tuple[str, ...]:
        """Names of the options that are given and whose value is a path."""
        return tuple({"label_file", "split_file", *FORMATS[self.format].paths} & self.options.keys())

    @property
    def where(self) -> str:
        """Return what an error message calls this spec."""
        return f"spec {self.text!r}"

    def refuse_inside(self, out: Path) -> None:
        """Refuse to write into the dataset itself, where the next scan would take the new images for its own.

        Raises:
            UserInputError: if the spec's path is a folder and `out` lies in it.
        """
        if os.path.isdir(self.path) and out.resolve().is_relative_to(Path(self.path).resolve()):
            fix = "choose one beside it"
            raise UserInputError("the output folder lies in the dataset", where=str(out), fix=fix)

    def integer(self, option: str, default: int, *, least: int = 0) -> int:
        """Return an option as an integer of at least `least`.

        Raises:
            UserInputError: if it is not one.
        """
        text = self.options.get(option)
        if text is None:
            return default
        # `int` takes "1_000", "+1" and the digits of other scripts, and a thousand digits as well.
        if not (text.isascii() and text.isdecimal() and len(text) <= 12) or int(text) < least:
            fix = f"give a whole number from {least} up"
            raise UserInputError(f"option {option}={text!r} is not a count", where=self.where, fix=fix)
        return int(text)

    def choice(self, option: str, known: Sequence[str], default: str) -> str:
        """Return an option that must be one of `known` (any case).

        Raises:
            UserInputError: if it is none of them; names the nearest.
        """
        value = self.options.get(option, default).lower()
        if value not in known:
            fix = did_you_mean(value, known)
            raise UserInputError(f"option {option}={value!r} is unknown", where=self.where, fix=fix)
        return value

    def flag(self, option: str) -> bool:
        """Return a true/false option; left out means false.

        Raises:
            UserInputError: if it is neither.
        """
        return self.choice(option, ("true", "false"), "false") == "true"


def parse_spec(text: str) -> DomainSpec:
    r"""Read FORMAT:PATH[?key=value&...]; Windows paths such as `folder:C:\faces` are fine.

    In the path and in values % and two hex digits stand for a character, as in URLs: %3F is ?, %26 is &, %25 is %.
    Any other % is itself; so are = and, before the last ?, ? and & in a path.

    Options of every format:
        split: "train", "test" or "all": take only that part of the dataset; it then counts as undivided.
        transductive: "true" = a target adapts and is tested on the same images (targets only).
        name: what reports call the domain.
        limit: keep this many samples of each part, drawn at random by `seed`.
        au: who says which action units its images show, instead of `data.au`.
        links: "follow" takes image files that are links out of the dataset's folder; they are refused otherwise.
        drop, split_file, divide: see `fercore.data.domains.options`.
        range: how one-channel images, infrared ones above all, become 8 bits; see `fercore.data.images.scaling`.
        labels (a number; also label_count), shots, fraction, label_rule, label_by, label_file, include_labelled: see
            `fercore.data.domains.labelled`.
        seed: seed of `limit` and of the half-and-half division; default: the run's (synthfer: seed of the faces).

    Raises:
        UserInputError: for a missing or unknown format, a missing path, or an option the format does not have.
    """
    form, colon, _ = text.strip().partition(":")
    _check_format(text, form, bool(colon))
    _, path, tail = _split(text.strip())
    options = _options(text, form.lower(), tail)
    spec = DomainSpec(form.lower(), _decoded(path.strip()), options, text.strip())
    if not spec.path:
        raise UserInputError("spec without a path", where=spec.where, fix=f"write {spec.format}:PATH")
    if any("\0" in value for value in (spec.path, *options.values())):
        raise UserInputError("path with a NUL character", where=f"spec {text!r}")
    _check_common(spec)
    return spec


def is_spec(text: str) -> bool:
    """Say whether a text that may be something else, such as a file's name, begins as a spec."""
    return text.partition(":")[0].lower() in FORMATS


def as_spec(value: DomainSpec | str) -> DomainSpec:
    """Return a spec that may still be text.

    Raises:
        UserInputError: as `parse_spec`.
    """
    return parse_spec(value) if isinstance(value, str) else value


def folder_or_spec(value: DomainSpec | str) -> DomainSpec:
    """Return a spec that may still be text, or the path of a folder of images.

    Raises:
        UserInputError: as `parse_spec`.
    """
    if isinstance(value, str) and not is_spec(value) and os.path.isdir(value):
        return DomainSpec.of("folder", value)
    return as_spec(value)


def _split(text: str) -> tuple[str, str, str]:
    """Return format, path and options of a spec as they are written; "" for no options."""
    form, _, rest = text.partition(":")
    # The last one: a path may hold a question mark, options may not.
    path, mark, tail = rest.rpartition("?")
    return (form, path, tail) if mark else (form, rest, "")


def _decoded(text: str) -> str:
    """Return a path or value with its %XX decoded; bytes that are no UTF-8 become what they are in file names."""
    return unquote(text, errors="surrogateescape")


def spec_text(value: str) -> str:
    """Return a path or value as a spec writes it; `parse_spec` gives it back."""
    text = SPECIAL.sub(lambda match: f"%{ord(match[0]) & 0xFF:02X}", value)
    # Blanks at either end would be stripped when it is read again; inside they are kept as they are.
    ends = len(text) - len(text.lstrip()), len(text.rstrip())
    return quote(text[: ends[0]]) + text[ends[0] : ends[1]] + quote(text[max(ends) :])


def _check_format(text: str, form: str, colon: bool) -> None:
    # One letter is a Windows drive.
    looks_like_path = len(form) == 1 or any(c in form for c in "/\\.~ ?")
    if not colon or looks_like_path:
        example = "folder:" + (text.strip() or "PATH")
        fix = f"write FORMAT:PATH, as in {example!r}; formats: {', '.join(FORMATS)}"
        raise UserInputError("spec without a format", where=f"spec {text!r}", fix=fix)
    if form.lower() not in FORMATS:
        raise UserInputError(f"unknown format {form!r}", where=f"spec {text!r}", fix=did_you_mean(form, FORMATS))


def _options(text: str, form: str, tail: str) -> dict[str, str]:
    known = [*COMMON_OPTIONS, *FORMATS[form].options]
    options: dict[str, str] = {}
    for pair in filter(None, tail.split("&")):
        key, equals, value = pair.partition("=")
        if not equals or not value:
            fix = "write ?key=value&key=value, and in a path or value %3F for ?, %26 for &"
            raise UserInputError(f"cannot read option {pair!r}", where=f"spec {text!r}", fix=fix)
        # Two formats name a coding of labels so; a number of labels is not one.
        if key == "labels" and ("labels" not in known or NUMBER.fullmatch(value)):
            key = "label_count"
        if key not in known:
            fix = did_you_mean(key, known)
            raise UserInputError(f"format {form} has no option {key!r}", where=f"spec {text!r}", fix=fix)
        if key in options:
            raise UserInputError(f"option {key!r} given twice", where=f"spec {text!r}")
        options[key] = _decoded(value)
    return options


def option_name(option: str) -> str:
    """Return an option as people write it."""
    return "labels" if option == "label_count" else option


def absolute_units(provider: str) -> str:
    """Return what says which action units images show, an absolute path where it is one."""
    is_path = provider.lower().endswith((".csv", ".safetensors")) or os.path.isdir(os.path.expanduser(provider))
    return absolute(provider) if is_path else provider


def _check_common(spec: DomainSpec) -> None:
    spec.choice("split", SPLITS, "all")
    spec.flag("transductive")
    spec.integer("limit", 1, least=1)
    spec.integer("seed", 0)
    _check_labelled(spec)


def _check_labelled(spec: DomainSpec) -> None:
    """Check the options that say which samples are labelled."""
    spec.flag("include_labelled")
    for option, kind in (("label_count", "labels"), ("shots", "labels a class")):
        count = spec.options.get(option, "1")
        if not (count.isascii() and count.isdecimal() and len(count) <= 9 and int(count)):
            what = f"option {option_name(option)}={count!r} is not a number of {kind}"
            raise UserInputError(what, where=spec.where, fix="give a whole number from 1 up")
    share = spec.options.get("fraction", ".1")
    if not SHARE.fullmatch(share) or not float(share):
        what = f"option fraction={share!r} is not a share between 0 and 1"
        raise UserInputError(what, where=spec.where, fix="write it as in fraction=0.1")
    given = [option_name(option) for option in HOW_MANY if option in spec.options]
    if len(given) > 1:
        raise UserInputError(f"options {given[0]} and {given[1]} at once", where=spec.where, fix="give one of them")
    if "label_rule" in spec.options and {"shots", "fraction"} & spec.options.keys():
        what = f"options label_rule and {given[0]} at once"
        raise UserInputError(what, where=spec.where, fix="label_rule shares out ?labels=NUMBER; leave it out")
