"""The base class of plugins: a name, frozen settings and presets; hook implementations are its methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, overload

from fercore.config import Settings

if TYPE_CHECKING:
    from torch import nn

    from fercore.models.model import Model

PartT = TypeVar("PartT", bound="nn.Module")


class Plugin:
    """A method or an add-on.

    Instances hold frozen settings only. Whatever lives past a call (banks, prototypes, thresholds, averaged weights)
    is a parameter or buffer in `model.parts["<plugin>/..."]`, so that it moves with the model, is saved and resumes.

    Attributes:
        kind: a run has exactly one "method"; an "addon" wraps the method's hooks.
        paper: where it comes from, in a few words ("Sohn et al., NeurIPS 2020"); `fercore plugins` shows it.
        Settings: the class of the plugin's settings, checked strictly.
        presets: preset name -> layer of run settings ({"data": {...}, "<plugin>": {...}}) that this plugin wants there.
        from_model: layer of run settings that it wants on top where a run starts from a trained model (--init,
            --pretrain-source), under every preset but paper: what suits random weights may throw a trained head away.
        requires, conflicts: names of plugins that must, or must not, be in the same run.
        needs_source: it cannot run without a labelled source. Where it is False, a run may have the target alone: hooks
            get a source side without a sample, and no view of the source may be asked for.
        weighs_source: its terms between domains weigh source samples by `fercore.models.source_weights`, which
            `align.class_weights` asks for.
        joint_forward: both sides' images of one view may pass the network in one forward, as far as this plugin goes:
            it treats every row of `encode` alike whatever its side, reads no extras there, nothing in the network mixes
            rows but batch normalisation, whose statistics stay a side's own, and gradients flow back from both sides
            (a side that only gives pseudo labels would pay for a backward pass it does not need).
        runs_network: it runs the network by itself, `model(images)`, beside the forward that `encode` wraps or gives;
            a trained model that is adapted as it is must answer so.
        training_parts: beginnings of the names PART of `model.parts["<plugin>/PART"]` that `encode` and `predict` do
            without in evaluation; the model of a finished run holds all others.
    """

    kind: ClassVar[Literal["method", "addon"]] = "method"
    paper: ClassVar[str] = ""
    Settings: ClassVar[type[Settings]] = Settings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    from_model: ClassVar[Mapping[str, Any]] = {}
    requires: ClassVar[tuple[str, ...]] = ()
    conflicts: ClassVar[tuple[str, ...]] = ()
    needs_source: ClassVar[bool] = True
    weighs_source: ClassVar[bool] = False
    joint_forward: ClassVar[bool] = False
    runs_network: ClassVar[bool] = False
    training_parts: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str, settings: Any) -> None:
        self.name = name
        self.settings = settings

    def part_name(self, name: str = "state") -> str:
        """Return the key of a part of this plugin in `model.parts`; parameters of it start with "parts.<key>."."""
        return f"{self.name}/{name}"

    def attach(self, model: Model, module: nn.Module, name: str = "state") -> None:
        """Keep a module in the model, so that it moves, is saved and resumes with it."""
        model.parts[self.part_name(name)] = module

    @overload
    def part(self, model: Model, kind: type[PartT], name: str = "state") -> PartT: ...

    @overload
    def part(self, model: Model, kind: None = None, name: str = "state") -> Any: ...

    def part(self, model: Model, kind: type[nn.Module] | None = None, name: str = "state") -> Any:
        """Return what `attach` put there.

        Args:
            model: the run's network. kind: the module's class, which a type checker then knows; None = any. name: of
                the part.

        Raises:
            KeyError: if there is no such part. TypeError: if it is of another class.
        """
        part = model.parts[self.part_name(name)]
        if kind is not None and not isinstance(part, kind):
            raise TypeError(f"part {self.part_name(name)!r} is {type(part).__name__}, not {kind.__name__}")
        return part

    def goes_by_length(self) -> str:
        """Say what of it goes by the length of training: `Progress.progress`, `Progress.total_steps`.

        Returns:
            It, in a few words with the setting; "" = nothing, so that a run may be made longer.
        """
        return "it does not say that it does not (Plugin.goes_by_length)"

    def needs_whole_weights(self) -> str:
        """Say why it cannot train where each process has a part of the network's weights (`strategy=fsdp`).

        Returns:
            Why, in a few words: it reads or writes them by itself, keeps a copy of the network in a part, or runs the
            network another number of times for one process's rows than for another's. "" = it does none of that.
        """
        return ""

    def prediction_extras(self) -> tuple[str, ...]:
        """Return the names in `DomainBatch.extras` without which it cannot predict; () = images are enough."""
        return ()
