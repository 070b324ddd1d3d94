"""A study as array jobs: scripts that bash takes, and elements that make the same cells as one process."""

from __future__ import annotations

import os
import subprocess
import sys

import pandas
import pytest

from fercore.errors import UserInputError
from fercore.experiments import slurm
from fercore.experiments import study as study_module
from fercore.experiments.slurm import submitting, write_scripts
from fercore.experiments.study import Study
from fercore.runs.folder import PREDICTIONS, RunFolder

FILE = {
    "preset": "demo",
    "seeds": [0, 1],
    "settings": {"train": {"steps": 2, "threads": 1}, "data": {"size": 32}},
    "methods": ["source_only", {"method": "dan", "label": "it's dan", "from": "source_only"}],
    "pairs": [{"name": "to $web", "source": ["synthfer:studio?n=100"], "target": "synthfer:web?n=120"}],
}


def test_a_level_is_a_script_that_bash_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "check_cells", lambda *_, **__: None)
    paths = write_scripts(Study(FILE, tmp_path / "out"))
    assert [path.name for path in paths] == ["study-1.slurm", "study-2.slurm"]
    for path in paths:
        subprocess.run(["bash", "-n", str(path)], check=True)
        assert "#SBATCH --array=0-1\n" in path.read_text()
        assert "#SBATCH --requeue\n" in path.read_text()
    said = subprocess.run(
        ["bash", "-c", f"exec() {{ printf '%s\\n' \"$@\"; }}; . '{paths[1]}'"],
        env={**os.environ, "SLURM_ARRAY_TASK_ID": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.splitlines() == [
        "fercore",
        "study",
        str(tmp_path / "out"),
        "--cell",
        "to $web, it's dan, seed 1",
    ]
    assert submitting(paths)[1].startswith("job=$(sbatch --parsable --dependency=afterany:$job ")
    alone = write_scripts(Study({**FILE, "methods": ["source_only"]}, tmp_path / "alone"))
    assert submitting(alone) == [f"sbatch {tmp_path}/alone/study.slurm"]


def test_a_search_and_a_finished_study_have_no_script(tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "check_cells", lambda *_, **__: None)
    search = {"objective": "entropy", "trials": 1, "space": {"optim.lr": [0.1]}}
    with pytest.raises(UserInputError, match="a search draws its trials one after another"):
        write_scripts(Study({**FILE, "methods": ["source_only"], "search": search}, tmp_path / "out"))
    monkeypatch.setattr(slurm.RunFolder, "finished", property(lambda folder: True))
    with pytest.raises(UserInputError, match="every cell is finished"):
        write_scripts(Study(FILE, tmp_path / "out"))


@pytest.mark.slow
def test_an_element_run_by_hand_makes_the_same_cell(tmp_path, fercore):
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    whole, parts = Study(FILE, tmp_path / "whole"), tmp_path / "parts"
    assert whole.run().complete
    command = tmp_path / "fercore"
    command.write_text(f'#!/bin/bash\nexec {sys.executable} -c "from fercore.cli import main; main()" "$@"\n')
    command.chmod(0o755)
    for path in write_scripts(Study(FILE, parts), command=str(command)):
        for _ in range(2):  # the second finds a finished cell, as after a preemption at its end
            subprocess.run(
                ["bash", str(path)], env={**os.environ, "SLURM_ARRAY_TASK_ID": "0"}, check=True, capture_output=True
            )
    for method in ("source_only", "it's dan"):
        one, other = (Study.read(out).folder(method, "to $web", 0) for out in (tmp_path / "whole", parts))
        assert (one / PREDICTIONS).read_bytes() == (other / PREDICTIONS).read_bytes()
        assert RunFolder(one).result().target == RunFolder(other).result().target
    code, _, error = fercore("study", parts, "--cell", "to $web, it's dan, seed 2")
    assert code == 2
    assert "did you mean \"to $web, it's dan, seed" in error
    assert fercore("study", parts, "--cell", "to $web, it's dan, seed 1")[0] == 1  # what it starts from is not there
    assert Study.read(parts).status().count("failed") == 1
    frame = pandas.read_parquet(Study.read(parts).write_frame())
    assert list(frame.state) == ["finished", "finished", "missing", "failed"]
    assert (
        frame.accuracy[0] == RunFolder(Study.read(parts).folder("source_only", "to $web", 0)).result().target.accuracy
    )
    assert frame.accuracy.isna().tolist() == [False, False, True, True]
    logs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "whole"))
    assert {name.split("/")[1] for name in logs.Runs()} == {
        path.parent.name for path in whole.out.glob("*/*/result.json")
    }


def test_without_pyarrow_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    with pytest.raises(UserInputError, match=r"parquet needs the package pyarrow .*study.parquet"):
        Study(FILE, tmp_path).write_frame()
