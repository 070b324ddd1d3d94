"""A study end to end: cells once each, failures that end no other, and the table in its formats."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fercore.errors import UserInputError
from fercore.experiments import study as study_module
from fercore.experiments.study import Study, StudyCell
from fercore.experiments.tables import FORMATS, grid, latex_text, notes, study_table
from fercore.reporting.study_page import cliques, study_page_html
from fercore.runs.folder import PREDICTIONS, TEST_LABELS

CLASSES = ["anger", "fear", "joy"]
FILE = {
    "title": "Two shifts_",
    "seeds": [0, 1],
    "preset": "demo",
    "methods": ["source_only", "dan", "under_scored: cmd"],
    "pairs": [
        {"name": "a & b", "source": ["synthfer:studio"], "target": "synthfer:web"},
        {"name": "c", "source": ["synthfer:posed"], "target": "synthfer:nir"},
    ],
}


class Told(Study):
    """A study whose runs are written by hand: how many of 90 images each cell gets right."""

    right = {"source_only": 45, "dan": 60, "under_scored": 46}

    def results(self):
        found = {}
        for cell in self.cells:
            if (cell.cell.folder / PREDICTIONS).is_file():
                right = np.arange(90) < self.right[cell.method] + cell.seed
                labels = 9 if cell.method == "under_scored" else 0
                target = SimpleNamespace(
                    n=90, classes=CLASSES, labelled=SimpleNamespace(n=labels), score=lambda name, r=right: r.mean()
                )
                found[cell.method, cell.pair, cell.seed] = SimpleNamespace(target=target, train_seconds=2.0)
        return found

    def write(self, cell: StudyCell):
        truth = np.arange(90) % 3
        right = np.random.default_rng(0).permutation(90) < self.right[cell.method] + cell.seed
        guess = np.where(right, truth, (truth + 1) % 3)
        folder = cell.cell.folder
        folder.mkdir(parents=True)
        rows = [
            f"i{i},test,{CLASSES[g]}," + ",".join("0.8" if k == g else "0.1" for k in range(3))
            for i, g in enumerate(guess)
        ]
        (folder / PREDICTIONS).write_text("\n".join([f"image,part,prediction,{','.join(CLASSES)}", *rows]))
        rows = [f"i{i},,{CLASSES[t]}" for i, t in enumerate(truth)]
        (folder / TEST_LABELS).write_text("\n".join(["image,subject,label", *rows]))


@pytest.fixture
def told(tmp_path):
    study = Told(FILE, tmp_path / "study")
    for cell in study.cells:
        study.write(cell)
    return study


def test_the_table_says_means_differences_ranks_and_flags(told):
    table = study_table(told, replicates=500)
    assert table.entries["dan", "c"].mean == pytest.approx(60.5 / 90)
    assert table.rank == {"source_only": 3, "dan": 1, "under_scored": 2}
    assert table.entries["dan", "c"].difference.mean == pytest.approx(15 / 90)
    assert table.entries["dan", "c"].difference.adjusted < 0.05 < table.entries["under_scored", "c"].difference.adjusted
    assert table.entries["source_only", "c"].difference is None
    assert table.wilcoxon == {"dan": None, "under_scored": None}  # two pairs are too few
    head, rows = grid(table, "std")
    assert head == ["method", "a & b", "c", "average", "rank"]
    assert [cell.kind for cell in rows[1]] == ["plain", "best", "best", "best", "plain"]
    assert rows[1][1].text == "67.2 ± 0.8*"
    assert rows[2][2].text == "51.7 ± 0.8†"
    assert rows[2][2].kind == "second"
    assert any("trained with labels of the target" in line for line in notes(table, "std"))


def test_a_table_of_what_is_half_done_says_so(told):
    shutil.rmtree(told.folder("dan", "c", 1))
    shutil.rmtree(told.folder("under_scored", "c", 0))
    shutil.rmtree(told.folder("under_scored", "c", 1))
    (told.out / "failures.json").write_text('{"reasons": {"c, under_scored, seed 0": "no such camera"}}')
    table = study_table(told, replicates=200)
    _, rows = grid(table, "std")
    assert rows[1][2].text.endswith("(1/2 seeds)")
    assert [cell.text for cell in rows[2]][2:] == ["failed", "–", "–"]
    assert set(table.average) == {"source_only", "dan"}
    assert "failed: under_scored on c: no such camera" in notes(table, "std")


def test_every_format_holds_the_numbers(told):
    table = study_table(told, replicates=200)
    made = {name: write(table, "std") for name, write in FORMATS.items()}
    assert made["markdown"].startswith("## Two shifts\\_\n\n| method |")
    assert r"\caption{Two shifts\_. Accuracy, in points" in made["latex"]
    assert "| dan | **67.2 ± 0.8\\*** | **67.2 ± 0.8\\*** | **67.2** | 1.00 |" in made["markdown"]
    assert r"dan & \textbf{67.2 $\pm$ 0.8$^{*}$}" in made["latex"]
    assert r"method & a \& b & c & average & rank \\" in made["latex"]
    records = list(csv.DictReader(io.StringIO(made["csv"])))
    assert len(records) == 6
    assert float(records[2]["mean"]) == pytest.approx(60.5 / 90, abs=1e-6)
    page = study_page_html(table, "interval")
    assert "Average ranks" in page
    assert "a &amp; b" in page
    assert "<title>Two shifts_" in page
    assert "<script" not in page


def test_the_papers_numbers_stand_beside_and_count_nowhere(told):
    with pytest.raises(UserInputError, match="names no paper"):
        study_table(told, published=True)
    alone = study_table(told, replicates=200)
    pairs = [{**pair, "name": name} for pair, name in zip(FILE["pairs"], ("CK+", "JAFFE"), strict=True)]
    beside = Told({**FILE, "pairs": pairs, "paper": "pocan/table1"}, told.out.parent / "beside")
    for cell in beside.cells:
        beside.write(cell)
    table = study_table(beside, published=True, replicates=200)
    assert table.published["POCAN", "CK+"] == pytest.approx(0.845)
    assert list(table.average.values()) == list(alone.average.values())
    _, rows = grid(table, "std")
    assert [cell.text for cell in rows[-1]] == ["POCAN", "84.5", "64.3", "–", "–"]
    assert {cell.kind for cell in rows[-1]} == {"published"}
    assert table.best("CK+")[0] == pytest.approx(60.5 / 90)
    assert any("best accuracy on the target's test labels" in line for line in notes(table, "std"))


def test_latex_compiles(told, tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("no TeX here")
    body = FORMATS["latex"](study_table(told, replicates=200), "std")
    text = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "t.tex").write_text(text)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()[-800:]
    assert (tmp_path / "t.pdf").stat().st_size > 1000


def test_signs_that_latex_would_run_are_text():
    assert latex_text(r"\input{x} 5% a_b") == r"\textbackslash{}input\{x\} 5\% a\_b"


def test_methods_within_the_critical_difference_are_joined():
    assert cliques([1.0, 1.5, 2.6, 2.9], 1.2) == [(0, 1), (1, 2), (2, 3)]
    assert cliques([1.0, 1.5, 2.1, 2.9], 1.2) == [(0, 2), (2, 3)]
    assert cliques([1.0, 3.0], 1.2) == []


def test_what_is_wrong_with_the_whole_study_ends_it_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "check_cells", lambda *_, **__: pytest.fail("something was begun"))
    with pytest.raises(UserInputError, match="unknown plugin 'dam'"):
        Study({**FILE, "methods": ["source_only", "dam"]}, tmp_path / "out")
    with pytest.raises(UserInputError, match="trian"):
        Study({**FILE, "settings": {"trian": {"steps": 1}}}, tmp_path / "out")
    with pytest.raises(UserInputError, match="no study in this folder"):
        Study.read(tmp_path)
    twins = Study({**FILE, "methods": ["a!: source_only", "a?: dan"]}, tmp_path / "out")
    with pytest.raises(UserInputError, match="come to one folder"):
        twins.run()
    assert not (tmp_path / "out").exists()


TINY = """
preset = "demo"
seeds = [0]
settings = { train = { steps = 2, threads = 1 }, data = { size = 32 } }
methods = ["source_only", { method = "dan", from = "source_only" }, "broken: source_only optim.lr=1e30"]
[[pairs]]
name = "to web"
source = ["synthfer:studio?n=100"]
target = "synthfer:web?n=120"
"""


@pytest.mark.slow
def test_a_study_is_run_once_extended_and_never_overwritten(tmp_path, fercore):
    (tmp_path / "tiny.toml").write_text(TINY)
    out = tmp_path / "out"
    code, told, error = fercore("study", tmp_path / "tiny.toml", "--out", out)
    assert code == 1, error
    assert "3 cells: 2 finished, 0 begun, 1 failed" in told
    assert "failed: broken on to web: loss term 'source_only/cross_entropy' is nan" in told
    started = (out / "to-web/dan-s0/config.toml").read_text()
    assert "source_only-s0" in started  # it started from that cell's model
    before = (out / "to-web/source_only-s0/result.json").stat().st_mtime_ns
    (tmp_path / "tiny.toml").write_text(TINY.replace('"broken: source_only optim.lr=1e30"', '"bnm"'))
    code, _, error = fercore("study", tmp_path / "tiny.toml", "--out", out)
    assert code == 0, error
    assert (out / "to-web/source_only-s0/result.json").stat().st_mtime_ns == before
    assert "3 cells: 3 finished" in fercore("study", out, "--status")[1]
    (tmp_path / "tiny.toml").write_text(TINY.replace("steps = 2", "steps = 3"))
    code, _, error = fercore("study", tmp_path / "tiny.toml", "--out", out)
    assert code == 2
    assert "folder holds a run with other settings: train.steps 2 -> 3" in error
    assert fercore("table", out, "--format", "csv")[1].count("\n") == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "source_only optim.lr=1e30",
            "dan data.target_batch=500",
            "to web, broken, seed 0: batch larger than a domain: 500 samples",
        ),
        ("synthfer:web?n=120", "synthfer:webb", "unknown style 'webb'"),
        ("synthfer:web?n=120", "folder:faces", "test part has no label, so there is no score for the table"),
    ],
)
def test_a_cell_that_cannot_begin_ends_the_study_before_any_is_trained(
    old, new, message, tmp_path, fercore, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faces").mkdir()
    for number in range(60):
        Image.new("RGB", (40, 40), (number, 4 * number, 99)).save(tmp_path / f"faces/{number}.png")
    (tmp_path / "tiny.toml").write_text(TINY.replace(old, new))
    code, _, error = fercore("study", "tiny.toml", "--out", "out")
    assert code == 2
    assert message in error
    assert not (tmp_path / "out").exists()
