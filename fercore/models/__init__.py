"""The network: a backbone, branches with heads, and the parts plugins attach."""

from fercore.models.backbones import Trunk, build_backbone, build_trunk
from fercore.models.mixture import CombineKind, ExpertKind, ExpertMixture, GateKind
from fercore.models.model import Model
from fercore.models.records import PseudoLabelRecord, SizedByData

__all__ = [
    "CombineKind",
    "ExpertKind",
    "ExpertMixture",
    "GateKind",
    "Model",
    "PseudoLabelRecord",
    "SizedByData",
    "Trunk",
    "build_backbone",
    "build_trunk",
]
