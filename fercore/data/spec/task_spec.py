"""What a run learns from and adapts to: its specs, and what follows from them together."""

from __future__ import annotations

from dataclasses import dataclass

from fercore.data.spec.domain_spec import DomainSpec
from fercore.errors import UserInputError


@dataclass(frozen=True)
class TaskSpec:
    """A run's domains.

    Attributes:
        sources: labelled domains. A target with a few labels (?shots=) is the last of them too.
        target: the unlabelled domain, with the part that is tested on.
        seed: of every drawing that has no seed in its spec: parts, labels, limits.
    """

    sources: tuple[DomainSpec, ...]
    target: DomainSpec
    seed: int = 0

    @property
    def specs(self) -> tuple[DomainSpec, ...]:
        """All of them, the target last."""
        return (*self.sources, self.target)

    @property
    def divided(self) -> DomainSpec | None:
        """The source whose samples are labelled in part; equal to the target where the rest of it is adapted to."""
        return next((spec for spec in self.sources if spec.divides), None)

    @property
    def few_shot_domain(self) -> int | None:
        """Number of the source that holds labelled samples of the target, as `DomainBatch.domain` has it; or None."""
        return self.sources.index(self.target) if self.target.divides and self.target in self.sources else None

    @property
    def transductive(self) -> bool:
        """Whether a target adapts and is tested on the same images."""
        return self.target.flag("transductive")

    def check(self) -> None:
        """Make sure that the options of the specs go together.

        Raises:
            UserInputError: if two sources are to be divided, the target is to be divided and is no source, or a source
                asks for what is the target's.
        """
        target, divided = self.target, [spec for spec in self.sources if spec.divides]
        for spec in self.sources:
            if spec.asks_for_few and spec != target:
                fix = "write it after --target; of a source, ?labels=NUMBER labels so many images over all classes"
                raise UserInputError(f"option {spec.how_many} on a source", where=spec.where, fix=fix)
        if len(divided) > 1:
            fix = "drop " + " or ".join(dict.fromkeys(f"?{spec.how_many}=" for spec in divided)) + " from all but one"
            where = f"{divided[0].where}, {divided[1].where}"
            raise UserInputError("two sources are to be divided", where=where, fix=fix)
        if target.divides and target not in divided:
            fix = "write the same spec as --source and leave --target out, "
            fix += "or ?shots= for a few labels beside other sources"
            raise UserInputError(
                "a target with ?labels= is the rest of a source's dataset", where=target.where, fix=fix
            )
        if target.asks_for_few and len(self.sources) == 1:
            fix = "give a labelled --source, or learn from one dataset alone with --source SPEC?labels=NUMBER"
            what = f"option {target.how_many} without a source beside the target"
            raise UserInputError(what, where=target.where, fix=fix)
        if target in divided and target.flag("transductive"):
            fix = "remove one of them: labelled images would be test images"
            what = f"options {target.how_many} and transductive at once"
            raise UserInputError(what, where=target.where, fix=fix)
        for spec in self.sources:
            if spec.flag("transductive"):
                fix = "only a target adapts; remove it"
                raise UserInputError("option transductive on a source", where=spec.where, fix=fix)
