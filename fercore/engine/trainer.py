"""The loop of a run: stages, epochs, batches, evaluation in between, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from fercore.data import side_info, side_table
from fercore.documents import Shape, misfit
from fercore.engine import results
from fercore.engine.agreement import level
from fercore.engine.class_weights import renew_shares
from fercore.engine.gathering import Gathering
from fercore.engine.gradients import FeatureGradients
from fercore.engine.loggers import Loggers
from fercore.engine.observer import Observer
from fercore.engine.online import Online
from fercore.engine.phases import PhaseRunner, optimisers_of, runners_of
from fercore.engine.resume import settings_of, stages_of
from fercore.engine.selection import Candidates, Chosen, gather, scores_of
from fercore.engine.setup import LAST, RunContext
from fercore.engine.step import NonFiniteLoss, train_step
from fercore.errors import UserInputError
from fercore.evaluation.evaluate import placed
from fercore.hooks.checks import HookError
from fercore.models.shards import own_part
from fercore.random_state import random_state, restore_random_state
from fercore.records.plan import Stage, StepReport
from fercore.records.result import SCORES, OracleBest, Scores
from fercore.records.step import SIDES, Batch, EncodedDataset, Progress, Side
from fercore.runs import checkpoint
from fercore.runs.folder import RunFolder
from fercore.stopping import StopRequest
from fercore.terminal import counted

Count = Annotated[int, Field(ge=0, lt=2**53)]


class _Progress(Shape):
    """How far a run is, as its checkpoint says; what else is in it, its owners check."""

    stage_index: Count
    step: Count
    images: Count
    log_size: Count
    skipped: dict[str, Count]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    oracle: OracleBest | None


class Trainer:
    """Trains one run.

    Args:
        context: the run's parts.
        folder: where it is recorded.
        observer: hears of progress.
        stop: hears signals; a run in training stops after a batch, with a checkpoint.
    """

    def __init__(self, context: RunContext, folder: RunFolder, observer: Observer, stop: StopRequest) -> None:
        self.context, self.folder, self.observer, self.stop = context, folder, observer, stop
        self.processes = context.processes
        self.candidates = Candidates(folder.candidates, context.config.select.rule)
        self.loader = context.loader()
        self.stage_index = 0
        self.step = 0
        self.seconds = 0.0
        self.images = 0
        self.skipped: dict[str, int] = {}
        self.oracle: OracleBest | None = None
        self.runners: list[PhaseRunner] = []
        self.loggers = Loggers(observer.message)
        self.online: Online | None = None
        self.answers: list[Tensor] = []
        self.gradients: list[FeatureGradients] = []
        self.saved_at = -1
        self.ended = False

    @property
    def done(self) -> int:
        """Batches trained on, over all stages."""
        return sum(stage.steps for stage in self.context.stages[: self.stage_index]) + self.step

    @property
    def total(self) -> int:
        """Batches of the whole run."""
        return sum(stage.steps for stage in self.context.stages)

    def train(self, old_end: int | None = None) -> None:
        """Train every stage from where the run stands.

        Args:
            old_end: batches that the run had before it was made longer.
        """
        self.observer.begin(self.done, self.total)
        self.stop.patient = True
        try:
            if self.processes.first:
                self.loggers.start(self.folder.path, self.context.config, self.done)
            if self.done == old_end:
                self._pass_old_end()
            while self.stage_index < len(self.context.stages):
                self._train_stage(self.context.stages[self.stage_index])
                if self.ended:
                    break
                # `done` counts whole stages by the index and the rest by the step: both change in one statement.
                self.stage_index, self.step, self.runners = self.stage_index + 1, 0, []
            self.stop.obey()
        finally:
            self.stop.patient = False
            self.observer.end()

    def _train_stage(self, stage: Stage) -> None:
        self._enter(stage)
        per_epoch = stage.steps_per_epoch or self.loader.steps_per_epoch
        self.context.model.train()
        while self.step < stage.steps and not self.ended:
            started = time.perf_counter()
            # `step` counts batches of the stage that are finished: hooks of batch n see n, from 0.
            clock = Progress(stage.name, "", self.step // per_epoch, self.step, stage.steps)
            # A run resumed at the border of an epoch begins it here: checkpoints are written before it begins.
            if self.step % per_epoch == 0:
                with self.context.whole():
                    self._begin_epoch(clock)
            reports = self._train_batch(stage, clock)
            self.step += 1
            self.seconds += time.perf_counter() - started
            self._after_batch(reports, clock)
        for runner in self.runners:
            runner.release()

    def _enter(self, stage: Stage) -> None:
        # Not after `restore`, which has entered the stage and loaded its optimisers.
        if not self.runners:
            context, train = self.context, self.context.config.train
            if context.shards is not None:
                average = None if context.average is None else context.average.model
                context.shards.divide(context.fabric.device, average)
            # A fused optimiser unscales gradients by itself, which leaves nothing to clip in 16-bit precision.
            fused = train.fused_optimiser and train.precision != "16-mixed"
            self.runners = runners_of(context.fabric, stage, context.model, fused=fused)
            self.loader = context.loader(stage, start=self.done)

    def _online(self, stage: Stage) -> Online:
        context = self.context
        classes, views = len(context.domains.classes), context.views_of(stage)
        return Online(context.fabric, context.module, self.runners, views, classes, context.config.stream)

    def _begin_epoch(self, clock: Progress) -> None:
        context, average = self.context, self.context.average
        # What differs afterwards a plugin has written: see `WeightAverage.adopt`.
        before = [] if average is None else [own_part(p).clone() for p in context.model.parameters()]

        def encode_dataset(side: Side) -> EncodedDataset:
            if average is not None:
                # Before the average is run over the data, and again after
                # the hook: it may write between and after readings.
                average.adopt(context.model, before)
            table = side_table(context.domains, side)
            if not len(table):
                raise HookError(f"encode_dataset({side!r}): the run has no {side}")
            return context.evaluator.encode(context.reported, table, clock, side)

        shares = renew_shares(context.model, context.config, clock, encode_dataset)
        metrics = {**shares, **(context.plugins.refresh(context.model, clock, encode_dataset, context.task) or {})}
        if average is not None:
            average.adopt(context.model, before)
        if metrics:
            self.folder.log(
                {"kind": "refresh", "done": self.done, "stage": clock.stage, "epoch": clock.epoch, **metrics}
            )
        for side in SIDES:
            info = side_info(context.domains, side)
            # A stream's order is the engine's: nobody chooses what comes next.
            if not len(info) or context.stages[self.stage_index].stream:
                continue
            sampler = context.plugins.build_sampler(context.config, context.model, info, side, clock)
            with context.plugins.blaming("build_sampler"):
                self.loader.set_sampler(side, sampler)
        for optimiser in optimisers_of(self.runners):
            optimiser.begin_epoch()

    def _train_batch(self, stage: Stage, clock: Progress) -> list[StepReport]:
        context = self.context
        batch = placed(self._next_batch(), context.fabric)
        gathering = self._gathering()
        drawn = batch if gathering is None else gathering.whole.batch
        self.images += len(drawn.source) + len(drawn.target)
        if stage.stream:
            # Here, not as the stage is entered: `refresh` may have copied the network into parts since.
            self.online = self.online or self._online(stage)
            return self._take(self.online, batch, clock)
        reports, views = [], context.views_of(stage)
        turn = clock.epoch % len(self.runners)
        moving = self.runners if stage.alternating == "step" else [self.runners[turn]]
        for runner in moving:
            for repeat in range(runner.repeats):
                now = replace(clock, phase=runner.name, repeat=repeat)
                report = train_step(
                    context.fabric, context.module, runner, batch, views, now,
                    gathering=gathering, gradients=self._look(now),
                )  # fmt: skip
                reports.append(report)
        level(context)
        for optimiser in optimisers_of(moving):
            optimiser.advance()
        if context.average is not None:
            context.average.update(context.model)
        return reports

    def _look(self, now: Progress) -> FeatureGradients | None:
        """Return what looks at the gradients of a step; None where nobody asked to."""
        every, number = self.context.config.report.gradients, self.done + 1
        if not every or (number % every and number not in (1, self.total)):
            return None
        self.gradients.append(FeatureGradients(self.context.model, now))
        return self.gradients[-1]

    def _next_batch(self) -> Batch:
        """Return this process's part of the next batch.

        Raises:
            UserInputError: for an unusable image, whichever process has it.
        """
        if not self.processes.several:
            return next(self.loader)
        batch, fault = None, None
        try:
            batch = next(self.loader)
        except UserInputError as error:
            fault = error
        if self.processes.largest([int(fault is not None)]) == [1]:
            self.processes.together(partial(_say, fault))
        assert batch is not None
        return batch

    def _gathering(self) -> Gathering | None:
        """Return what joins the parts of the batch that was drawn last; None where it has one part."""
        if not self.processes.several:
            return None
        train = self.context.config.train
        joined, statistics = train.sync == "batch", train.batch_norm == "all"
        return Gathering(self.loader.whole(), self.processes, joined, statistics)

    def _take(self, online: Online, batch: Batch, clock: Progress) -> list[StepReport]:
        """Predict a stream's batch, adapt to it, and tell of what went back to the initial weights."""
        alarms, resets = len(online.alarms), dict(online.resets)
        probs, reports = online.take(batch, clock)
        self.answers.append(probs.float().cpu())
        for optimiser in optimisers_of(self.runners):
            optimiser.advance()
        if self.context.average is not None:
            self.context.average.update(self.context.model)
        for text in online.alarms[alarms:]:
            after = {"stop": "predicting with the initial model from here on", "reset": "adapting anew"}
            self.observer.message(f"alarm {text}; {after[self.context.config.stream.alarm]}")
        for reason, times in online.resets.items():
            if times != resets.get(reason, 0):
                self.folder.log({"kind": "reset", "done": self.done, "images": online.images, "reason": reason})
        return reports

    def _after_batch(self, reports: list[StepReport], clock: Progress) -> None:
        train = self.context.config.train
        for report in reports:
            name = f"{report.stage}/{report.phase}"
            if report.skipped:
                self.skipped[name] = self.skipped.get(name, 0) + 1
            self.observer.step(report, self.done)
            if self.done % train.log_every == 0 or self.done in (1, self.total):
                self._log(report)
        while self.gradients:
            found = self.gradients.pop(0)
            self.folder.log({**found.line(), "done": self.done})
            for group, values in found.scalars().items():
                self.loggers.scalars(group, values, self.done)
        if train.eval_every and self.done % train.eval_every == 0 and self.done < self.total:
            self._evaluate_first(clock)
        self.ended = self._enough()
        if self.processes.several:
            # Signals reach processes at different times, and all have to stop after the same batch.
            asked, ended = self.processes.largest([self.stop.asked or 0, int(self.ended)])
            self.stop.asked, self.ended = asked or None, bool(ended)
        if self.stop.asked or self.ended or self.done % train.checkpoint_every == 0 or self.done == self.total:
            self.save()
            self.stop.obey()

    def _enough(self) -> bool:
        """Return whether whoever watches ends training here; the first process's word counts."""
        if self.done == self.total or not self.processes.first:
            return False
        usable = self.stage_index == len(self.context.stages) - 1 and not self.context.stages[-1].stream
        return self.observer.enough(self.done, usable=usable) and usable

    def _evaluate_first(self, clock: Progress) -> None:
        """Score the network in between: the first process does, and the others wait for it."""
        with self.context.whole():
            if self.processes.first:
                self.evaluate(clock, oracle=self.context.config.select.oracle)

    def _log(self, report: StepReport) -> None:
        rate = self.images / max(self.seconds, 1e-9)
        where = {"stage": report.stage, "phase": report.phase, "epoch": report.epoch, "step": report.step}
        values: dict[str, Any] = {"total": report.total, "terms": dict(report.terms), "lr": list(report.lr)}
        values["skipped"] = self.skipped.get(f"{report.stage}/{report.phase}", 0)
        self.folder.log({"kind": "step", "done": self.done, **where, **values, "images_per_second": round(rate, 1)})
        self.loggers.scalars(f"loss/{report.phase}", {**report.terms, "total": report.total}, self.done)
        rates = {f"group{number}": rate for number, rate in enumerate(report.lr)}
        self.loggers.scalars(f"learning_rate/{report.phase}", rates, self.done)

    def _pass_old_end(self) -> None:
        """Evaluate where a run of this length would have: the shorter one's last evaluation is no part of it."""
        train, stage = self.context.config.train, self.context.stages[self.stage_index]
        if train.eval_every and self.done % train.eval_every == 0:
            per_epoch, step = stage.steps_per_epoch or self.loader.steps_per_epoch, self.step - 1
            clock = Progress(stage.name, "", step // per_epoch, step, stage.steps)
            self._evaluate_first(clock)

    def evaluate(self, clock: Progress, *, oracle: bool) -> Scores:
        """Score the target's test part as the run stands; keeps the oracle's best where that was asked for."""
        context = self.context
        if context.config.train.eval_every:
            self._score_without_labels(clock)
        scores = results.evaluate_target(context, clock)
        primary_metric = context.config.report.primary_metric
        self.observer.evaluated(scores, primary_metric, self.done)
        summary: dict[str, float] = {name: value for name in SCORES if (value := scores.score(name)) is not None}
        if not summary:
            return scores
        self.folder.log({"kind": "evaluation", "done": self.done, **summary, "uses_target_labels": True})
        self.loggers.scalars("target", summary, self.done)
        if oracle and (self.oracle is None or summary[primary_metric] > self.oracle.score(primary_metric)):
            self.oracle = OracleBest(**summary, epoch=clock.epoch, step=self.done, uses_target_labels=True)
        return scores

    def _score_without_labels(self, clock: Progress) -> None:
        """Log the scores that need no label of the target, and keep the candidate where one of them will choose."""
        context, rule = self.context, self.context.config.select.rule
        wanted = context.config.select.scores
        evidence = gather(context, clock, wanted if rule == LAST else (*wanted, rule))
        scores = scores_of(context, evidence)
        self.folder.log({"kind": "selection", "done": self.done, **scores, "uses_target_labels": False})
        self.loggers.scalars("selection", scores, self.done)
        self.observer.selected(scores, self.done)
        if rule != LAST:
            self.candidates.keep(context, clock, evidence, self.done)

    def choose(self) -> Chosen | None:
        """Give the network the weights of the candidate that `select.rule` takes, if it is not to be the last one."""
        return None if self.candidates.rule == LAST else self.candidates.choose(self.context)

    def save(self) -> None:
        """Write a checkpoint of everything that decides how training goes on."""
        # The last batch may be a checkpoint of its own, and an interrupt ask for one too.
        if self.saved_at == self.done:
            return
        # Where weights are divided every process has to hand in its parts, the first one for the file.
        optimisers = [optimiser.state_dict() for optimiser in optimisers_of(self.runners)]
        with self.context.whole():
            self._save(optimisers)
        self.saved_at = self.done

    def _save(self, optimisers: list[dict[str, Any]]) -> None:
        if name := self._not_finite():
            where = f"after {counted(self.done, 'step')}"
            fix = "start again with a lower optim.lr or optim.clip_grad_norm=1.0; older checkpoints are kept"
            raise NonFiniteLoss(f"weights {name!r} are no longer finite", where=where, fix=fix)
        if not self.processes.first:
            return
        state = {
            "settings": settings_of(self.context.resolved),
            "stages": stages_of(self.context),
            "log_size": self.folder.log_size(),
            "precision": dict(self.context.fabric.strategy.precision.state_dict()),
            "stage_index": self.stage_index,
            "step": self.step,
            "seconds": self.seconds,
            "images": self.images,
            "skipped": dict(self.skipped),
            "oracle": None if self.oracle is None else self.oracle.model_dump(),
            "model": dict(self.context.trained.state_dict()),
            "average": None if self.context.average is None else self.context.average.state_dict(),
            "online": None if self.online is None else self.online.state_dict(),
            "answers": torch.cat(self.answers) if self.answers else None,
            "optimisers": optimisers,
            "loader": self.loader.state_dict(),
            "random": random_state(),
        }
        checkpoint.save(self.folder.checkpoints / checkpoint.name_of(self.done), state)
        # After saving: there is never a moment without a whole checkpoint.
        checkpoint.prune(self.folder.checkpoints, self.context.config.train.keep_checkpoints)

    def _not_finite(self) -> str:
        """Return the name of the first weights or buffers that are no longer finite, or ""."""
        tensors = self.context.trained.state_dict().items()
        return next((name for name, t in tensors if t.is_floating_point() and not torch.isfinite(t).all()), "")

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put the run back where a checkpoint left it.

        Raises:
            Exception: of any kind, if it is not the state of such a run; see `checkpoint.naming_damage`.
        """
        if fault := misfit(state, _Progress):
            raise ValueError(fault)
        recorded = _Progress.model_validate(state)
        self.stage_index, self.step = recorded.stage_index, recorded.step
        ends = [stage.steps for stage in self.context.stages]
        if self.stage_index >= len(ends) or self.step > ends[self.stage_index]:
            raise ValueError(f"stage {self.stage_index}, step {self.step} is not in the plan of {ends} steps")
        self.seconds, self.images, self.oracle = recorded.seconds, recorded.images, recorded.oracle
        self.skipped = dict(recorded.skipped)
        self.context.model.load_state_dict(state["model"])
        if name := self._not_finite():  # none was saved so
            raise ValueError(f"weights {name!r} are not finite")
        if self.context.average is not None:
            self.context.average.load_state_dict(state["average"])
        # After the weights: optimisers are made for the parameters as they are.
        self._enter(self.context.stages[self.stage_index])
        self._restore_stream(state)
        for optimiser, saved in zip(optimisers_of(self.runners), state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.loader.load_state_dict(state["loader"])
        # Late: building runners and loaders may draw.
        restore_random_state(state["random"])
        self.context.fabric.strategy.precision.load_state_dict(state["precision"])
        self.saved_at = self.done
        # Last: lines are cut off only once everything else of the checkpoint has proved good.
        self.folder.rewind_log(recorded.log_size)

    def _restore_stream(self, state: Mapping[str, Any]) -> None:
        """Take up the stream that a checkpoint was written in or after."""
        stage = next((stage for stage in self.context.stages if stage.stream), None)
        if stage is None or state["online"] is None:
            return
        self.online = self._online(stage)
        self.online.load_state_dict(state["online"])
        answers: Tensor = state["answers"]
        if answers.shape != (self.online.images, len(self.context.domains.classes)):
            raise ValueError(f"answers {list(answers.shape)} for {counted(self.online.images, 'image')} of a stream")
        self.answers = [answers]


def _say(fault: UserInputError | None) -> None:
    """Raise what is wrong, if anything is."""
    if fault is not None:
        raise fault
