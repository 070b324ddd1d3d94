"""Which model to take: ranked, judged, asked about, or adapted and shipped in one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fercore.api.arguments import Observe, PathLike, Spec, listed, path_or_none, silent, spec_or_none, text_or_none
from fercore.arguments import Assignments, Request, assigned, new_folder, request_of
from fercore.config import Device
from fercore.data.spec import DomainSpec, folder_or_spec
from fercore.errors import UserInputError

if TYPE_CHECKING:
    from fercore.adaptation.look import Faces
    from fercore.adaptation.outcome import Adaptation
    from fercore.decisions.judging import Asked, Sampling
    from fercore.decisions.ranking import Ranking
    from fercore.evaluation.verdict import Verdict
    from fercore.experiments.executors import Executor


def select(
    paths: PathLike | Sequence[PathLike],
    *,
    score: str | None = None,
    oracle: bool = False,
    labels: Sequence[PathLike] = (),
) -> Ranking:
    """Rank runs, the checkpoints of one, or the rows of a comparison, without target labels: `fercore select`.

    Args:
        paths: folders. score: ranks them; None = the mean rank of several. oracle: also say what target labels say.
        labels: CSVs of `fercore ask`, which then rank them in place of a score.

    Raises:
        UserInputError: for wrong input.
    """
    from fercore.decisions import ranking

    one = isinstance(paths, str | os.PathLike)
    listed: Sequence[PathLike] = [paths] if one else paths  # type: ignore[list-item,assignment]
    if labels:
        if score or oracle:
            raise UserInputError("labels go with no score", where="select", fix="leave score and oracle out")
        return ranking.rank_by_labels([Path(path) for path in listed], [Path(each) for each in labels])
    return ranking.rank([Path(path) for path in listed], score=score, oracle=oracle)


def ask(
    models: Sequence[PathLike],
    *,
    out: PathLike,
    n: int = 30,
    target: Spec | None = None,
    seed: int = 0,
    sampling: Sampling | None = None,
    labels: Sequence[PathLike] = (),
    device: Device = "auto",
) -> Asked:
    """Draw the images whose labels settle which model is better, and write a page to label them on.

    Args:
        models: run folders, the reference first. out: a new folder. n: images. target: as in `verdict`.
        seed: of the drawing. sampling: "equal" or "consensus"; None = equal chances for two models, which a verdict
            needs, and consensus-driven for more. labels: CSVs of earlier rounds. device: auto, cpu or cuda.

    Raises:
        UserInputError: for wrong input, or a folder that is taken.
    """
    from fercore.decisions import asking

    return asking.ask(
        [Path(path) for path in models], Path(out), n=n, target=spec_or_none(target), seed=seed, sampling=sampling,
        labels=[Path(each) for each in labels], device=device,
    )  # fmt: skip


def verdict(
    reference: PathLike,
    adapted: PathLike,
    *,
    target: Spec | None = None,
    others: Sequence[PathLike] = (),
    labels: PathLike | None = None,
    device: Device = "auto",
) -> Verdict:
    """Say whether adapting helped, hurt, or is unclear, without target labels or with the few that were asked for.

    Args:
        reference, adapted: run folders. target: SPEC to predict; None = what the runs recorded of theirs.
        others: further runs whose word is heard. labels: the CSV of `fercore ask`. device: auto, cpu or cuda.

    Raises:
        UserInputError: for wrong input.
    """
    from fercore.decisions.judging import judge

    paths = [Path(path) for path in (reference, adapted, *others)]
    return judge(
        paths[0], paths[1], target=spec_or_none(target), others=paths[2:], labels=path_or_none(labels), device=device
    )


def adapt(
    target: Spec,
    *,
    source: Spec | Sequence[Spec] = (),
    init: PathLike | None = None,
    budget: str = "30m",
    method: Sequence[str] = (),
    preset: str | None = None,
    config: PathLike | None = None,
    set: Assignments = (),
    seed: int = 0,
    device: Device | None = None,
    out: PathLike | None = None,
    faces: Faces = "auto",
    ask: int = 0,
    report_faces: bool = True,
    jobs: int = 1,
    executor: Executor | None = None,
    tell: Callable[[str], None] = lambda line: None,
    observe: Observe = silent,
) -> Adaptation:
    """Adapt to a target inside a time, and ship a model: an adapted one only where it is believed to be better.

    A source model is trained where none is given, then methods of a portfolio that suit the data, each from that model;
    label-free scores choose, the verdict decides, held-out source calibrates. Called again with the same folder it goes
    on where it stopped.

    Args:
        target: folder of images, or a SPEC; its labels, where it has some, only score. source: labelled SPECs.
        init: a trained model instead of a source, or beside it. budget: "30m", "90s" or "1.5h", all included.
        method: labels of rows of the portfolio; none = those that suit the data. preset: small if not given.
        config, set, device: as for `train`. seed: of all runs. out: the folder; None = a new one under runs/.
        faces: auto = cut faces out where images are no crops; whole; detect.
        ask: images to label where it is unclear; 0 = none. With their labels the same call settles it.
        report_faces: whether face images are in the report.
        jobs: methods that train at a time. executor: runs them; None = processes of this machine.
        tell: hears lines for people. observe: makes what hears of a run from its label; importable.

    Raises:
        UserInputError: for wrong input, no time for even the reference, or a folder of another adaptation.
        Interrupted: for a signal; says how to go on.
    """
    from fercore.adaptation.outcome import Adaptation
    from fercore.adaptation.state import read_record

    given = {"preset": preset, "config": config, "assignments": set, "device": device, "init": init}
    options: dict[str, Any] = {"method": method, "faces": faces, "ask": ask, "report_faces": report_faces}
    folder = path_or_none(out) or new_folder(["adapt"])
    _adapt(target, source, budget, seed, folder, given, options, tell, observe, jobs, executor, only_plan=False)
    record = read_record(folder)
    assert record is not None
    return Adaptation(folder, record)


def plan(
    target: Spec,
    *,
    source: Spec | Sequence[Spec] = (),
    init: PathLike | None = None,
    budget: str = "30m",
    method: Sequence[str] = (),
    preset: str | None = None,
    config: PathLike | None = None,
    set: Assignments = (),
    seed: int = 0,
    device: Device | None = None,
    out: PathLike | None = None,
    faces: Faces = "auto",
    jobs: int = 1,
    executor: Executor | None = None,
    tell: Callable[[str], None] = lambda line: None,
    observe: Observe = silent,
) -> Path:
    """Look at the data, take a few steps of each method, tell the plan, and stop; `adapt` goes on from there.

    Returns:
        the folder.

    Raises:
        UserInputError, Interrupted: as `adapt`.
    """
    given = {"preset": preset, "config": config, "assignments": set, "device": device, "init": init}
    options: dict[str, Any] = {"method": method, "faces": faces, "ask": 0, "report_faces": True}
    folder = path_or_none(out) or new_folder(["adapt"])
    _adapt(target, source, budget, seed, folder, given, options, tell, observe, jobs, executor, only_plan=True)
    return folder


def _adapt(
    target: Spec,
    source: Spec | Sequence[Spec],
    budget: str,
    seed: int,
    folder: Path,
    given: Mapping[str, Any],
    options: Mapping[str, Any],
    tell: Callable[[str], None],
    observe: Observe,
    jobs: int,
    executor: Executor | None,
    *,
    only_plan: bool,
) -> None:
    from fercore.adaptation import adapt as adaptation
    from fercore.adaptation.budget import seconds_of

    def request(sources: Sequence[DomainSpec], ready: DomainSpec) -> Request:
        named = {**given, "config": path_or_none(given["config"]), "init": text_or_none(given["init"])}
        return request_of(**{**named, "preset": given["preset"] or "small"}, source=sources, target=ready)

    sources = tuple(folder_or_spec(each) for each in listed(source))
    if not sources and given["init"] is None:
        fix = "give --source SPEC (labelled faces), --init MODEL (a trained model), or both"
        raise UserInputError("nothing to adapt: neither a source nor a model", where="fercore adapt", fix=fix)
    settings = {key: str(value) for key, value in given.items() if value and key not in ("init", "assignments")}
    settings |= {f"--set {name}": str(value) for name, value in assigned(given["assignments"])}
    asked = adaptation.Asked(
        sources, folder_or_spec(target), text_or_none(given["init"]), seconds_of(budget), seed,
        tuple(options["method"]), options["faces"], options["ask"], options["report_faces"], settings,
    )  # fmt: skip
    adaptation.adapt(asked, folder, request, observe, tell, only_plan=only_plan, jobs=jobs, executor=executor)
