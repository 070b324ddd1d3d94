"""`fercore au`: the network learns units, says how well, and writes files that a run reads back."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from fercore.au import SCORES, load_network
from fercore.au.training import AUTraining, f1_by_unit, train_network
from fercore.cli import app
from fercore.config import DataSettings
from fercore.errors import UserInputError
from fercore.synthfer import AU_NAMES, SynthFER, write
from tests.loading import load_domains

pytestmark = pytest.mark.slow


def call(*arguments):
    done = CliRunner().invoke(app, list(arguments), standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.output


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("au") / "au.safetensors"
    said = call(
        "au", "train", "--out", str(path), "--style", "studio", "--n", "448", "--epochs", "6", "--test-style", "posed"
    )
    return path, said


def test_training_learns_and_reports(weights):
    path, said = weights
    assert "epoch 6 of 6" in said
    assert "synthfer:posed?n=224&seed=1" in said
    losses = [float(line.split()[-1]) for line in said.splitlines() if line.startswith("epoch")]
    assert losses[-1] < 0.85 * losses[0]
    assert load_network(path).au_names == AU_NAMES
    faces = SynthFER("posed", n=150, seed=1, size=48)
    images = torch.from_numpy(faces.render(range(150)).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        scores = load_network(path)(images.float() / 255).numpy()
    for name in ("AU25", "AU26"):
        k = AU_NAMES.index(name)
        assert roc_auc_score(faces.au_intensity[:, k] >= 1.2, scores[:, k]) > 0.75, name


def test_detect_writes_what_a_run_reads(weights, tmp_path):
    path, _ = weights
    out = tmp_path / "wild.csv"
    assert "28 images written" in call(
        "au", "detect", "--source", "synthfer:wild?n=28", "--weights", str(path), "--out", str(out), "--size", "32"
    )
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 28
    assert list(rows[0]) == ["path", *AU_NAMES]

    def scores(provider):
        settings = DataSettings(sources=("synthfer:studio?n=28&au=synthfer",), target=provider, size=32)
        return load_domains(settings, seed=0).test.extras[SCORES]

    by_file, by_network = (scores(f"synthfer:wild?n=28&au={which}") for which in (out, path))
    np.testing.assert_allclose(by_file, by_network, atol=1e-4)


def test_detect_takes_split_and_limit(weights, tmp_path):
    source = tmp_path / "set"
    write(SynthFER("studio", n=40, size=24), source)
    with (source / "manifest.csv").open() as handle:
        tested = {row["path"] for row in csv.DictReader(handle) if row["split"] == "test"}
    for spec, n in (("split=test", len(tested)), ("split=test&limit=3", 3)):
        out = tmp_path / f"{n}.csv"
        call(
            "au", "detect", "--source", f"manifest:{source}/manifest.csv?{spec}",
            "--weights", str(weights[0]), "--out", str(out),
        )  # fmt: skip
        with out.open() as handle:
            keys = [row["path"] for row in csv.DictReader(handle)]
        assert len(keys) == n
        assert all(key.removeprefix(f"{source}/") in tested for key in keys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "--out", "x.pt"), "not a new .safetensors file"),
        (("train", "--out", "new.safetensors", "--style", "studo"), "unknown style 'studo'.*studio"),
        (("train", "--out", "new.safetensors", "--test-style", "web"), "trained on and tested on"),
        (("train", "--out", "new.safetensors", "--n", "3"), "at least one style, 64 images"),
        (
            ("detect", "--source", "synthfer:wild?n=4", "--weights", "none", "--out", "o.csv"),
            "unknown action-unit provider",
        ),
    ],
)
def test_faults(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserInputError, match=words):
        call("au", *arguments)
    assert not list(tmp_path.iterdir())


def test_an_output_that_exists_is_left_alone(weights, tmp_path):
    out = tmp_path / "o.csv"
    out.write_text("mine")
    with pytest.raises(UserInputError, match="output file exists"):
        call("au", "detect", "--source", "synthfer:wild?n=4", "--weights", str(weights[0]), "--out", str(out))
    assert out.read_text() == "mine"


def test_training_is_a_function_of_its_seed_and_leaves_the_generator_alone():
    plan = AUTraining(styles=("studio",), n=64, epochs=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, report = train_network(plan)
    assert torch.equal(before, torch.get_rng_state())
    two, again = train_network(plan)
    assert report == again
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_f1_is_counted_by_unit():
    class Fixed:
        au_names = ("AU01", "AU02", "AU04")

        def __call__(self, images):
            return torch.tensor([[0.9, 0.1, 0.0], [0.6, 0.9, 0.0], [0.1, 0.1, 0.0], [0.2, 0.9, 0.0]])[: len(images)]

    targets = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0]])
    found = f1_by_unit(Fixed(), torch.zeros(4, 3, 8, 8, dtype=torch.uint8), targets)
    assert found == {"AU01": pytest.approx(2 * 1 / (2 + 2)), "AU02": pytest.approx(2 * 2 / (2 + 3)), "AU04": 1.0}
