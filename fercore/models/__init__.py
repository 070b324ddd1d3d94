"""The network: a backbone, branches with heads, and the parts plugins attach."""

from fercore.models.backbones import Backbone, build_backbone, build_trunk, look_for_weights
from fercore.models.classifier import build_classifier
from fercore.models.decay import shrink
from fercore.models.domain_heads import DomainHead, GroupedDomainHeads
from fercore.models.domain_norm import DomainNorm, normalised_as, split_norms
from fercore.models.external import External
from fercore.models.layers import RowNorm
from fercore.models.mixture import CombineKind, ExpertKind, ExpertMixture, GateKind
from fercore.models.model import Model
from fercore.models.records import PseudoLabelRecord, SizedByData
from fercore.models.statistics import (
    StatisticsOf,
    encode_view,
    forward_without_bn_update,
    normalised_apart,
    restore_bn_stats,
    swap_bn_stats,
    without_bn_update,
)

__all__ = [
    "Backbone",
    "CombineKind",
    "DomainHead",
    "DomainNorm",
    "ExpertKind",
    "ExpertMixture",
    "External",
    "GateKind",
    "GroupedDomainHeads",
    "Model",
    "PseudoLabelRecord",
    "RowNorm",
    "SizedByData",
    "StatisticsOf",
    "build_backbone",
    "build_classifier",
    "build_trunk",
    "encode_view",
    "forward_without_bn_update",
    "look_for_weights",
    "normalised_apart",
    "normalised_as",
    "restore_bn_stats",
    "shrink",
    "split_norms",
    "swap_bn_stats",
    "without_bn_update",
]
