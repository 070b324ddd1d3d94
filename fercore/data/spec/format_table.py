"""The dataset formats: one row each in `FORMATS`.

A format is a module with `scan(spec: DomainSpec) -> Scan`, most of them in `fercore.data.formats`, and one row here,
or a `Format` that a package offers as an entry point of the group `fercore.formats`.
"""

from __future__ import annotations

from dataclasses import dataclass

from fercore.registry import Registry


@dataclass(frozen=True)
class Format:
    """One row of the table of formats.

    Attributes:
        module: module that holds `scan`.
        options: names of the options it takes beside the common ones.
        summary: what it reads, for help texts.
        paths: options whose value is a path.
        dataset_option: of a format of several datasets, the option that says which.
        generated: nothing is read; the path of a spec is a style.
    """

    module: str
    options: tuple[str, ...]
    summary: str
    paths: tuple[str, ...] = ("root", "names")
    dataset_option: str = ""
    generated: bool = False


_BUILT_IN = {
    "synthfer": Format(
        "fercore.synthfer.format",
        ("n", "size", "classes", "prior"),
        "generated faces: synthfer:STYLE?n=1000",
        paths=(),
        generated=True,
    ),
    "folder": Format(
        "fercore.data.formats.folder",
        ("labels", "names"),
        "tree CLASS/*.png, train|adapt/CLASS and test|val/CLASS, or CLASS/train, CLASS/test; loose images for a target",
    ),
    "list": Format(
        "fercore.data.formats.pathlist",
        ("labels", "names", "root", "column"),
        'text file of lines "path label"; a target may be paths',
    ),
    "manifest": Format(
        "fercore.data.formats.manifest",
        ("labels", "names", "root", "domain"),
        "CSV path,label,domain,split,subject,sequence",
    ),
    "fer2013": Format("fercore.data.formats.fer2013", ("labels", "test"), "fer2013.csv: emotion,pixels,Usage"),
    "ferplus": Format(
        "fercore.data.formats.ferplus",
        ("rule", "images"),
        "fer2013new.csv votes with fer2013.csv pixels or image folders",
        paths=("images",),
    ),
    "rafdb": Format(
        "fercore.data.formats.rafdb",
        ("labels", "images", "column"),
        "RAF-DB basic: EmoLabel/ and Image/, or train/<1..7>/",
    ),
    "affectnet": Format(
        "fercore.data.formats.affectnet",
        ("labels", "images", "crop", "per_class"),
        "AffectNet: training.csv, train_set/, or <split>/<0..7>/",
        paths=("images",),
    ),
    "ckplus": Format(
        "fercore.data.formats.ckplus",
        ("neutral", "last_n", "contempt"),
        "CK+: cohn-kanade-images/ and Emotion/, or CK+48",
    ),
    "jaffe": Format("fercore.data.formats.jaffe", (), "JAFFE: KA.AN1.39.tiff"),
    "oulu": Format(
        "fercore.data.formats.oulu",
        ("spectrum", "light", "images", "neutral", "last_n"),
        "Oulu-CASIA: VL|NI/Strong|Weak|Dark/P001/Anger/",
    ),
    "sfew": Format("fercore.data.formats.sfew", ("test", "images"), "SFEW 2.0: Train|Val/Angry/*.png"),
    "expw": Format(
        "fercore.data.formats.expw",
        ("labels", "images", "parts"),
        "ExpW: label.lst and data/image/origin/",
        paths=("images",),
    ),
    "nvie": Format(
        "fercore.data.formats.nvie",
        ("labels", "names", "root", "spectrum", "paired"),
        "NVIE by manifest; domain is visible or thermal",
    ),
    "lacmfer": Format(
        "fercore.data.formats.lacmfer",
        ("labels", "domain", "root", "duplicates", "overlap", "column"),
        "the lists of the LA-CMFER release",
        dataset_option="domain",
    ),
    "cdfer": Format(
        "fercore.data.formats.cdfer",
        ("labels", "dataset", "pad"),
        "the datasets as the CD-FER benchmark lists them",
        dataset_option="dataset",
    ),
}
FORMATS: Registry[Format] = Registry("fercore.formats", _BUILT_IN)
"""Format name -> where and how it is read."""
