"""Settings of la_cmfer: every switch of the paper, of its ablations, and of the released code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from fercore.plugin import Settings, merge

Architecture = Literal["shared", "global", "local", "df", "ds"]
InferenceRule = Literal["max_prob", "global", "local", "mean_logits", "max_logit", "majority", "hybrid"]

OFFICIAL: Mapping[str, Any] = {
    "alpha": 0.4,
    "label_smoothing": 0.1,
    "source_batch": "mixed",
    "infer": "max_logit",
    "hardness": {"measure": "logit_ms", "require_match": True},
    "cid": {"weighted": False, "pairs": "all_pairs"},
    "mcc": {"input": "logit", "form": "offdiag"},
    "mvv": {"norm": "selected"},
    "local": {"block": "cbam", "share": "column"},
    "cbam": {"residual": True, "gate": 49, "gate_norm": False},
}
"""What `variant = "official"` changes where a setting is not given: the choices of the released code."""


class NetworkSettings(Settings):
    """What the two branches are made of; the defaults are the published ones."""

    stages: Literal["published", "backbone"] = Field(
        "published", description="published = new layers; backbone = its own later stages, with what they have learnt"
    )
    reduction: int = Field(8, ge=2, description="stride of the shared encoder's map; 8 = ResNet's conv1-conv3")
    widths: tuple[int, ...] = Field((256, 1024), min_length=1, description="global branch: channels of its stages")
    depths: tuple[int, ...] = Field((6, 3), min_length=1, description="global branch: blocks of its stages")
    local_width: int = Field(256, ge=1, description="local branch: channels of each quarter; it yields four times that")
    local_depth: int = Field(2, ge=1, description="local branch: blocks of each quarter")
    cbam_reduction: int = Field(16, ge=1, description="channel attention's bottleneck")

    @model_validator(mode="after")
    def _stages_match(self) -> NetworkSettings:
        if len(self.widths) != len(self.depths) or min(*self.widths, *self.depths) < 1:
            raise ValueError("network.widths and network.depths need one positive number for each stage")
        return self


class CbamSettings(Settings):
    """The attention inside the blocks; the released code's differs from CBAM's paper in all three."""

    residual: bool = Field(False, description="add the attention's input to its output")
    gate: int = Field(7, ge=1, description="side of the spatial gate's kernel, odd")
    gate_norm: bool = Field(True, description="batch norm behind that kernel; false = a bias in it")

    @model_validator(mode="after")
    def _gate_has_a_middle(self) -> CbamSettings:
        if self.gate % 2 == 0:
            raise ValueError("cbam.gate must be odd")
        return self


class LocalSettings(Settings):
    """The local branch's blocks (the paper and the released code differ)."""

    block: Literal["conv", "cbam"] = Field("conv", description="blocks without or with CBAM")
    share: Literal["none", "column"] = Field("none", description="a stack for each quarter, or one for each column")


class AlignSettings(Settings):
    """How domains are brought together (Tables 2 and 3)."""

    kind: Literal["none", "mmd", "adversarial"] = Field("mmd", description="Table 2: none, kernels, or discriminators")
    hidden: int = Field(256, ge=1, description="width of the discriminators of 'adversarial'")
    num_kernels: int = Field(5, ge=1, le=16, description="Gaussians in the MMD kernel")
    multiplier: float = Field(2.0, gt=0, description="ratio of neighbouring bandwidths")


class HardnessSettings(Settings):
    """Sample weights of the alignment (Eqs 3-4, 6)."""

    enabled: bool = Field(True, description="false = plain MMD over every sample")
    measure: Literal["prob_l2", "logit_ms"] = Field("prob_l2", description="norm of probabilities, or of logits")
    require_match: bool = Field(False, description="weigh only samples whose class the other domain's batch holds")
    inv_batch: bool = Field(False, description="Eq 6 to the letter: weights divided by the batch size once more")


class ClusterSettings(Settings):
    """Cluster-level alignment (Eqs 7-8)."""

    enabled: bool = Field(True, description="false = the sample level alone")
    weighted: bool = Field(True, description="hardness weights inside each class; false = uniform on the reliable")
    pairs: Literal["all_pairs", "one_vs_rest"] = Field("all_pairs", description="what a class is held away from")


class ConfusionSettings(Settings):
    """The consistency matrix of the two branches (Eqs 10-11)."""

    input: Literal["prob", "logit"] = Field("prob", description="what the matrix is of: probabilities, or logits")
    form: Literal["abs", "offdiag"] = Field("abs", description="distance to the identity, or the mass off the diagonal")


class VotingSettings(Settings):
    """Normalisation of the voting loss (Eq 12)."""

    norm: Literal["batch", "selected"] = Field("batch", description="divide by the batch, or by the votes that count")


class PseudoLabelSettings(Settings):
    """Pseudo labels of the voting loss (Eq 12, Table 6)."""

    scheme: Literal["vote", "separate", "none"] = Field("vote", description="none = no voting loss (Table 2, row E)")


class LaCmferSettings(Settings):
    """Settings of la_cmfer. `variant` sets defaults only: a setting that is given stays as given."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    variant: Literal["paper", "official"] = Field("paper", description="where paper and released code differ")
    architecture: Architecture = Field("shared", description="Figure 4: shared, one branch only, fused, per source")
    infer: InferenceRule = Field("max_prob", description="how the branches' predictions become one")
    alpha: float | Literal["auto"] = Field("auto", description="inter-domain weight; auto: 0.4 or 0.1 by the target")
    beta: float = Field(0.5, ge=0, description="weight of the consistency term")
    gamma: float = Field(0.1, ge=0, description="weight of the voting term")
    lambda_: float = Field(0.02, ge=0, alias="lambda", description="cluster level against sample level (Eq 9)")
    eps: float = Field(0.4, ge=0, le=1, description="probability from which a sample takes part in the alignment")
    tau: float = Field(0.9, ge=0, le=1, description="probability above which a vote counts")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of each source label spread over all classes")
    consistency: Literal["mcc", "kl", "l1", "mse", "none"] = Field("mcc", description="Table S.3")
    source_batch: Literal["per_domain", "mixed"] = Field(
        "per_domain", description="align each source with the target, or all sources as one"
    )
    inter_reduce: Literal["sum", "mean"] = Field("sum", description="over the sources (Eq 9: sum)")
    network: NetworkSettings = NetworkSettings()
    local: LocalSettings = LocalSettings()
    cbam: CbamSettings = CbamSettings()
    align: AlignSettings = AlignSettings()
    hardness: HardnessSettings = HardnessSettings()
    cid: ClusterSettings = ClusterSettings()
    mcc: ConfusionSettings = ConfusionSettings()
    mvv: VotingSettings = VotingSettings()
    pseudo_label: PseudoLabelSettings = PseudoLabelSettings()

    @model_validator(mode="before")
    @classmethod
    def _lay_under(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        if values.get("infer") == "best_of_six":
            raise ValueError("best_of_six picks a rule by the target's test labels; name one of the six rules instead")
        return merge(OFFICIAL, values) if values.get("variant") == "official" else values

    @model_validator(mode="after")
    def _alpha_is_no_negative(self) -> LaCmferSettings:
        if self.alpha != "auto" and self.alpha < 0:
            raise ValueError("alpha must be 'auto' or at least 0")
        return self
