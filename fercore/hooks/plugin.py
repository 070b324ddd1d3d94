"""The base class of plugins: a name, frozen settings and presets; hook implementations are its methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from fercore.config import Settings


class Plugin:
    """A method or an add-on.

    Instances hold frozen settings only. Whatever lives past a call (banks, prototypes, thresholds, averaged weights)
    is a parameter or buffer in `model.parts["<plugin>/..."]`, so that it moves with the model, is saved and resumes.

    Attributes:
        kind: a run has exactly one "method"; an "addon" wraps the method's hooks.
        paper: where it comes from, in a few words ("Sohn et al., NeurIPS 2020"); `fercore plugins` shows it.
        Settings: the class of the plugin's settings, checked strictly.
        presets: preset name -> layer of run settings ({"data": {...}, "<plugin>": {...}}) that this plugin wants there.
        requires, conflicts: names of plugins that must, or must not, be in the same run.
        joint_forward: both sides' images of one view may pass the network in one forward, as far as this plugin goes:
            it treats every row of `encode` alike whatever its side, reads no extras there, nothing in the network mixes
            rows but batch normalisation, whose statistics stay a side's own, and gradients flow back from both sides
            (a side that only gives pseudo labels would pay for a backward pass it does not need).
        training_parts: beginnings of the names PART of `model.parts["<plugin>/PART"]` that `encode` and `predict` do
            without in evaluation; the model of a finished run holds all others.
    """

    kind: ClassVar[Literal["method", "addon"]] = "method"
    paper: ClassVar[str] = ""
    Settings: ClassVar[type[Settings]] = Settings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    requires: ClassVar[tuple[str, ...]] = ()
    conflicts: ClassVar[tuple[str, ...]] = ()
    joint_forward: ClassVar[bool] = False
    training_parts: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str, settings: Any) -> None:
        self.name = name
        self.settings = settings

    def goes_by_length(self) -> str:
        """Say what of it goes by the length of training: `Clock.progress`, `Clock.total_steps`.

        Returns:
            It, in a few words with the setting; "" = nothing, so that a run may be made longer.
        """
        return "it does not say that it does not (Plugin.goes_by_length)"

    def prediction_extras(self) -> tuple[str, ...]:
        """Return the names in `DomainBatch.extras` without which it cannot predict; () = images are enough."""
        return ()
