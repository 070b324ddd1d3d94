"""Reference methods on the same CLIP: special cases of PCA's network, each with the settings that it needs alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from fercore.plugin import Settings
from fercore_pca.method import ClipMethod
from fercore_pca.presets import presets_of
from fercore_pca.settings import CommonSettings, CptSettings, IgaSettings, PcaSettings, PromptSettings, RnSettings


class CoOpPromptSettings(PromptSettings):
    """Prompts of CoOp: sixteen, at the first layer of the text tower."""

    k: int = Field(16, ge=0, description="prompt tokens; 0 = the hand-made sentence")
    depth: int = Field(1, ge=1, description="first layers that get fresh prompts; at most those there are")
    visual: bool = Field(False, description="true = prompts in the image tower too")


class MaPLePromptSettings(PromptSettings):
    """Prompts of MaPLe: the first layer starts from words."""

    init: Literal["normal", "words"] = Field("words", description="start of the first layer's prompts")


class CoOpSettings(CommonSettings):
    """Settings of coop."""

    prompt: CoOpPromptSettings = CoOpPromptSettings()


class MaPLeSettings(CommonSettings):
    """Settings of maple."""

    prompt: MaPLePromptSettings = MaPLePromptSettings()
    rn: RnSettings = RnSettings()


class Reference(ClipMethod):
    """A method whose loss is Eq 8 alone, on the labelled samples.

    Attributes:
        fixed: PCA's settings that make it; the common ones are its own.
    """

    Settings: ClassVar[type[Settings]] = CommonSettings
    fixed: ClassVar[Mapping[str, Any]] = {}

    def _pca_settings(self) -> PcaSettings:
        own = {name: getattr(self.settings, name) for name in type(self.settings).model_fields}
        fixed = {"iga": IgaSettings(on=False), "lambda1": 1.0, **self.fixed}
        return PcaSettings.model_validate({**own, **fixed})


class ClipZeroShot(Reference):
    """CLIP with hand-made sentences. What it learns is one temperature, which leaves every decision as it is."""

    paper = "Radford et al., ICML 2021"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets_of(
        "clip_zero_shot", paper={"epochs": 1, "warmup": {"epochs": 0}}, short={"train": {"steps": 1}}
    )
    fixed: ClassVar[Mapping[str, Any]] = {"cpt": CptSettings(on=False), "baseline": "zero_shot"}


class ClipLinearProbe(Reference):
    """A linear classifier on CLIP's image features."""

    paper = "Radford et al., ICML 2021"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets_of("clip_linear_probe")
    fixed: ClassVar[Mapping[str, Any]] = {"cpt": CptSettings(on=False), "baseline": "linear_probe"}


class ClipFinetune(Reference):
    """CLIP's image tower trained whole, with a linear classifier that starts from the class texts."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets_of("clip_finetune", short={"optim": {"lr": 3e-4}})
    fixed: ClassVar[Mapping[str, Any]] = {"cpt": CptSettings(on=False), "baseline": "finetune"}


class CoOp(Reference):
    """Learnable words before the class name."""

    paper = "Zhou et al., IJCV 2022"
    Settings: ClassVar[type[Settings]] = CoOpSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets_of("coop")


class MaPLe(Reference):
    """Deep prompts in both towers, coupled."""

    paper = "Khattak et al., CVPR 2023"
    Settings: ClassVar[type[Settings]] = MaPLeSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets_of("maple")
