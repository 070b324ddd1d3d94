"""What is published of each dataset: classes, counts, sizes of its parts, and the page to ask at for a licence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fercore.data.labels import CANONICAL, find_label
from fercore.data.spec import DomainSpec

SEVEN = CANONICAL[:7]


@dataclass(frozen=True)
class Published:
    """Published numbers of a dataset as certain options take it.

    Attributes:
        when: option -> value these numbers hold for; options not named do not matter.
        sizes: part -> samples; "" is the whole of a dataset without parts.
        counts: part -> class -> samples; "" is the whole, whatever its parts.
        source: where the numbers come from.
    """

    when: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    source: str = ""

    def without(self, dropped: Collection[int]) -> Published:
        """Return the numbers that are left without some classes (canonical labels).

        The size of a part that has no published count of such a class is not known then.
        """
        names = [CANONICAL[label] for label in dropped]
        counts = {part: {k: n for k, n in by.items() if k not in names} for part, by in self.counts.items()}
        known = {part: by for part, by in self.counts.items() if all(name in by for name in names)}
        sizes = {part: n - sum(known[part][k] for k in names) for part, n in self.sizes.items() if part in known}
        return replace(self, sizes=sizes, counts=counts)


@dataclass(frozen=True)
class Facts:
    """A dataset.

    Attributes:
        title: its name. page: where to read its licence and ask for it. classes: those it has.
        defaults: option -> value where a spec leaves it out. published: numbers, the first that fits a spec counts.
    """

    title: str
    page: str
    classes: tuple[str, ...] = SEVEN
    defaults: Mapping[str, str] = field(default_factory=dict)
    published: tuple[Published, ...] = ()

    def fitting(self, spec: DomainSpec, layout: Mapping[str, str] | None = None) -> Published | None:
        """Return the published numbers for a spec's options, or None; a spec that takes only a part has none.

        Args:
            spec: of the dataset. layout: options that the layout found leaves no choice of, `Scan.layout`.
        """
        if {"split", "limit", "per_class", "split_file", "divide"} & set(spec.options):
            return None
        chosen = {**self.defaults, **{key: value.lower() for key, value in spec.options.items()}, **(layout or {})}
        fits = (p for p in self.published if all(chosen.get(key) == value for key, value in p.when.items()))
        published = next(fits, None)
        if published is None or "drop" not in spec.options:
            return published
        return published.without(
            {label for name in spec.options["drop"].split(",") if (label := find_label(name)) is not None}
        )


def _by(names: Sequence[str], *numbers: int) -> dict[str, int]:
    return dict(zip(names, numbers, strict=True))


_RAF = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
_PLUS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
_AFFECT = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
_CK = ("neutral", "surprise", "happiness", "disgust", "anger", "sadness", "fear")
_JAFFE = _by(SEVEN, 30, 29, 32, 31, 31, 30, 30)
_OULU = {"": _by(SEVEN, 240, 240, 240, 240, 240, 240, 480)}
_EXPW = {"": _by(SEVEN, 3671, 3995, 1088, 30537, 10559, 7060, 34883)}
_CMFER = "lists of the LA-CMFER release"

FACTS: dict[str, Facts] = {
    "rafdb": Facts(
        "RAF-DB (basic)",
        "http://whdeng.cn/RAF/model1.html",
        published=(
            Published(
                sizes={"train": 12_271, "test": 3_068},
                counts={
                    "train": _by(_RAF, 1290, 281, 717, 4772, 1982, 705, 2524),
                    "test": _by(_RAF, 329, 74, 160, 1185, 478, 162, 680),
                },
                source="Li et al., CVPR 2017",
            ),
        ),
    ),
    "fer2013": Facts(
        "FER2013",
        "https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge",
        defaults={"test": "private"},
        published=tuple(
            Published(
                {"test": test},
                {"train": 28_709, "test": size},
                {"train": _by(SEVEN, 3995, 436, 4097, 7215, 4830, 3171, 4965)},
                "Goodfellow et al., 2013",
            )
            for test, size in (("private", 3_589), ("public", 3_589), ("both", 7_178))
        ),
    ),
    "ferplus": Facts(
        "FERPlus",
        "https://github.com/microsoft/FERPlus",
        _PLUS,
        {"rule": "majority"},
        (
            Published(
                {"rule": "majority"},
                {"train": 25_060, "val": 3_199, "test": 3_153},
                {
                    "train": _by(_PLUS, 8740, 7287, 3149, 3014, 2100, 119, 532, 119),
                    "val": {"contempt": 13},
                    "test": {"contempt": 16},
                },
                "Barsoum et al., ICMI 2016, majority vote",
            ),
            Published({"rule": "argmax"}, {"train": 28_389, "val": 3_553, "test": 3_546}, {}, "most votes"),
        ),
    ),
    "affectnet": Facts(
        "AffectNet (manually annotated)",
        "http://mohammadmahoor.com/affectnet/",
        _AFFECT,
        published=(
            Published(
                sizes={"train": 287_651, "val": 4_000},
                counts={
                    "train": _by(_AFFECT, 74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750),
                    "val": dict.fromkeys(_AFFECT, 500),
                },
                source="Mollahosseini et al., TAC 2019, eight expressions",
            ),
        ),
    ),
    "ckplus": Facts(
        "CK+",
        "https://www.jeffcohn.net/Resources/",
        CANONICAL,
        {"neutral": "per_sequence", "last_n": "3", "contempt": "keep"},
        (
            Published(
                {"neutral": "per_sequence", "last_n": "3", "contempt": "drop"},
                {"": 1_236},
                {"": _by(_CK, 309, 249, 207, 177, 135, 84, 75)},
                "309 sequences of six expressions, last three frames and the first",
            ),
            Published(
                {"neutral": "per_subject", "last_n": "3", "contempt": "drop"},
                {"": 1_050},
                {"": _by(_CK, 123, 249, 207, 177, 135, 84, 75)},
                "one neutral face a subject",
            ),
            Published(
                {"neutral": "per_sequence", "last_n": "3", "contempt": "keep"},
                {"": 1_308},
                {"": _by((*_CK, "contempt"), 327, 249, 207, 177, 135, 84, 75, 54)},
                "327 labelled sequences, last three frames and the first",
            ),
            Published(
                {"neutral": "none", "last_n": "3", "contempt": "keep"},
                {"": 981},
                {"": _by((*_CK[1:], "contempt"), 249, 207, 177, 135, 84, 75, 54)},
                "CK+48, or no neutral faces",
            ),
            Published(
                {"neutral": "none", "last_n": "3", "contempt": "drop"},
                {"": 927},
                {"": _by(_CK[1:], 249, 207, 177, 135, 84, 75)},
                "309 sequences of six expressions, last three frames",
            ),
        ),
    ),
    "jaffe": Facts(
        "JAFFE",
        "https://zenodo.org/records/3451524",
        published=(Published(sizes={"": 213}, counts={"": _JAFFE}, source="Lyons et al., 1998"),),
    ),
    "oulu": Facts(
        "Oulu-CASIA",
        "https://www.oulu.fi/cmvs/node/41316",
        defaults={"neutral": "per_sequence", "last_n": "3"},
        published=(
            Published(
                {"neutral": "per_sequence", "last_n": "3"},
                {"": 1_920},
                _OULU,
                "480 sequences a condition, last three frames and the first",
            ),
        ),
    ),
    "sfew": Facts(
        "SFEW 2.0",
        "https://cs.anu.edu.au/few/AFEW.html",
        published=(Published(sizes={"train": 958, "val": 436}, source="Dhall et al., ICMI 2015"),),
    ),
    "expw": Facts(
        "ExpW",
        "http://mmlab.ie.cuhk.edu.hk/projects/socialrelation/index.html",
        defaults={"parts": "stratified"},
        published=(
            Published(
                {"parts": "stratified"},
                {"train": 28_848, "val": 28_853, "test": 34_092},
                _EXPW,
                "label.lst, stratified here",
            ),
            Published({}, {"": 91_793}, _EXPW, "label.lst"),
        ),
    ),
    "nvie": Facts("USTC-NVIE", "http://nvie.ustc.edu.cn/", CANONICAL[:6]),
    "lacmfer": Facts(
        "lists of LA-CMFER",
        "https://github.com/YYX-future/LA-CMFER",
        defaults={"duplicates": "drop", "overlap": "drop"},
        published=(
            Published({"domain": "raf", "overlap": "drop"}, {"train": 12_175, "test": 3_031}, {}, _CMFER),
            Published({"domain": "aff", "overlap": "drop"}, {"train": 30_304, "test": 3_488}, {}, _CMFER),
            Published({"domain": "fer2013"}, {"train": 28_709, "test": 3_589}, {}, _CMFER),
            Published({"domain": "ck"}, {"": 1_050}, {}, _CMFER),
            Published({"domain": "jaffe"}, {"": 213}, {"": _JAFFE}, _CMFER),
            Published({"domain": "oulu", "duplicates": "keep"}, {"": 2_988}, {}, _CMFER),
            Published({"domain": "oulu", "duplicates": "drop"}, {"": 1_920}, {}, _CMFER),
        ),
    ),
    "cdfer": Facts(
        "CD-FER benchmark",
        "https://github.com/HCPLab-SYSU/CD-FER-Benchmark",
        published=(
            Published({"dataset": "jaffe"}, {"": 213}, {"": _JAFFE}, "benchmark"),
            Published({"dataset": "sfew"}, {"train": 958, "val": 436}, {}, "benchmark"),
            Published({"dataset": "ck"}, {"val": 129}, {}, "benchmark"),
        ),
    ),
}
"""Format -> facts. Formats of the user's own data (folder, list, manifest, synthfer) have none."""
