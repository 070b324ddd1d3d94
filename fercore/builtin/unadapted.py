"""no_adaptation: a trained model as it is; what every adaptation of it is to be better than."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from fercore.plugin import Encoded, Model, Plugin, RunConfig, Side, Stage, ViewRequest, hookimpl


class NoAdaptation(Plugin):
    """A trained model as it is: scored, recorded and written like one that was adapted. Nothing is trained."""

    needs_source = False

    def goes_by_length(self) -> str:
        """The stream does: it is as long as the target."""
        return "a stream is as long as its target"

    @hookimpl
    def request_views(self, config: RunConfig) -> Sequence[ViewRequest]:
        """Ask for the images of each side as they are; a source, which is not needed, may calibrate."""
        sides: tuple[Side, ...] = ("source", "target") if config.data.sources else ("target",)
        return [ViewRequest(side, "plain", "none") for side in sides]

    @hookimpl
    def plan(self) -> Sequence[Stage]:
        """Pass over the target once, as over a stream to which nothing adapts."""
        return [Stage("predict", phases=(), epochs=1, stream=True)]

    @hookimpl(wrapper=True)
    def encode(self, model: Model) -> Generator[None, Encoded, Encoded]:
        """Leave the statistics of its normalisation layers alone."""
        model.eval()
        return (yield)
