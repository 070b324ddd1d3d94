"""The network: a backbone, branches with heads, and the parts plugins attach."""

from fercore.models.backbones import Trunk, build_backbone, build_trunk, look_for_weights
from fercore.models.classifier import build_classifier
from fercore.models.decay import shrink
from fercore.models.external import External
from fercore.models.mixture import CombineKind, ExpertKind, ExpertMixture, GateKind
from fercore.models.model import Model
from fercore.models.records import PseudoLabelRecord, SizedByData
from fercore.models.statistics import (
    StatisticsOf,
    aside,
    encode_view,
    leaves_no_trace,
    normalised_apart,
    put_back,
    set_aside,
)

__all__ = [
    "CombineKind",
    "ExpertKind",
    "ExpertMixture",
    "External",
    "GateKind",
    "Model",
    "PseudoLabelRecord",
    "SizedByData",
    "StatisticsOf",
    "Trunk",
    "aside",
    "build_backbone",
    "build_classifier",
    "build_trunk",
    "encode_view",
    "leaves_no_trace",
    "look_for_weights",
    "normalised_apart",
    "put_back",
    "set_aside",
    "shrink",
]
