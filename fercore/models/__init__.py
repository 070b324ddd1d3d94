"""The network: a backbone, branches with heads, and the parts plugins attach."""

from fercore.models.backbones import Backbone, build_backbone, build_trunk, look_for_weights
from fercore.models.class_shares import ClassShares, source_weights
from fercore.models.classifier import build_classifier
from fercore.models.decay import shrink
from fercore.models.domain_heads import DomainHead, GroupedDomainHeads
from fercore.models.domain_norm import DomainNorm, normalised_as, split_norms
from fercore.models.external import External
from fercore.models.layers import RowNorm
from fercore.models.mixture import CombineKind, ExpertKind, ExpertMixture, GateKind
from fercore.models.model import HeadOnBackbone, Model, heads_on_backbone, last_linear
from fercore.models.normalisation import (
    NormKind,
    NormRule,
    batch_norms,
    batch_statistics,
    mixed_statistics,
    moments,
    move_running,
    norm_parameters,
    normalised,
    normalised_by,
    of_channels,
    refuse_without_batch_norm,
    running,
    scaled,
)
from fercore.models.parts_of_batch import drawn_for_rows, summed_over_rows, this_forward
from fercore.models.records import PseudoLabelRecord, SizedByData
from fercore.models.stages import Divided, divide_backbone
from fercore.models.statistics import (
    StatisticsOf,
    encode_view,
    forward_without_bn_update,
    normalised_apart,
    restore_bn_stats,
    swap_bn_stats,
    without_bn_update,
)
from fercore.models.teacher import Teacher

__all__ = [
    "Backbone",
    "ClassShares",
    "CombineKind",
    "Divided",
    "DomainHead",
    "DomainNorm",
    "ExpertKind",
    "ExpertMixture",
    "External",
    "GateKind",
    "GroupedDomainHeads",
    "HeadOnBackbone",
    "Model",
    "NormKind",
    "NormRule",
    "PseudoLabelRecord",
    "RowNorm",
    "SizedByData",
    "StatisticsOf",
    "Teacher",
    "batch_norms",
    "batch_statistics",
    "build_backbone",
    "build_classifier",
    "build_trunk",
    "divide_backbone",
    "drawn_for_rows",
    "encode_view",
    "forward_without_bn_update",
    "heads_on_backbone",
    "last_linear",
    "look_for_weights",
    "mixed_statistics",
    "moments",
    "move_running",
    "norm_parameters",
    "normalised",
    "normalised_apart",
    "normalised_as",
    "normalised_by",
    "of_channels",
    "refuse_without_batch_norm",
    "restore_bn_stats",
    "running",
    "scaled",
    "shrink",
    "source_weights",
    "split_norms",
    "summed_over_rows",
    "swap_bn_stats",
    "this_forward",
    "without_bn_update",
]
