"""The command line: exit codes, one clear line for every mistake, nothing half-written."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from PIL import Image

from fercore.config import ModelSettings
from fercore.models import build_backbone
from fercore.runs import checkpoint
from fercore.runs.folder import RunFolder

SMALL = [
    "--set", "data.size=32", "--set", "data.source_batch=14", "--set", "data.target_batch=14",
    "--set", "model.backbone_args.resnet18.channels=[8,8,8,8]", "--set", "report.tensorboard=false", "--device", "cpu",
]  # fmt: skip
PROTOCOL = """
title = "two rooms"
paper = "none"
transductive = false
classes = ["anger", "fear"]
target = "folder:{root}/street"
[sources]
lab = "folder:{root}/lab"
street = "folder:{root}/street"
"""
FACES = ["--source", "synthfer:studio?n=60", "--target", "synthfer:wild?n=60", "--preset", "demo"]


HERE = ["--source", "folder:.", "--target", "folder:."]
OWN = ["--source", "folder:/no/source", "--target", "folder:/no/target"]


def test_a_run_writes_its_folder_and_prints_its_scores(fercore, tmp_path):
    out = tmp_path / "run"
    code, text, _ = fercore("run", "--plugin", "source_only", *FACES, *SMALL, "--set", "train.steps=3", "--out", out)
    assert code == 0
    assert "accuracy" in text
    assert {p.name for p in out.iterdir()} >= {
        "config.toml",
        "plugins.json",
        "metrics.jsonl",
        "checkpoints",
        "result.json",
    }
    record = json.loads((out / "result.json").read_text())
    assert record["plugins"] == ["source_only"]
    code, _, error = fercore("run", "--resume", out)
    assert (code, error.count("\n")) == (2, 1)
    assert "that run is finished" in error


@pytest.mark.slow
def test_a_finished_run_becomes_longer_where_its_schedule_allows(fercore, tmp_path):
    out = tmp_path / "run"
    settings = ["--set", "optim.schedule=constant", "--set", "train.steps=2"]
    assert fercore("run", "--plugin", "source_only", *FACES, *SMALL, *settings, "--out", out)[0] == 0
    for more, message in (
        (["optim.lr=1"], "--resume goes with no other setting"),
        (["train.steps=3", "seed=1"], "--resume goes with no other setting"),
        (["train=3"], "--resume goes with no other setting"),
        (["train.steps=many"], "setting train.steps = 'many'"),
        (["train.steps=2"], "the run has 2 steps"),
    ):
        code, _, error = fercore("run", "--resume", out, *(word for text in more for word in ("--set", text)))
        assert (code, error.count("\n"), message in error) == (2, 1, True)
    assert json.loads((out / "result.json").read_text())["steps"] == 2
    other = RunFolder(out)
    other.lock()
    code, _, error = fercore("run", "--resume", out, "--set", "train.steps=3")
    assert (code, error.count("\n"), "another process is at work in that run" in error) == (2, 1, True)
    other.release()
    code, text, _ = fercore("run", "--resume", out, "--set", "train.steps=3")
    assert (code, "resumed after 2 of 3 steps" in text) == (0, True)
    assert json.loads((out / "result.json").read_text())["steps"] == 3
    assert tomllib.loads((out / "config.toml").read_text())["train"]["steps"] == 3


@pytest.mark.slow
def test_a_run_folder_has_nothing_written_outside_it_unasked(fercore, tmp_path):
    out, away = tmp_path / "run", tmp_path / "a way"
    longer = ["--set", "optim.schedule=constant", "--set", "train.steps=2"]
    assert fercore("run", "--plugin", "source_only", *FACES, *SMALL, *longer, "--out", out)[0] == 0
    (out / "result.json").unlink()
    config = tomllib.loads((out / "config.toml").read_text())
    config["data"] |= {"cache_dir": str(away)}
    (out / "config.toml").write_text(tomli_w.dumps(config))
    for path in (out / "checkpoints").iterdir():
        shutil.rmtree(path)
    for given in ([], ["--set", f"data.cache_dir={tmp_path}/other"], ["--set", "data.cache_dir=5"]):
        code, _, error = fercore("run", "--resume", out, *given)
        assert (code, error.count("\n")) == (2, 1)
        assert f"the run's settings have a cache in {away} " in error
        assert f"if that is wanted: --set 'data.cache_dir={away}'" in error
    assert not away.exists()
    assert fercore("run", "--resume", out, "--set", f"data.cache_dir={away}")[0] == 0


@pytest.mark.slow
def test_a_run_goes_on_from_every_folder(fercore, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for domain in ("lab", "street"):
        for label in ("anger", "fear"):
            folder = tmp_path / "here/data" / domain / label
            folder.mkdir(parents=True)
            for number in range(16):
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    settings = ModelSettings(backbone_args={"resnet18": {"channels": [8, 8, 8, 8]}})
    torch.save(build_backbone(settings).module.state_dict(), "weights.pth")
    (tmp_path / "here/p.toml").write_text(PROTOCOL)
    data = ["--protocol", "p.toml@lab", "--data-root", "data", "--set", "model.weights=weights.pth"]
    longer = ["--set", "train.steps=1", "--set", "optim.schedule=constant", "--preset", "demo"]
    code, _, error = fercore("run", "-p", "source_only", *data, *SMALL, *longer, "--out", "run")
    assert (code, error) == (0, "")
    monkeypatch.chdir(tmp_path / "there")
    code, text, error = fercore("run", "--resume", "../here/run", "--set", "train.steps=2")
    assert (code, "resumed after 1 of 2 steps" in text) == (0, True), error
    target = json.loads((tmp_path / "here/run/result.json").read_text())["target"]
    assert target["spec"] == f"folder:{tmp_path}/here/data/street"
    rows = ["compare", "a:source_only", "b:source_only", "--seeds", "0", *SMALL, *longer]
    monkeypatch.chdir(tmp_path / "here")
    specs = ["--source", "folder:data/lab", "--target", "folder:data/street", "--out", tmp_path / "rows"]
    assert fercore(*rows, *specs)[0] == 0
    monkeypatch.chdir(tmp_path)
    code, _, error = fercore(*rows, *specs)
    assert (code, "other settings: data.sources" in error) == (2, True)
    specs[1], specs[3] = "folder:here/data/lab", "folder:here/data/street"
    assert fercore(*rows, *specs)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (OWN, "preset paper: the data are your own; --preset small suits images of 48 to 64 px and a laptop"),
        (["--source", "synthfer:web?n=9", "--target", "folder:/no/target"], "preset paper: the data are your own"),
        ([], "preset demo: the data are synthetic faces"),
        ([*OWN, "--preset", "small"], "preset small: as --preset says"),
        ([*OWN, "--set", "preset=demo"], "preset demo: as the settings say"),
    ],
)
@pytest.mark.parametrize("command", [["run", "-p"], ["compare"]])
def test_the_preset_taken_is_told_with_why(fercore, tmp_path, monkeypatch, command, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, text, _ = fercore(*command, "source_only", *arguments, "--set", "model.wieghts=none")
    assert code == 2
    assert text.startswith(said)


def test_dry_run_counts_and_writes_nothing(fercore, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, text, _ = fercore("run", "--plugin", "source_only", *FACES, *SMALL, "--dry-run", "-v")
    assert code == 0
    assert "G MACs per image" in text
    assert "hook chain" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "no plugin named"),
        (["run", "--plugin", "source_onyl"], "unknown plugin 'source_onyl'"),
        (["run", "--plugin", "source_only", "--plugin", "source_only"], "a plugin is named twice"),
        (["run", "--plugin", "source_only", "--set", "data.sze=3"], "did you mean 'data.size'"),
        (["run", "--plugin", "source_only", "--set", "source_only.smoothing=0"], "setting 'source_only.smoothing'"),
        (["run", "--plugin", "source_only", "--set", "train.steps=many"], "setting train.steps = 'many'"),
        (["run", "-p", "source_only", *HERE, "--set", "model.weights=/no/where.pth"], "file not found (/no/where.pth"),
        (["run", "--plugin", "source_only", "--preset", "demmo"], "(--preset); did you mean 'demo'"),
        (["run", "--plugin", "source_only", "--source", "synthfer:wild"], "--target is missing"),
        (["run", "--plugin", "source_only", "--target", "synthfer:wild"], "needs a labelled source"),
        (["run", "--plugin", "source_only", "--config", "nowhere.toml"], "settings file not found"),
        (["run", "--plugin", "source_only", "--source", "nofmt:x", "--target", "synthfer:wild"], "nofmt"),
        (["run", "--plugin", "source_only", "--source", "folder:/nowhere", "--target", "synthfer:wild"], "/nowhere"),
        (["run", "--plugin", "source_only", "--set", "data=3"], "setting data = 3"),
        (["run", "--plugin", "source_only", "--set", "data=3", *FACES], "setting data = 3 is no table"),
        (["run", "--plugin", "source_only", "--set", "data.target=5"], "setting data.target = 5"),
        (["run", "--plugin", "source_only", "--set", "train.threads=100000"], "100000 CPU threads are more than"),
        (["run", "--plugin", "source_only", "--set", "source_only=3"], "is no table"),
        (["run", "--plugin", "source_only", "--set", "plugins=3"], "is no table"),
        (["run", "--plugin", "source_only", "--set", "preset=[1]"], "unknown preset '[1]'"),
        (["run", "--plugin", "source_only", "--set", "train.steps=true"], "not true or false"),
        (["run", "--plugin", "source_only", "--set", "model.backbone_args.resnet81.x=1"], "backbone 'resnet81'"),
        (["run", "--plugin", "source_only", "--set", "model.backbone_args.resnet18.channels=[8,8]"], "resnet18"),
        (["run", "--plugin", "source_only", "--set", "model.backbone=vit_tiny_patch16_224"], "does not take 64 px"),
        (["run", "--plugin", "source_only", "--set", 'data.target="folder:/x"'], "needs a labelled source"),
        (["run", "--plugin", "source_only", "--seed", "abc"], "--seed"),
        (["nonsense"], "nonsense"),
        (["run", "--plugin", "source_only", *FACES, "--set", "data.source_batch=5000"], "5000"),
        (["run", "--resume", "nowhere"], "no run to resume there"),
        (["run", "--resume", "nowhere", "--seed", "3"], "--resume goes with no other setting"),
        (["run", "--resume", "nowhere", "--device", "cpu"], "--resume goes with no other setting"),
        (["compare", "source_only", "--seeds", "0,0"], "a seed is given twice"),
        (["compare", "a b:source_only", "a-b:source_only"], "share a label"),
        (["compare", "source_only", "--seeds", "a,b"], "cannot read seeds 'a,b'"),
        (["compare", "a:source_only", "a:source_only"], "share a label"),
        (["compare", "source_only", "x:source_onyl"], "unknown plugin"),
        (["compare", " "], "empty method"),
        (["data", "synthfer", "wildd", "--out", "x"], "wild"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_exit_2_and_nothing_written(fercore, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, error = fercore(*arguments)
    assert code == 2
    assert message in error
    assert error.startswith("fercore: error: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_holds_a_run_is_left_alone(fercore, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.toml").write_text("kept")
    code, _, error = fercore("run", "--plugin", "source_only", *FACES, *SMALL, "--out", out)
    assert code == 2
    assert "already holds a run" in error
    assert (out / "config.toml").read_text() == "kept"
    (out / "config.toml").rename(out / "other.txt")
    code, _, error = fercore("run", "--plugin", "source_only", *FACES, *SMALL, "--out", out)
    assert (code, "not empty" in error) == (2, True)


def test_nan_names_the_term_and_keeps_the_last_checkpoint(fercore, tmp_path):
    out = tmp_path / "run"
    settings = ["--set", "optim.lr=1e30", "--set", "optim.name=sgd", "--set", "train.checkpoint_every=1"]
    code, _, error = fercore("run", "--plugin", "source_only", *FACES, *SMALL, *settings, "--out", out)
    assert code == 2
    assert "no longer finite" in error or "loss term 'source_only/cross_entropy' is" in error
    assert error.count("\n") == 1
    assert not (out / "result.json").exists()
    for folder in (out / "checkpoints").glob("step_*"):
        weights = checkpoint.load(folder)["model"].values()
        assert all(torch.isfinite(tensor).all() for tensor in weights if tensor.is_floating_point())


def test_resume_refuses_other_versions(fercore, tmp_path, listener, make_context):
    from fercore.engine.run import run

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(make_context("source_only"), out, listener(stop_after=4))
    text = (out / "plugins.json").read_text()
    (out / "plugins.json").write_text(text.replace('"version": "', '"version": "0.0.'))
    code, _, error = fercore("run", "--resume", out)
    assert code == 2
    assert "the run was started with source_only (fercore 0.0." in error
    (out / "plugins.json").write_text(text.replace('"torch": "', '"torch": "0.'))
    code, _, error = fercore("run", "--resume", out)
    assert (code, "started with torch (0." in error) == (2, True)
    (out / "plugins.json").write_text("{}")
    code, _, error = fercore("run", "--resume", out)
    assert (code, "plugins.json is damaged" in error) == (2, True)
    (out / "plugins.json").write_text(text)
    data = (out / "data.json").read_text()
    (out / "data.json").write_text(data.replace('"fingerprint": {', '"fingerprint": {"more": 1, '))
    code, _, error = fercore("run", "--resume", out)
    assert (code, "changed since the run began" in error) == (2, True)
    (out / "data.json").write_text(data)
    (out / "plugins.json").write_text(text)
    code, printed, _ = fercore("run", "--resume", out)
    assert code == 0
    assert "resumed after 3 of 6 steps" in printed


@pytest.mark.slow
def test_compare_prints_paired_differences_and_goes_on_where_it_was(fercore, tmp_path):
    rows = ["base:source_only", "more smooth:source_only source_only.label_smoothing=0.2"]
    arguments = ["compare", *rows, "--seeds", "0,1", *FACES, *SMALL, "--set", "train.steps=2", "--out", tmp_path / "c"]
    code, text, _ = fercore(*arguments)
    assert code == 0
    assert "base" in text
    summary = json.loads((tmp_path / "c/compare.json").read_text())
    base, smooth = summary["rows"]
    assert base["accuracy"]["difference"]["by_seed"] == [0.0, 0.0]
    pairs = zip(smooth["accuracy"]["by_seed"], base["accuracy"]["by_seed"], strict=True)
    assert smooth["accuracy"]["difference"]["by_seed"] == [a - b for a, b in pairs]
    stamp = (tmp_path / "c/base-s0/result.json").stat().st_mtime_ns
    assert fercore(*arguments)[0] == 0
    assert (tmp_path / "c/base-s0/result.json").stat().st_mtime_ns == stamp
    code, _, error = fercore(*arguments, "--set", "optim.lr=0.5")
    assert (code, "holds a run with other settings: optim.lr 0.002 -> 0.5" in error) == (2, True)
    file = tmp_path / "c/base-s0/config.toml"
    file.write_text(file.read_text().replace("lr = 0.002", "lr = 0.5"))
    code, _, error = fercore(*arguments, "--set", "optim.lr=0.5")
    assert (code, "not those that the run has been trained with: optim.lr 0.002 -> 0.5" in error) == (2, True)


@pytest.mark.slow
def test_compare_without_labels_of_the_target_gives_verdicts_a_choice_and_a_report(fercore, tmp_path):
    (tmp_path / "clinic").mkdir()
    rng = np.random.default_rng(0)
    for number in range(60):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"clinic/{number}.png")
    rows = ["base:source_only", "smooth:source_only source_only.label_smoothing=0.4"]
    data = [*FACES[:2], "--target", f"folder:{tmp_path}/clinic", "--preset", "demo", "--set", "train.steps=3"]
    arguments = ["compare", *rows, "--seeds", "0", *data, *SMALL, "--choose", "entropy", "--out", tmp_path / "c"]
    code, text, error = fercore(*map(str, arguments))
    assert (code, error) == (0, "")
    assert "against base, by seed, without labels of the target" in text
    assert re.search(r"take (base|smooth)\n", text)
    told = json.loads((tmp_path / "c/compare.json").read_text())
    assert [row["accuracy"] for row in told["rows"]] == [None, None]
    code, _, error = fercore("report", str(tmp_path / "c"))
    assert (code, error) == (0, "")


@pytest.mark.slow
def test_runs_side_by_side_end_as_alone_and_name_the_row_that_fails(fercore, tmp_path):
    rows = ["base:source_only", "smooth:source_only source_only.label_smoothing=0.2"]
    shared = ["--seeds", "0", *FACES, *SMALL, "--set", "train.steps=2", "--set", "train.threads=1"]
    scores = []
    for jobs in ("1", "2"):
        assert fercore("compare", *rows, *shared, "--jobs", jobs, "--out", tmp_path / jobs)[0] == 0
        summary = json.loads((tmp_path / jobs / "compare.json").read_text())
        scores.append([row["accuracy"]["by_seed"] for row in summary["rows"]])
    assert scores[0] == scores[1]
    broken = ["base:source_only", "broken:source_only data.source_batch=5000"]
    code, _, error = fercore("compare", *broken, *shared, "--jobs", "2", "--out", tmp_path / "broken")
    assert code == 2
    assert "broken seed 0: " in error
    assert "5000" in error


@pytest.mark.parametrize("group", [[], ["data"], ["clip"], ["au"]], ids="".join)
def test_a_bare_command_shows_its_help(fercore, group):
    code, text, error = fercore(*group)
    assert (code, error) == (0, "")
    assert text == fercore(*group, "--help")[1]
    assert "Commands:" in text


def test_help_keeps_its_brackets(fercore):
    text = " ".join(fercore("compare", "--help")[1].split())
    assert '"[LABEL:]plugin[+plugin] [key=value ...]", one per row.' in text
    assert "FORMAT:PATH[?option=value&...]" in text


def test_tables_keep_brackets_and_colons(capsys):
    from fercore import console

    console.print_table("mean [std]", ("row", ":smile:"), [("base [key=1]", "[red]1")])
    out = capsys.readouterr().out
    for text in ("mean [std]", ":smile:", "base [key=1]", "[red]1"):
        assert text in out


@pytest.mark.parametrize("plugins", [["-p", "source_only+leaf_eaf"], ["-p", "source_only", "-p", "leaf_eaf"]])
def test_add_ons_follow_the_method_with_a_plus_or_by_themselves(fercore, plugins):
    code, text, _ = fercore("plugins", "--explain", *plugins)
    assert code == 0
    assert "leaf_eaf wraps > source_only implements" in text
    assert "leaf_eaf wraps > source_only implements" in fercore("run", *plugins, *FACES, *SMALL, "--dry-run", "-v")[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "-p", "source_only", "--set", "train"],
        ["run", "-p", "source_only", "--set", "data.sze=3"],
        ["run", "-p", "source_only", "--set", "train.steps=many"],
        ["run", "-p", "source_only+leaf_eff"],
        ["run", "-p", "source_only", "--preset", "demmo"],
        ["run"],
        ["compare", "source_only optim.lr"],
        ["compare", "source_only", "x:source_only optim.lr=fast"],
        ["compare", "source_only", "--seeds", "a"],
        ["plugins"],
    ],
    ids=" ".join,
)
def test_a_mistake_in_words_is_told_before_torch_is_imported(arguments):
    code = "import sys; from fercore.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == (0 if arguments == ["plugins"] else 2)
    assert done.stdout.splitlines()[-1] == "False"


def test_plugins_and_explain_and_doctor(fercore):
    assert "source_only" in fercore("plugins")[1]
    code, text, _ = fercore("plugins", "--explain", "--plugin", "source_only")
    assert code == 0
    assert "source_only implements" in text
    code, text, _ = fercore("doctor")
    assert code == 0
    assert "kernel mmd       cpu\n" in text
    library = r"^library cpu      in use, compiled (ahead of time|at first use): /.*\.so; by \S+ [\d.]+, runs \w+ of "
    assert re.search(library, text, re.M)
    assert re.search(r"^library cuda     .*; for sm_80, sm_90, sm_100$", text, re.M)
    assert not re.search(r"None|True|False|[\[{(']", text)


def test_data_synthfer_writes_a_dataset(fercore, tmp_path):
    code, text, _ = fercore("data", "synthfer", "nir", "--n", "14", "--out", tmp_path / "faces")
    assert code == 0
    assert "14 images" in text
    assert len(list((tmp_path / "faces").rglob("*.png"))) == 14
    assert (tmp_path / "faces/manifest.csv").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
def test_what_is_printed_onto_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", "from fercore.cli import main; main()", "plugins"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    wanted = "fercore: error: cannot write: No space left on device (standard output); make room there\n"
    assert (done.returncode, done.stderr) == (2, wanted)


def test_a_programming_error_keeps_its_traceback_and_exits_1():
    code = "from fercore import api, cli; api.plugins = lambda: 1 / len([]); cli.main()"
    done = subprocess.run([sys.executable, "-c", code, "plugins"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_version(fercore):
    from fercore import __version__

    assert fercore("--version")[1] == f"fercore {__version__}\n"
