"""The dataset formats: one small module each, one row each in `FORMATS`.

A module has `scan(spec: DomainSpec) -> Scan`. A new format is one such file and one row here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """One row of the table of formats.

    Attributes:
        module: module of this package that holds `scan`.
        options: names of the options it takes beside the common ones.
        summary: what it reads, for help texts.
    """

    module: str
    options: tuple[str, ...]
    summary: str


FORMATS: dict[str, Format] = {
    "synthfer": Format("synth", ("n", "size", "classes", "prior"), "generated faces: synthfer:STYLE?n=1000"),
    "folder": Format(
        "folder", ("labels",), "tree CLASS/*.png, or train|adapt/CLASS and test|val/CLASS; a target may be loose images"
    ),
    "list": Format("pathlist", ("labels", "root"), 'text file of lines "path label"; a target may be paths alone'),
    "manifest": Format("manifest", ("root", "domain"), "CSV path,label,domain,split,subject,sequence"),
    "fer2013": Format("fer2013", ("test",), "fer2013.csv: emotion,pixels,Usage"),
    "ferplus": Format("ferplus", ("rule", "images"), "fer2013new.csv votes with fer2013.csv pixels or image folders"),
    "rafdb": Format("rafdb", ("images",), "RAF-DB basic: EmoLabel/ and Image/"),
}
"""Format name -> where and how it is read."""
