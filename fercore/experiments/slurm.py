"""A study as array jobs of Slurm: one element a cell, which goes on after a preemption by the same command."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from fercore.errors import UserInputError
from fercore.experiments.study import Study, StudyCell
from fercore.runs.folder import RunFolder
from fercore.writing import write_text

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --output="{out}/slurm-%A_%a.log"
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
# Add what your cluster asks for: --partition, --time, --cpus-per-task, --mem, --gres=gpu:1.
# A cell that is told to end saves a checkpoint, and the same element goes on from it; a finished one ends at once.
cells=(
{cells}
)
cd {here} || exit 2
exec {command} study {folder} --cell "${{cells[$SLURM_ARRAY_TASK_ID]}}"
"""


def write_scripts(study: Study, *, command: str = "fercore", jobs: int = 1) -> list[Path]:
    """Check a study and write a script for each level of what is not finished of it, into its folder.

    Args:
        command: that runs fercore on the nodes. jobs: cells that are checked at a time.

    Returns:
        paths in the order to be submitted: cells of a script start from those of the one before.

    Raises:
        UserInputError: as `Study.run`, and if nothing is left to run. WriteError: if one cannot be written.
    """
    if study.file.search is not None:
        what, fix = "a search draws its trials one after another", "run it with `fercore study`"
        raise UserInputError(what, where="--emit slurm", fix=fix)
    left = [cell for cell in study.checked(jobs=jobs) if not RunFolder(cell.cell.folder).finished]
    if not left:
        raise UserInputError("every cell is finished", where=str(study.out), fix="see `fercore table`")
    study.write_file()
    levels = study.levels(left)
    paths = []
    for number, cells in enumerate(levels, start=1):
        path = study.out / ("study.slurm" if len(levels) == 1 else f"study-{number}.slurm")
        write_text(path, _script(study, cells, command))
        paths.append(path)
    return paths


def _script(study: Study, cells: Sequence[StudyCell], command: str) -> str:
    out = study.out.absolute()
    return SCRIPT.format(
        name=shlex.quote(out.name),
        last=len(cells) - 1,
        out=out,
        cells="\n".join(f"  {shlex.quote(cell.cell.label)}" for cell in cells),
        here=shlex.quote(str(Path.cwd())),
        command=shlex.quote(command),
        folder=shlex.quote(str(out)),
    )


def submitting(paths: Sequence[Path]) -> list[str]:
    """Return the commands that submit scripts, each after the one before."""
    first, *rest = (shlex.quote(str(path)) for path in paths)
    if not rest:
        return [f"sbatch {first}"]
    lines = [f"job=$(sbatch --parsable {first})"]
    return [*lines, *(f"job=$(sbatch --parsable --dependency=afterany:$job {path})" for path in rest)]
