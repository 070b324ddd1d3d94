"""What a run learns from and adapts to: its specs, and what follows from them together."""

from __future__ import annotations

from dataclasses import dataclass

from fercore.data.spec.domain_spec import DomainSpec
from fercore.errors import UserInputError


@dataclass(frozen=True)
class ValidationSpec:
    """Samples of a source that no step trains on, for scores that need labels which are not the target's.

    Attributes:
        source: its number. domain: its spec. share: of its labelled samples.
    """

    source: int
    domain: DomainSpec
    share: float


@dataclass(frozen=True)
class EvaluationSpec:
    """Samples that the run is scored on.

    Attributes:
        domain: the spec whose test part they are. transductive: they are those that the run adapts to.
    """

    domain: DomainSpec
    transductive: bool


@dataclass(frozen=True)
class TaskSpec:
    """A run's domains, and what of them trains, validates and tests.

    Attributes:
        sources: labelled domains. A target with a few labels (?shots=) is the last of them too.
        target: the unlabelled domain that the run adapts to.
        seed: of every drawing that has no seed in its spec: parts, labels, limits.
        classes: names of the classes; None = those that all domains with labels share.
        held_out: share of each source that validates.
    """

    sources: tuple[DomainSpec, ...]
    target: DomainSpec
    seed: int = 0
    classes: tuple[str, ...] | None = None
    held_out: float = 0.0

    @property
    def validation(self) -> tuple[ValidationSpec, ...]:
        """What validates: a share of every source but one that is labelled in part, whose few labels all train."""
        wholes = [(number, spec) for number, spec in enumerate(self.sources) if spec != self.divided]
        return tuple(ValidationSpec(*each, self.held_out) for each in wholes) if self.held_out else ()

    @property
    def test(self) -> EvaluationSpec:
        """What is scored: the target's test part, or all of it."""
        return EvaluationSpec(self.target, self.target.flag("transductive"))

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
        if target in divided and self.test.transductive:
            fix = "remove one of them: labelled images would be test images"
            what = f"options {target.how_many} and transductive at once"
            raise UserInputError(what, where=target.where, fix=fix)
        for spec in self.sources:
            if spec.flag("transductive"):
                fix = "only a target adapts; remove it"
                raise UserInputError("option transductive on a source", where=spec.where, fix=fix)
