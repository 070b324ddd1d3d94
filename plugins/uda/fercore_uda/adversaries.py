"""Methods with an adversary behind a gradient reversal: DANN, CDAN, MADA and MDD."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import (
    domain_adversarial,
    domain_cross_entropy,
    entropy,
    entropy_weights,
    feature_class_product,
    margin_disparity,
    ramp,
    reverse_gradient,
)
from fercore.models import DomainHead, GroupedDomainHeads, Model
from fercore.plugin import Progress, Role, Settings, TaskInfo
from fercore_uda.base import Adaptation, Pair, TermSettings
from fercore_uda.presets import presets

LARGEST_PRODUCT = 4096
"""Features times classes above which CDAN multiplies random projections (Long et al. 2018, section 3.2)."""


class ReversalSettings(TermSettings):
    """Settings of methods that reverse a gradient."""

    reversal: Literal["progress", "steps"] = Field(
        "progress", description="strength 2 / (1 + e^-a) - 1 with a = 10 progress, or step / reversal_steps"
    )
    reversal_steps: int = Field(1000, ge=1, description="for reversal = steps, as released codes have it")


class Adversarial(Adaptation):
    """What an adversary learns to tell apart, the features learn to hide."""

    role = Role.ADVERSARIAL
    term_name = "adversary"

    def goes_by_length(self) -> str:
        """The strength of the reversed gradient does, unless it goes by the step."""
        return "reversal=progress" if self.settings.reversal == "progress" else super().goes_by_length()

    def strength(self, clock: Progress) -> float:
        """Return the factor of the reversed gradient; 0 at first."""
        if self.settings.reversal == "progress":
            return ramp(clock.progress)
        return ramp(clock.step / self.settings.reversal_steps, 1.0)


class DannSettings(ReversalSettings):
    """Settings of methods with a domain discriminator."""

    hidden: int = Field(1024, ge=1, description="width of the discriminator's two hidden layers")


class DANN(Adversarial):
    """A discriminator tells the sides' features apart; its gradient is reversed for the network."""

    paper = "Ganin et al., JMLR 2016"
    weighs_source = True
    Settings: ClassVar[type[Settings]] = DannSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("dann")
    settings: Any

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the discriminator."""
        return {**super().parts(width, task), "adversary": DomainHead(width, self.settings.hidden)}

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return the discriminator's cross-entropy on what it sees of either side, half a side."""
        weights = self.sample_weights(pair, clock)
        sides = self.seen(model, pair.x, pair.zx), self.seen(model, pair.y, pair.zy)
        halves = {"source_weights": weights[0] / 2, "target_weights": weights[1] / 2}
        discriminator = self.part(model, nn.Module, "adversary")
        return domain_adversarial(discriminator, *sides, self.strength(clock), **halves)

    def seen(self, model: Model, features: Tensor, logits: Tensor) -> Tensor:
        """Return what the discriminator is given of samples, f[n,*]."""
        return features

    def sample_weights(self, pair: Pair, clock: Progress) -> tuple[Tensor, Tensor]:
        """Return the weights f[B], f[M] of either side's samples, each summing to 1."""
        return pair.weights, pair.uniform


class CdanSettings(DannSettings):
    """Settings of cdan."""

    entropy: bool = Field(True, description="CDAN+E: samples count by 1 + e^-H")
    entropy_norm: Literal["per_domain", "joint"] = Field("per_domain", description="what those weights sum to 1 over")
    entropy_grad: Literal["off", "reversed"] = Field("off", description="the authors' code reverses their gradient too")
    random_dim: int = Field(1024, ge=1, description="of the random projections, where features x classes > 4096")


class CDAN(DANN):
    """The discriminator sees features and predictions multiplied."""

    paper = "Long et al., NeurIPS 2018"
    Settings: ClassVar[type[Settings]] = CdanSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("cdan")

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the discriminator, and the projections where the product is too wide for it."""
        classes = len(task.classes)
        # The discriminator takes one row a sample: its first layer grows with the product.
        product = width * classes
        if product <= LARGEST_PRODUCT:
            return super().parts(product, task)
        project = RandomProduct(width, classes, self.settings.random_dim)
        return {**super().parts(self.settings.random_dim, task), "adversary_map": project}

    def seen(self, model: Model, features: Tensor, logits: Tensor) -> Tensor:
        """Return the product of features and probabilities, these as constants."""
        probs = logits.detach().softmax(-1)
        if self.part_name("adversary_map") in model.parts:
            return self.part(model, RandomProduct, "adversary_map").forward(features, probs)
        return feature_class_product(features, probs)

    def sample_weights(self, pair: Pair, clock: Progress) -> tuple[Tensor, Tensor]:
        """Weigh samples by how sure they are, and source samples by class."""
        if not self.settings.entropy:
            return super().sample_weights(pair, clock)
        # As constants: a sample is not to become unsure in order to count less.
        zx, zy = pair.zx.detach(), pair.zy.detach()
        if self.settings.entropy_grad == "reversed":
            zx, zy = (reverse_gradient(z, self.strength(clock)) for z in (pair.zx, pair.zy))
        x, y = entropy_weights(zx.softmax(-1)) * pair.weights, entropy_weights(zy.softmax(-1)) * pair.uniform
        # The sums are constants, as in the authors' code.
        if self.settings.entropy_norm == "per_domain":
            return x / x.detach().sum(), y / y.detach().sum()
        whole = (x.detach().sum() * len(x) + y.detach().sum() * len(y)) / 2
        return x * len(x) / whole, y * len(y) / whole


class RandomProduct(nn.Module):
    """Products of fixed Gaussian projections of features and probabilities (CDAN Eq 6).

    Args:
        width: D. num_classes: K. size: of the product.
    """

    def __init__(self, width: int, num_classes: int, size: int) -> None:
        super().__init__()
        # Buffers: drawn once, so that the discriminator sees the same projection all along, and saved.
        self.register_buffer("of_features", torch.randn(width, size))
        self.register_buffer("of_classes", torch.randn(num_classes, size))

    def forward(self, features: Tensor, probs: Tensor) -> Tensor:
        """Return (R_f f) * (R_p p) / sqrt(size) of features f[B,D] and probabilities f[B,K]."""
        left, right = (self.get_buffer(name) for name in ("of_features", "of_classes"))
        return (features @ left) * (probs @ right) / math.sqrt(left.shape[1])


class MadaSettings(DannSettings):
    """Settings of mada."""

    weight: float = Field(0.3, ge=0, description="of each class's discriminator")


class MADA(DANN):
    """A discriminator for each class sees features by how probable the class is."""

    paper = "Pei et al., AAAI 2018"
    Settings: ClassVar[type[Settings]] = MadaSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(
        "mada", paper={"optim": {"lr": 0.01, "gamma": 3.0}, "train": {"steps": 10000, "steps_per_epoch": 500}}
    )

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the discriminators."""
        grouped = GroupedDomainHeads(len(task.classes), width, self.settings.hidden)
        return {**super().parts(width, task), "adversary": grouped}

    def seen(self, model: Model, features: Tensor, logits: Tensor) -> Tensor:
        """Return p_k f for every class, with p as constants."""
        return feature_class_product(features, logits.detach().softmax(-1))


class MddSettings(ReversalSettings):
    """Settings of mdd."""

    margin: float = Field(4.0, gt=0, description="gamma: what the source counts more than the target")
    strength: float = Field(0.1, gt=0, description="largest strength of the reversed gradient")
    reversal: Literal["progress", "steps"] = "steps"
    bottleneck: int = Field(1024, ge=0)
    hidden: int = Field(1024, ge=1, description="width of either head's hidden layer")
    dropout: float = Field(0.5, ge=0, lt=1, description="inside the heads and behind the bottleneck")


class MDD(Adversarial):
    """A second head agrees with the first on the source and differs from it on the target."""

    paper = "Zhang et al., ICML 2019"
    term_name = "disparity"
    weighs_source = True
    Settings: ClassVar[type[Settings]] = MddSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(
        "mdd", paper={"optim": {"lr": 0.004, "gamma": 4.0, "weight_decay": 5e-4}}
    )
    settings: MddSettings

    def branch(self, channels: int) -> nn.Module:
        """Return the bottleneck with dropout behind it."""
        return nn.Sequential(super().branch(channels), nn.Dropout(self.settings.dropout))

    def head(self, width: int, num_classes: int, dropout: float) -> nn.Module:
        """Return a head with a hidden layer, as the adversary is."""
        layers = nn.Linear(width, self.settings.hidden), nn.ReLU(), nn.Dropout(self.settings.dropout)
        return nn.Sequential(*layers, nn.Linear(self.settings.hidden, num_classes))

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the adversarial head."""
        return {**super().parts(width, task), "adversary": self.head(width, len(task.classes), 0.0)}

    def strength(self, clock: Progress) -> float:
        """Return the factor of the reversed gradient."""
        return self.settings.strength * super().strength(clock)

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return the adversary's loss, with its gradient reversed behind it."""
        adversary, strength = self.part(model, name="adversary"), self.strength(clock)
        x, y = (adversary(reverse_gradient(f, strength)) for f in (pair.x, pair.y))
        return margin_disparity(pair.zx, x, pair.zy, y, self.settings.margin, pair.weights)


class GvbSettings(DannSettings):
    """Settings of gvb."""

    generator: float = Field(1.0, ge=0, description="weight of the classifier's bridge")
    discriminator: float = Field(1.0, ge=0, description="weight of the discriminator's bridge")


class GVB(Adversarial):
    """Bridges take what is of one domain out of the classifier's and the discriminator's answers, and shrink."""

    paper = "Cui et al., CVPR 2020"
    weighs_source = True
    Settings: ClassVar[type[Settings]] = GvbSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(
        "gvb", paper={"data": {"source_batch": 36, "target_batch": 36}, "optim": {"weight_decay": 5e-4}}
    )

    def head(self, width: int, num_classes: int, dropout: float) -> nn.Module:
        """Return the classifier less its bridge."""
        return Bridged(super().head(width, num_classes, dropout), nn.Linear(width, num_classes))

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the discriminator of predictions and its bridge, two outputs of one network."""
        size = self.settings.hidden
        layers = nn.Linear(len(task.classes), size), nn.ReLU(), nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 2)
        return {**super().parts(width, task), "adversary": nn.Sequential(*layers)}

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return the discriminator's cross-entropy on predictions, samples by e^-H, and the sizes of both bridges."""
        strength = self.strength(clock)
        probs = torch.cat([pair.zx, pair.zy]).softmax(-1)
        answer, bridge = self.part(model, nn.Module, "adversary")(reverse_gradient(probs, strength)).chunk(2, 1)
        # The authors' code reverses the gradient of these weights too: the features do not gain by being unsure.
        sure = (-reverse_gradient(entropy(probs), strength)).exp()
        x, y = sure[: len(pair.x)] * pair.weights, sure[len(pair.x) :]
        halves = {"source_weights": x / x.detach().sum() / 2, "target_weights": y / y.detach().sum() / 2}
        value = domain_cross_entropy(answer - bridge, len(pair.x), **halves)
        own: Tensor = model.heads["main"].get_submodule("bridge")(torch.cat([pair.x, pair.y]))
        sizes = self.settings.generator * own.abs().mean() + self.settings.discriminator * bridge.abs().mean()
        total: Tensor = value + sizes
        return total


class Bridged(nn.Module):
    """A classifier's logits less those of a bridge."""

    def __init__(self, classifier: nn.Module, bridge: nn.Module) -> None:
        super().__init__()
        self.classifier, self.bridge = classifier, bridge

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits f[B,K] of features f[B,D]."""
        difference: Tensor = self.classifier(features) - self.bridge(features)
        return difference
