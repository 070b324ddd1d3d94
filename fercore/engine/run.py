"""A run from its first step to result.json: stages, epochs, checkpoints, evaluation, resume."""

from __future__ import annotations

import os
import shlex
from functools import partial
from pathlib import Path
from typing import Any

from fercore.engine import results
from fercore.engine.agreement import check_same_start
from fercore.engine.loggers import check_loggers, logging_to
from fercore.engine.memory_format import lay_out
from fercore.engine.model_folder import write_model
from fercore.engine.observer import Observer
from fercore.engine.reference import Reference, read_reference
from fercore.engine.resume import check_longer, check_resume, check_same_data
from fercore.engine.setup import RunContext
from fercore.engine.trainer import Trainer
from fercore.hooks.checks import no_exit
from fercore.hooks.guard import open_result
from fercore.processes import LAUNCHED, ProcessLostError, missing, noticing_ends
from fercore.records.plan import RunResult
from fercore.records.result import Result, Scores
from fercore.records.step import Progress
from fercore.runs import checkpoint
from fercore.runs.folder import ReadFolder, RunFolder
from fercore.stopping import Interrupted, StopRequest, handling, number_of
from fercore.terminal import counted
from fercore.writing import WriteError, make_parents

_NOTHING: Any = None


@no_exit()
def run(context: RunContext, path: Path, observer: Observer, *, resume: bool = False) -> Result:
    """Train, evaluate the last weights on the target's test part, and write result.json.

    Args:
        context: the run's parts.
        path: the run folder; a new one, or with `resume` the one to resume.
        observer: hears of progress.
        resume: go on from the newest checkpoint in `path`.

    Returns:
        what result.json holds.

    Raises:
        UserInputError: if the folder cannot be used, or a loss term is not finite.
        WriteError: if something cannot be written; the checkpoints before stay good.
        Interrupted: for Ctrl-C, SIGTERM or SIGHUP; a run in training has saved a checkpoint then.
    """
    first = context.processes.first
    stop = StopRequest(quiet=not first)
    with noticing_ends():
        folder = RunFolder(path) if first else ReadFolder(path)
        trainer = Trainer(lay_out(context), folder, observer if first else Observer(), stop)
    with handling(stop.hear):
        try:
            with noticing_ends():
                return _run(trainer, resume=resume)
        except ProcessLostError as error:
            # A launcher that has seen the end tells the others to end too, while they find out who is left.
            stop.patient = True
            raise _named(trainer, error) from error
        except KeyboardInterrupt as error:
            raise Interrupted(number_of(error), _kept(trainer)) from None
        except WriteError as error:
            fix = f"{error.fix}; {_kept(trainer)}" if trainer.folder.begun else error.fix
            raise WriteError(error.what, where=error.where, fix=fix) from None
        finally:
            trainer.folder.release()


def _named(trainer: Trainer, error: ProcessLostError) -> ProcessLostError:
    """Return the error with which process it was, and what the run leaves."""
    processes, kept = trainer.processes, _kept(trainer)
    # Who started them sees how each ended.
    if LAUNCHED in os.environ:
        return ProcessLostError(f"{error}; {kept}", first=True)
    lost, says = missing(processes)
    numbers = ", ".join(map(str, lost))
    what = f"process {numbers} of {processes.world} has ended"
    if len(lost) > 1:
        what = f"processes {numbers} of {processes.world} have ended, or do not answer"
    return ProcessLostError(f"{what}; {kept}", first=says)


def _kept(trainer: Trainer) -> str:
    """Return what an interrupted run leaves, and the command that resumes it."""
    if not trainer.folder.begun:
        return "interrupted; nothing was written"
    text = f"interrupted after {trainer.done} of {counted(trainer.total, 'step')}"
    if trainer.saved_at != trainer.done:
        text += ", back to the checkpoint before" if trainer.saved_at > 0 else ", before the first checkpoint"
    words = ["fercore", "run", "--resume", str(trainer.folder.path)]
    cache = trainer.context.config.data.cache_dir
    words += [] if cache is None else ["--set", f"data.cache_dir={cache}"]
    return f"{text}; resume with: {shlex.join(words)}"


def take_up(trainer: Trainer, latest: Path) -> int | None:
    """Put a run back where a checkpoint left it.

    Returns:
        batches that the run had before it was made longer; None if it was not.

    Raises:
        UserInputError: for a damaged checkpoint, of another run, or a run that cannot be made longer.
    """
    context, old_end = trainer.context, None
    state = checkpoint.load(latest)
    with checkpoint.naming_damage(latest):
        if state["settings"]["train"]["steps"] < context.config.train.steps:
            check_longer(context, state)
            old_end = sum(stage["steps"] for stage in state["stages"])
        trainer.restore(state)
    if old_end is not None:
        trainer.folder.lengthen(context.config)
    return old_end


def _run(trainer: Trainer, *, resume: bool) -> Result:
    context, folder, observer = trainer.context, trainer.folder, trainer.observer
    results.reports_of(context.config)  # refuses one that no package brings, before anything is written
    check_loggers(context.config)
    reference = read_reference(context)
    results.reset_peak_memory(context.fabric.device)
    check_same_start(context)
    context.processes.together(partial(_open, trainer, resume=resume))
    first = context.stages[0]
    # Before the weights of a checkpoint take the place of those that the run started from.
    clock = Progress(first.name, "", 0, 0, first.steps)
    initial = results.evaluate_initial(context, clock) if context.processes.first else None
    latest = checkpoint.newest(folder.checkpoints) if resume else None
    old_end = None
    if latest is None:
        # Killed before its first checkpoint: the run begins again.
        folder.rewind_log(0)
    else:
        old_end = context.processes.together(partial(take_up, trainer, latest))
    if context.processes.first:
        trainer.candidates.forget_after(trainer.done)
    if latest is not None:
        observer.message(f"resumed after {trainer.done} of {counted(trainer.total, 'step')} from {latest}")
    with logging_to(trainer.loggers):
        return _train_and_report(trainer, old_end, reference, initial)


def _open(trainer: Trainer, *, resume: bool) -> None:
    """Make the run folder, or make sure that the one to resume is that of this run."""
    context, folder = trainer.context, trainer.folder
    if resume:
        folder.lock()
        # Under the lock, as all that is read of the run.
        check_resume(folder, context.resolved)
        check_same_data(folder, context.fingerprint())
        make_parents(folder.checkpoints / checkpoint.name_of(0))  # copies of a run may lack its empty folders
    else:
        folder.refuse_if_taken()
        report = {**context.domains.report, "fingerprint": context.fingerprint()}
        folder.create(context.resolved, context.plugins, report, context.domains.label_split)


def _train_and_report(
    trainer: Trainer, old_end: int | None, reference: Reference | None, initial: Scores | None
) -> Result:
    trainer.train(old_end)
    # Scoring and writing is the first process's; the others wait for the result.
    first = trainer.processes.first
    with trainer.context.whole():
        return trainer.processes.from_first(_report(trainer, reference, initial) if first else _NOTHING)


def _report(trainer: Trainer, reference: Reference | None, initial: Scores | None) -> Result:
    context, folder, observer = trainer.context, trainer.folder, trainer.observer
    for name, times in trainer.skipped.items():
        observer.message(f"{counted(times, 'step')} of {name} had no loss with a gradient: skipped")
    last = context.stages[-1]
    per_epoch = last.steps_per_epoch or trainer.loader.steps_per_epoch
    step = trainer.step if trainer.ended else last.steps
    clock = Progress(last.name, "", (step - 1) // per_epoch, step, last.steps)
    scores = trainer.evaluate(clock, oracle=context.config.select.oracle)
    if chosen := trainer.choose():
        clock = chosen.clock
    if results.calibrate(context, clock) or chosen:
        scores = results.evaluate_target(context, clock)
    trained = results.Trained(
        trainer.done, trainer.seconds, trainer.images, trainer.skipped, chosen, trainer.oracle,
        trainer.online, trainer.answers, initial, trainer.total if trainer.ended else None,
    )  # fmt: skip
    result = results.build(context, scores, trained)
    results.write_reports(context, folder, clock)
    if trainer.online is not None:
        results.write_online(context, folder, trained)
    held_out = results.held_out_source(context, clock)
    if shares := results.class_shares(context, clock, held_out):
        target = result.target.model_copy(update={"estimated_shares": shares})
        result = result.model_copy(update={"target": target})
    if reference is not None:
        target = result.target.model_copy(update={"reference": reference.agreement(folder.path)})
        result = result.model_copy(update={"target": target})
    write_model(context, folder.model, clock, held_out)
    trainer.loggers.result(result, context.config)
    # result.json says that the run is finished, so it comes after the reports and the model.
    folder.finish(result)
    trainer.candidates.forget()
    context.plugins.after_run(open_result(RunResult(str(folder.path), result), context.config.data))
    return result
