"""Settings of pocan: every switch of the paper, of its ablations, and of the released code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from fercore.plugin import Settings, merge

OFFICIAL: Mapping[str, Any] = {
    "class_weight": {"src": 2.0, "tgt": 1.0, "clf": 1.5},
    "class_counts": "all",
    "adv": {"on_encoder": False},
    "proto_lr": "const",
    "proto": {"lambda_on_tp": True, "bias": True},
    "lambda": {"granularity": "epoch"},
    "nce": {"reduction": "sum_views"},
    "optim": "sgdw_reset",
    "stages": {"prototypes_batch": 128},
    "aug": {"vflip": True},
}
"""What `variant = "official"` changes where a setting is not given: the choices of the released code."""


class ClassWeightSettings(Settings):
    """Exponents e of the released code's class weights (1 - q)^e."""

    src: float = Field(2.0, ge=0, description="source, in adaptation")
    tgt: float = Field(1.0, ge=0, description="trusted target")
    clf: float = Field(1.5, ge=0, description="source, while the source prototypes are learnt")


class NetworkSettings(Settings):
    """What the projection head sees of the backbone."""

    reduction: int | None = Field(None, ge=2, description="stride to cut the backbone at; None = whole and pooled")
    grid: int = Field(1, ge=1, description="a cut backbone's map is averaged in grid x grid cells, side by side")


class StageSettings(Settings):
    """Length of the three stretches of training."""

    unit: Literal["epochs", "share"] = Field("epochs", description="epochs, or shares of train.steps")
    pretrain: float = Field(300, ge=0, description="encoder, Eq 4")
    prototypes: float = Field(20, gt=0, description="source prototypes, Eq 2")
    adapt: float = Field(20, ge=0, description="both players; 0 = stop there and predict from the source's ('DT')")
    pretrain_batch: int | None = Field(None, ge=2, description="source samples a step; None = data.source_batch")
    prototypes_batch: int | None = Field(None, ge=2, description="the same while the source prototypes are learnt")

    @model_validator(mode="after")
    def _epochs_are_whole(self) -> StageSettings:
        if self.unit == "epochs" and any(n % 1 for n in (self.pretrain, self.prototypes, self.adapt)):
            raise ValueError("stages.pretrain, stages.prototypes and stages.adapt count whole epochs; or unit='share'")
        return self


class RateSettings(Settings):
    """Learning rates besides the pretraining's, which is `optim.lr`."""

    prototypes: float = Field(0.01, gt=0, description="source prototypes after pretraining (cosine)")
    adapt: float = Field(1e-5, gt=0, description="encoder in adaptation (constant)")
    adapt_prototypes: float = Field(1e-4, gt=0, description="both prototype sets in adaptation, before the drop")
    drop_at: float = Field(0.5, gt=0, lt=1, description="share of the adaptation after which it is a tenth")


class LambdaSettings(Settings):
    """The ramp of Eq 5's lambda_t."""

    granularity: Literal["step", "epoch"] = Field("step", description="progress counted in steps or in whole epochs")


class NceSettings(Settings):
    """Reduction of the target's InfoNCE."""

    reduction: Literal["mean", "sum_views"] = Field("mean", description="over all views, or view a plus view b")


class ProtoSettings(Settings):
    """Prototypes and their target loss."""

    bias: bool = Field(False, description="prototypes with a bias, as a linear classifier has")
    lambda_on_tp: bool = Field(False, description="lambda_t on L_tp as well")


class AdvSettings(Settings):
    """The adversarial pair L_dis and L_st."""

    on_encoder: bool = Field(True, description="encoder minimises L_st; false = the prototypes alone play")


class AugSettings(Settings):
    """How the two views of a sample are made."""

    kind: Literal["crop_and_colour", "weak"] = Field("crop_and_colour", description="'weak' = the run's data.augment")
    pretrain_area: tuple[float, float] = Field((0.2, 1.0), description="crop's share of the area, pretraining")
    adapt_area: tuple[float, float] = Field((0.8, 0.95), description="the same in adaptation, square")
    vflip: bool = Field(False, description="also upside down, half of the time")

    @model_validator(mode="after")
    def _areas_rise(self) -> AugSettings:
        for name in ("pretrain_area", "adapt_area"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ValueError(f"aug.{name} must be two rising shares in (0, 1]")
        return self


class PocanSettings(Settings):
    """Settings of pocan. `variant` sets defaults only: a setting that is given stays as given."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    variant: Literal["paper", "official"] = Field("paper", description="where paper and released code differ")
    use_in: bool = Field(True, description="L_in (Eqs 5-7); false = Table 3, w/o L_in")
    use_cross: bool = Field(True, description="L_cross (Eqs 8-9); false = Table 3, w/o L_cross")
    use_adv: bool = Field(True, description="L_st and L_dis (Eqs 10-12); false = Table 3, w/o L_ad")
    class_weight: Literal["one_minus_sq", "none"] | ClassWeightSettings = Field(
        "one_minus_sq", description="Eq 13; 'none' = Table 3, w/o weights; or exponents src, tgt, clf of (1 - q)"
    )
    class_counts: Literal["trusted", "all"] = Field(
        "trusted", description="pseudo labels whose classes Eq 13 counts in the target: of trusted samples, or of all"
    )
    tau: float = Field(0.7, gt=0, description="temperature of InfoNCE on the target")
    tau_sup: float = Field(0.1, gt=0, description="temperature of SupCon on the source")
    beta: float = Field(2.0, gt=0, description="strictness of Eq 14's thresholds")
    proj_dim: int = Field(256, ge=2, description="width m of the embedding behind the projection head")
    projection: Literal["mlp", "none"] = Field(
        "mlp", description="head g; none = the embedding is f's own, so that a trained head goes on as prototypes"
    )
    proj_hidden: int | None = Field(None, ge=1, description="projection head's inner width; None = the backbone's")
    weight_norm: Literal["batch", "weights"] = Field("batch", description="weighted means divided by number or weight")
    refresh_every: int = Field(1, ge=1, description="epochs between two rounds of pseudo labels")
    optim: Literal["as_set", "sgdw_reset"] = Field(
        "as_set", description="[optim] as it is; or the released code's: SGDW, plain SGD for M_s, SGDW made again"
    )
    sgdw_decay: float = Field(1e-5, ge=0, lt=1, description="of 'sgdw_reset': share weights shrink by at a step")
    alternate: Literal["batch", "epoch"] = Field("batch", description="players move on every batch, or epoch by epoch")
    proto_lr: Literal["step", "const"] = Field("step", description="lr.adapt_prototypes, then a tenth; or the tenth")
    lambda_: LambdaSettings = Field(LambdaSettings(), alias="lambda")
    nce: NceSettings = NceSettings()
    proto: ProtoSettings = ProtoSettings()
    adv: AdvSettings = AdvSettings()
    aug: AugSettings = AugSettings()
    network: NetworkSettings = NetworkSettings()
    stages: StageSettings = StageSettings()
    lr: RateSettings = RateSettings()

    @model_validator(mode="before")
    @classmethod
    def _lay_under(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return merge(OFFICIAL, values) if values.get("variant") == "official" else values

    @model_validator(mode="after")
    def _a_grid_needs_a_map(self) -> PocanSettings:
        if self.network.grid > 1 and self.network.reduction is None:
            raise ValueError("network.grid needs network.reduction: a whole backbone has no map")
        return self

    @model_validator(mode="after")
    def _the_encoder_has_a_goal(self) -> PocanSettings:
        if not (self.use_in or self.use_cross or (self.use_adv and self.adv.on_encoder)):
            raise ValueError("nothing is left for the encoder: keep one of use_in, use_cross, use_adv (adv.on_encoder)")
        return self
