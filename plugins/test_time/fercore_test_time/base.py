"""What the methods share: the trained network as it is, one plain view of the stream, other rules for its norms."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar, Literal

from pydantic import Field

from fercore.models import (
    NormKind,
    NormRule,
    batch_norms,
    batch_statistics,
    mixed_statistics,
    norm_parameters,
    normalised_by,
)
from fercore.plugin import (
    DomainBatch,
    Encoded,
    Forward,
    Model,
    ParamGroup,
    Phase,
    Plugin,
    Progress,
    Purpose,
    RunConfig,
    Settings,
    Side,
    Stage,
    UserInputError,
    ViewRequest,
    hookimpl,
    optimiser_from,
)

STREAM = "stream"
VIEW: tuple[Side, str] = ("target", STREAM)


def presets(batch: int = 64, **optim: Any) -> dict[str, Mapping[str, Any]]:
    """Return the presets of a method: the published optimiser at a constant rate, whatever the data."""
    base = {"nesterov": False, "weight_decay": 0.0, "schedule": "constant", "warmup_steps": 0, **optim}
    return {name: {"data": {"target_batch": batch}, "optim": base} for name in ("demo", "small", "paper")}


class TestTime(Plugin):
    """A method that adapts a trained network while it predicts; subclasses say with what.

    The network runs in evaluation mode throughout (no dropout), its batch normalisation as `rule` says.
    """

    __test__ = False  # pytest takes the name for a test's
    needs_source = False
    settings: Any
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets()

    def goes_by_length(self) -> str:
        """The stream does: it is as long as the target."""
        return "a stream is as long as its target"

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for the images as they are."""
        return [ViewRequest("target", STREAM, "none")]

    @hookimpl
    def plan(self, config: RunConfig, model: Model) -> Sequence[Stage]:
        """Lay out one pass over the stream."""
        return [Stage(STREAM, epochs=1, phases=tuple(self.phases(config, model)), stream=True)]

    @hookimpl(wrapper=True)
    def build_model(self, config: RunConfig, num_classes: int) -> Generator[None, Model, Model]:
        """Attach to the trained network what the method keeps."""
        model = yield
        self.prepare(model, config, num_classes)
        return model

    @hookimpl(wrapper=True)
    def encode(
        self, model: Model, batch: DomainBatch, view: str, clock: Progress, purpose: Purpose
    ) -> Generator[None, Encoded, Encoded]:
        """Run the network, in the stream with the method's norms, and answer as the method does."""
        streaming = purpose == "train"
        with_norms = ExitStack()  # closed behind the yield, which no context manager may be around
        if streaming:
            model.eval()
            rule = self.rule(model, len(batch), clock)
            if rule is not None:
                with_norms.enter_context(normalised_by(model, rule))
        try:
            encoded = yield
        finally:
            with_norms.close()
        return self.answer(model, batch, encoded, clock) if streaming else self.evaluated(model, encoded)

    @hookimpl
    def refresh(self, model: Model, clock: Progress) -> None:
        """Take from the network what the method keeps of it, as the stream begins: its weights are all there now."""
        if clock.step == 0:
            self.begin(model)

    def begin(self, model: Model) -> None:
        """Fill the parts that come from the network's weights."""

    def phases(self, config: RunConfig, model: Model) -> Iterator[Phase]:
        """Yield what is trained; nothing where the method has no gradient."""
        yield from ()

    def prepare(self, model: Model, config: RunConfig, num_classes: int) -> None:
        """Refuse a network that the method cannot adapt, and attach its parts."""

    def rule(self, model: Model, n: int, clock: Progress) -> NormRule | None:
        """Return what stands in for batch normalisation on a stream's batch of n images; None = running statistics."""
        return None

    def answer(self, model: Model, batch: DomainBatch, encoded: Encoded, clock: Progress) -> Encoded:
        """Return the answer to a stream's batch, of what the network says."""
        return encoded

    def evaluated(self, model: Model, encoded: Encoded) -> Encoded:
        """Return the answer of the model after the stream, of what the network says."""
        return encoded


class NormSettings(Settings):
    """Settings of methods that train the scale and shift of normalisation layers."""

    affine_of: NormKind = Field("any_norm", description="batch_norm, or any_norm: layer and group norms as well")
    statistics: Literal["batch", "mixed", "running"] = Field(
        "batch",
        description="what batch norms take: the batch's, n / (source_count + n) of it, or the source's",
    )
    source_count: int = Field(16, ge=1, description="images that the source's statistics count as, for mixed")
    momentum: float = Field(
        0.1, ge=0, le=1, description="how far running statistics, which the model has after the stream, move a batch"
    )


class NormTrained(TestTime):
    """A method that trains the scale and shift of normalisation layers, on batch statistics."""

    Settings: ClassVar[type[Settings]] = NormSettings
    frozen: ClassVar[tuple[str, ...]] = ()

    def phases(self, config: RunConfig, model: Model) -> Iterator[Phase]:
        """Yield the one phase over those layers."""
        names = norm_parameters(model, self.settings.affine_of, frozen=self.untouched(), who=self.name)
        yield Phase("adapt", (ParamGroup(names),), optimiser_from(config), config.optim.clip_grad_norm)

    def untouched(self) -> tuple[str, ...]:
        """Return the modules of the backbone whose layers are not trained."""
        return ()

    def prepare(self, model: Model, config: RunConfig, num_classes: int) -> None:
        """Refuse a network without such layers, and batches of one where their statistics are the batch's."""
        norm_parameters(model, self.settings.affine_of, frozen=self.untouched(), who=self.name)
        if self.settings.statistics == "batch" and config.data.target_batch == 1 and batch_norms(model):
            what = f"{self.name} normalises by the statistics of a batch, and a batch of one has none of a class's"
            fix = f"--set {self.name}.statistics=mixed, larger batches, or rotta, note, lame, t3a"
            raise UserInputError(what, where="data.target_batch=1", fix=fix)

    def rule(self, model: Model, n: int, clock: Progress) -> NormRule | None:
        """Return the statistics that the settings say; a second forward of a batch moves no running ones."""
        how, momentum = self.settings, self.settings.momentum if clock.forward == 0 else 0.0
        if how.statistics == "batch":
            return batch_statistics(momentum)
        share = n / (how.source_count + n) if how.statistics == "mixed" else 0.0
        return mixed_statistics(share, momentum) if share else None


def said(encoded: Forward) -> Encoded:
    """Return what the network said of the stream's batch."""
    return encoded[VIEW]
