"""Settings of PCA: every switch of the paper, of its ablations, and of the closest public code (MaPLe, PDA)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from pydantic import Field, model_validator

from fercore.models.clip import ClipSettings
from fercore.plugin import CANONICAL, Settings, did_you_mean, merge

Infer: TypeAlias = Literal["weighted", "cls", "iga", "pda"]
Baseline: TypeAlias = Literal["zero_shot", "linear_probe", "finetune"]

MAPLE_PDA: Mapping[str, Any] = {
    "prompt": {"init": "words"},
    "iga": {"score": "sum_logits", "beta": 0.1, "norm": "batch"},
    "bank": {"rule": "prediction"},
    "lambda1": 1.0,
    "lambda2": 1.0,
    "mean": "sides",
    "target": {"mode": "pseudo"},
    "infer": "pda",
}
"""What `variant = "maple_pda"` changes where a setting is not given: MaPLe's prompts, PDA's banks and alignment."""


class PromptSettings(Settings):
    """Learnable prompts (Eqs 1-6)."""

    k: int = Field(2, ge=0, description="prompt tokens a layer (Table III); 0 = as cpt.on=false")
    depth: int = Field(9, ge=1, description="first layers J that get fresh prompts; at most those there are")
    init: Literal["normal", "words"] = Field(
        "normal", description="all from N(0, std^2), or the first layer's from the words 'a photo of a'"
    )
    std: float = Field(0.02, gt=0, allow_inf_nan=False, description="of the normal start")
    pos: Literal["after_patches", "after_cls"] = Field("after_patches", description="place of the visual prompts")
    visual: bool = Field(True, description="false = prompts in the text tower alone (CoOp)")

    @model_validator(mode="after")
    def _there_are_four_words(self) -> PromptSettings:
        if self.init == "words" and self.k > 4:
            raise ValueError("prompt.init='words' has four words: prompt.k may be 4 at most, or prompt.init='normal'")
        return self


class TextSettings(Settings):
    """What the classes are called before CLIP."""

    template: str = Field("a photo of a {}.", description="hand-made sentence, {} = the class; banks and CPT off")
    words: dict[str, str] = Field(default_factory=dict, description="class -> how it is called; others by their name")

    @model_validator(mode="after")
    def _one_place(self) -> TextSettings:
        if self.template.count("{}") != 1:
            raise ValueError(f"text.template {self.template!r} needs {{}} once, for the class")
        return self

    @model_validator(mode="after")
    def _words_are_of_classes(self) -> TextSettings:
        for name, words in self.words.items():
            if name not in CANONICAL:
                raise ValueError(f"text.words names {name!r}, which is no class; {did_you_mean(name, CANONICAL)}")
            if not words.strip():
                raise ValueError(f"text.words calls {name!r} nothing; write a word, or leave it out")
        return self


class BankSettings(Settings):
    """Feature banks of the two domains (section II-C)."""

    n: int = Field(5, ge=1, le=10_000, description="features a class and domain")
    rule: Literal["probability", "prediction"] = Field(
        "probability",
        description="a class's most probable images, or of those predicted as it (labelled ones: rightly; PDA)",
    )
    empty: Literal["text", "mask"] = Field(
        "text", description="centre of a class without a feature: its text feature, or none in the attention"
    )
    refresh: Literal["none", "epoch"] = Field(
        "none", description="built once from un-prompted CLIP, or again every epoch with the prompts"
    )


class CptSettings(Settings):
    """Cross-modal prompt transfer."""

    on: bool = Field(True, description="false = hand-made sentences, no visual prompts")


class IgaSettings(Settings):
    """Image-guided alignment (Eqs 9-12)."""

    on: bool = Field(True, description="false = lambda2 is 0 and infer is 'cls'")
    eps: float = Field(10.0, gt=0, allow_inf_nan=False, description="divisor in the attention of Eq 10")
    hidden: int | None = Field(
        None, ge=1, le=65_536, description="inner width of the three-layer projector; None = d/8"
    )
    norm: Literal["layer", "batch"] = Field("layer", description="normalisation in the projector")
    score: Literal["cosine", "sum_logits"] = Field(
        "cosine", description="x' by its cosine, or the sum of both halves' logits"
    )
    beta: float = Field(1.0, gt=0, allow_inf_nan=False, description="factor on the aligned logits")
    start: Literal["random", "zero"] = Field("random", description="f_po at first; zero = x' begins as the image's own")


class TargetSettings(Settings):
    """What training has of the target."""

    mode: Literal["shots", "fraction", "pseudo"] | None = Field(
        None, description="labels by ?shots= or ?fraction= of the target (None = what it says), or pseudo labels"
    )
    threshold: float = Field(0.9, ge=0, le=1, description="least confidence of a pseudo label")


class RnSettings(Settings):
    """ResNet towers only."""

    attnpool_prompts: bool = Field(False, description="T_0(Q_0) as further tokens of the attention pool")


class AugSettings(Settings):
    """The view that training sees."""

    kind: Literal["crop", "weak", "none"] = Field(
        "crop", description="random resized crop and flip; 'weak' = data.augment; 'none' = as in evaluation"
    )
    area: tuple[float, float] = Field((0.08, 1.0), description="crop's share of the area")

    @model_validator(mode="after")
    def _areas_rise(self) -> AugSettings:
        low, high = self.area
        if not 0 < low <= high <= 1:
            raise ValueError("aug.area must be two rising shares in (0, 1]")
        return self


class WarmupSettings(Settings):
    """Epochs at a small constant rate before the schedule."""

    epochs: int = Field(0, ge=0, description="epochs at that rate; 0 = none")
    lr: float = Field(1e-5, gt=0, allow_inf_nan=False, description="learning rate of those epochs")


class CommonSettings(Settings):
    """Settings of every method on CLIP."""

    clip: ClipSettings = ClipSettings()
    text: TextSettings = TextSettings()
    logit_scale: Literal["clip", 1] = Field("clip", description="s of Eq 7: the learnt one of CLIP, or 1")
    aug: AugSettings = AugSettings()
    epochs: int | None = Field(None, ge=1, description="length of training; None = train.steps")
    warmup: WarmupSettings = WarmupSettings()
    cache: bool = Field(True, description="image features that cannot change are computed once")

    @model_validator(mode="after")
    def _something_follows_the_warmup(self) -> CommonSettings:
        if self.epochs is not None and self.warmup.epochs >= self.epochs:
            raise ValueError("warmup.epochs must be less than epochs, which counts them")
        return self


class PcaSettings(CommonSettings):
    """Settings of pca_ifer. `variant` sets defaults only: a setting that is given stays as given."""

    variant: Literal["paper", "maple_pda"] = Field(
        "paper", description="defaults: the paper, or MaPLe's and PDA's code"
    )
    cpt: CptSettings = CptSettings()
    iga: IgaSettings = IgaSettings()
    prompt: PromptSettings = PromptSettings()
    bank: BankSettings = BankSettings()
    target: TargetSettings = TargetSettings()
    rn: RnSettings = RnSettings()
    lambda1: float = Field(0.5, ge=0, allow_inf_nan=False, description="weight of L_cls (Eq 13)")
    lambda2: float = Field(0.5, ge=0, allow_inf_nan=False, description="weight of L_iga (Eq 13)")
    mean: Literal["samples", "sides"] = Field(
        "samples", description="both losses: one mean over all samples, or the sum of each side's own mean (PDA)"
    )
    infer: Infer = Field(
        "weighted", description="lambda-weighted probabilities, one branch alone, or PDA's sum of logits"
    )
    text_pool: Literal["eot"] = Field("eot", description="the end-of-text token is projected")
    image_encoder: Literal["shared", "per_domain_prompts"] = Field(
        "shared", description="one set of text-to-vision maps, or one for visible light and one for the target"
    )
    baseline: Baseline = Field("zero_shot", description="what is left with CPT and IGA off")

    @model_validator(mode="before")
    @classmethod
    def _lay_under(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return merge(MAPLE_PDA, values) if values.get("variant") == "maple_pda" else values

    @model_validator(mode="after")
    def _something_is_learnt(self) -> PcaSettings:
        if sum(self.weights) <= 0:
            raise ValueError("lambda1 and lambda2 leave no loss; give the branch that is on a weight above 0")
        return self

    @property
    def prompted(self) -> bool:
        """Whether prompts are learnt: CPT on, and k above 0."""
        return self.cpt.on and self.prompt.k > 0

    @property
    def aligned(self) -> bool:
        """Whether images are aligned with the banks."""
        return self.iga.on

    @property
    def probe(self) -> Baseline | None:
        """What is learnt with CPT and IGA off; None with either of them on."""
        return None if self.prompted or self.aligned else self.baseline

    @property
    def weights(self) -> tuple[float, float]:
        """Weights of L_cls and L_iga with the switches of Table II: IGA off = no L_iga; CPT alone off = no L_cls."""
        if not self.aligned:
            return self.lambda1, 0.0
        return (self.lambda1, self.lambda2) if self.prompted else (0.0, self.lambda2)

    @property
    def rule(self) -> Infer:
        """The rule of inference with the switches of Table II."""
        if not self.aligned:
            return "cls"
        return self.infer if self.prompted else "iga"
