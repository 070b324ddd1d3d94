"""Methods whose term is a maximum mean discrepancy: DAN, JAN, DSAN, DETN and ECAN, all by the fused operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fercore.losses import joint_mmd, linear_mmd, local_mmd
from fercore.models import Model
from fercore.ops import class_mmd, weighted_mmd
from fercore.plugin import Progress, Settings
from fercore_uda.base import Adaptation, Pair, TermSettings
from fercore_uda.presets import presets

SLOW = {"optim": {"lr": 0.003, "gamma": 3.0, "weight_decay": 5e-4}, "train": {"steps": 10000, "steps_per_epoch": 500}}
"""Rate and length of DAN and JAN: lr (1 + 0.0003 i)^-0.75."""


class Kernel(Settings):
    """A mixture of Gaussian kernels around the mean squared distance."""

    num_kernels: int = Field(5, ge=1, le=16, description="Gaussians in the kernel")
    multiplier: float = Field(2.0, gt=0, description="ratio of neighbouring bandwidths")

    @property
    def kernel(self) -> dict[str, Any]:
        """What the operator takes of them."""
        return {"num_kernels": self.num_kernels, "multiplier": self.multiplier}


class KernelSettings(Kernel, TermSettings):
    """Settings of methods with such a kernel between domains."""


class DanSettings(KernelSettings):
    """Settings of dan."""

    estimator: Literal["quadratic", "linear"] = Field("quadratic", description="all pairs, or neighbours alone (Eq 5)")


class DAN(Adaptation):
    """Maximum mean discrepancy of the features, with a mixture of kernels."""

    paper = "Long et al., ICML 2015"
    Settings: ClassVar[type[Settings]] = DanSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("dan", paper=SLOW)
    settings: DanSettings

    @property
    def weighs_source(self) -> bool:  # type: ignore[override]
        """Whether the estimate is over all pairs: that of neighbours takes each sample once."""
        return bool(self.settings.estimator == "quadratic")

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return MMD^2 of the features."""
        if self.settings.estimator == "linear":
            return linear_mmd(pair.x, pair.y, **self.settings.kernel)
        return weighted_mmd(pair.x, pair.y, pair.weights, pair.uniform, **self.settings.kernel)


class JanSettings(KernelSettings):
    """Settings of jan."""

    sigma: float = Field(0.92, gt=0, description="width of the predictions' kernel")


class JAN(Adaptation):
    """Maximum mean discrepancy of features and predictions together."""

    paper = "Long et al., ICML 2017"
    weighs_source = True
    Settings: ClassVar[type[Settings]] = JanSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("jan", paper=SLOW)
    settings: JanSettings

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return MMD^2 with the product of both kernels; the gradient reaches the head too."""
        x, y = (pair.x, pair.zx.softmax(-1)), (pair.y, pair.zy.softmax(-1))
        return joint_mmd(x, y, pair.weights, pair.uniform, sigma=self.settings.sigma, **self.settings.kernel)


class DsanSettings(KernelSettings):
    """Settings of dsan."""

    weight: float = Field(0.5, ge=0, description="weight of the alignment")
    ramp: bool = True


class DSAN(Adaptation):
    """Maximum mean discrepancy of each class, the target's by its predicted probabilities."""

    paper = "Zhu et al., TNNLS 2021"
    weighs_source = True
    Settings: ClassVar[type[Settings]] = DsanSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("dsan", paper={"optim": {"gamma": 10.0}})
    settings: DsanSettings

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return the mean over the classes that both sides hold."""
        return local_mmd(pair.x, pair.y, pair.labels, pair.zy.softmax(-1), pair.weights, **self.settings.kernel)


class DetnSettings(KernelSettings):
    """Settings of detn."""

    weight: float = Field(1.0, ge=0, description="gamma, of the marginal term")


class DETN(Adaptation):
    """Maximum mean discrepancy of the features, source samples weighed by the target's estimated class shares."""

    paper = "Li and Deng, ICPR 2018"
    weighs_source = True
    Settings: ClassVar[type[Settings]] = DetnSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("detn")
    uses_prior = True
    settings: DetnSettings

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return MMD^2 with the weights of the source's classes."""
        return weighted_mmd(pair.x, pair.y, pair.weights, pair.uniform, **self.settings.kernel)


class EcanSettings(DetnSettings):
    """Settings of ecan."""

    conditional: float = Field(1.0, ge=0, description="lambda, of the class-conditional term beside the marginal one")


class ECAN(DETN):
    """DETN's discrepancy, and that of each class by predicted labels."""

    paper = "Li and Deng, IEEE TAC 2022"
    Settings: ClassVar[type[Settings]] = EcanSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("ecan")
    settings: EcanSettings

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return the marginal term and lambda / K times the sum over classes that both sides hold."""
        classes = pair.zy.shape[1]
        # The diagonal pairs a class with itself; one that a side lacks is 0 there.
        value, _ = class_mmd(pair.x, pair.y, pair.labels, pair.zy.argmax(-1), classes, **self.settings.kernel)
        return super().term(model, pair, clock) + self.settings.conditional * value.diagonal().sum() / classes
