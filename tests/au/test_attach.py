"""Action units of a run: providers, shared units, rows that are missing, and what the fingerprint covers."""

from __future__ import annotations

import importlib.metadata
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fercore.au import CODES, SCORES, refuse_without
from fercore.au.network import AUNetwork, load_network, save_network
from fercore.config import DataSettings
from fercore.data import mismatch_lines, side_info
from fercore.errors import UserInputError
from fercore.synthfer import AU_NAMES, SynthFER, write
from tests.loading import load_domains

STUDIO, WILD = "synthfer:studio?n=28", "synthfer:wild?n=56&seed=2"


def loaded(source=STUDIO, target=WILD, seed=0, **values):
    return load_domains(DataSettings(sources=(source,), target=target, size=32, **values), seed=seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("faces") / "set"
    write(SynthFER("studio", n=40, size=24), path)
    return path


def rewrite(folder, tmp_path, edit):
    """The folder's au.csv with its rows edited, elsewhere, with absolute names."""
    head, *rows = (folder / "au.csv").read_text().splitlines()
    rows = [f"{folder}/{row}" for row in rows]
    path = tmp_path / "edited.csv"
    path.write_text("\n".join([head, *edit(rows)]) + "\n")
    return path


def test_generated_faces_bring_their_own():
    domains = loaded(au="synthfer")
    assert domains.au_names == AU_NAMES
    for table in (*domains.sources, domains.adaptation, domains.test):
        assert table.extras[SCORES].dtype == np.float32
        assert (table.extras[CODES] == (table.extras[SCORES] >= 0.5)).all()
        assert (table.extras[SCORES] == table.extras["au_scores"]).all()
    assert mismatch_lines(domains.report)[0].startswith("action units: AU01, AU02")
    assert set(side_info(domains, "target").extras) == {"au_scores", SCORES, CODES}
    assert side_info(domains, "source").extras[CODES].shape == (28, 17)


def test_without_a_provider_nothing_is_added():
    domains = loaded()
    assert domains.au_names == ()
    assert domains.report["au"] is None
    assert SCORES not in domains.adaptation.extras
    assert "au" not in domains.fingerprint()
    with pytest.raises(UserInputError, match="adafer needs action units.*OpenFace 2"):
        refuse_without(DataSettings(sources=(STUDIO,), target=WILD), "adafer")


def test_the_truth_stays_with_the_evaluator():
    domains = loaded(au="synthfer")
    assert (domains.adaptation.labels == -1).all()
    faces = SynthFER("wild", n=56, seed=2)
    rows = domains.adaptation.rows
    assert (domains.truth == faces.labels[rows]).all()


def test_a_file_is_read_and_names_are_intersected(folder, tmp_path):
    cut = tmp_path / "few.csv"
    cut.write_text("\n".join(",".join(line.split(",")[:4]) for line in (folder / "au.csv").read_text().splitlines()))
    domains = loaded(f"manifest:{folder}/manifest.csv?split=all&au={cut}", au="synthfer")
    assert domains.au_names == ("AU01", "AU02", "AU04")
    assert domains.report["au"]["unshared"] == [name for name in AU_NAMES if name not in domains.au_names]
    assert any("left out: AU05" in line for line in mismatch_lines(domains.report))
    faces = SynthFER("studio", n=40, size=24)
    table = domains.sources[0]
    at = [int(key[-9:-4]) for key in table.keys]
    np.testing.assert_allclose(table.extras[SCORES], faces.au_scores[at][:, :3], atol=1e-4)


def test_missing_rows(folder, tmp_path):
    spec = f"manifest:{folder}/manifest.csv?split=all"
    short = rewrite(folder, tmp_path, lambda rows: [*rows[1:], "other.png" + rows[0][rows[0].index(",") :]])
    with pytest.raises(UserInputError, match=r"1 of 40 images have no row.*00000.*at most 1.0%"):
        loaded(f"{spec}&au={short}", au="synthfer")
    domains = loaded(f"{spec}&au={short}", au="synthfer", max_bad_share=0.05)
    assert len(domains.sources[0]) == 39
    source = domains.report["sources"][0]
    assert source["n"] == sum(source["classes"].values()) == 39
    assert source["classes"] == domains.sources[0].counts(domains.classes)
    words = " ".join(mismatch_lines(domains.report))
    assert "1 image without a row of action units, 1 left out of training" in words
    assert "1 row of action units of none of its images" in words
    target = loaded(STUDIO, f"{spec}&au={short}", au="synthfer", max_bad_share=0.05)
    unknown = int(np.isnan(target.test.extras[SCORES]).any(axis=1).sum())
    skipped = target.report["au"]["domains"][1]["skipped"]
    assert skipped["test"] == 0
    assert unknown + skipped["adaptation"] == 1
    assert len(target.adaptation) + len(target.test) == 40 - skipped["adaptation"]
    assert len(target.truth) == len(target.adaptation)


def test_an_image_without_a_face_counts_as_one_without_a_row(folder, tmp_path):
    spec = f"manifest:{folder}/manifest.csv?split=all"

    def faceless(row):
        return row.split(",")[0] + "," * 17

    one = rewrite(folder, tmp_path, lambda rows: [faceless(rows[0]), *rows[1:]])
    with pytest.raises(UserInputError, match=r"1 of 40 images have no row.*at most 1.0%"):
        loaded(f"{spec}&au={one}", au="synthfer")
    domains = loaded(f"{spec}&au={one}", au="synthfer", max_bad_share=0.05)
    assert len(domains.sources[0]) == 39
    assert domains.report["au"]["domains"][0]["without_row"] == 1
    every = rewrite(folder, tmp_path, lambda rows: [*map(faceless, rows), "else.png" + ",0.5" * 17])
    with pytest.raises(UserInputError, match="40 of 40 images have no row"):
        loaded(f"{spec}&au={every}", au="synthfer", max_bad_share=1.0)


def test_cells_without_a_number_are_counted_and_lose_no_image(folder, tmp_path):
    spec = f"manifest:{folder}/manifest.csv?split=all"
    holed = rewrite(folder, tmp_path, lambda rows: [re.sub(r",[0-9.]+$", ",-nan(ind)", rows[0]), *rows[1:]])
    domains = loaded(f"{spec}&au={holed}", au="synthfer")
    assert len(domains.sources[0]) == 40
    assert domains.report["au"]["domains"][0]["cells_without_number"] == 1
    assert any("1 cell of action units without a number" in line for line in mismatch_lines(domains.report))


def test_a_folder_of_one_table_an_image(folder, tmp_path):
    head, *rows = (folder / "au.csv").read_text().splitlines()
    for row in rows:
        name, _, cells = row.partition(",")
        (tmp_path / "au" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "au" / name).with_suffix(".csv").write_text(f"face,{head.partition(',')[2]}\n0,{cells}\n")
    spec = f"manifest:{folder}/manifest.csv?split=all"
    one, many = (loaded(f"{spec}&au={path}", au="synthfer") for path in (folder / "au.csv", tmp_path / "au"))
    assert (one.sources[0].extras[SCORES] == many.sources[0].extras[SCORES]).all()
    assert (one.sources[0].extras[CODES] == many.sources[0].extras[CODES]).all()


def test_a_file_of_other_images(folder, tmp_path):
    other = rewrite(folder, tmp_path, lambda rows: [row.replace("/000", "/111") for row in rows])
    with pytest.raises(UserInputError, match="no row of the action-unit file is of this domain"):
        loaded(f"manifest:{folder}/manifest.csv?au={other}", au="synthfer")


def test_names_that_do_not_meet(folder, tmp_path):
    path = tmp_path / "strange.csv"
    lines = (folder / "au.csv").read_text().splitlines()
    path.write_text("\n".join(["path,AU30", *(f"{line.split(',')[0]},0.{i % 9}" for i, line in enumerate(lines[1:]))]))
    with pytest.raises(UserInputError, match="no action unit in common.*AU30.*AU01"):
        loaded(f"manifest:{folder}/manifest.csv?au={path}", au="synthfer")


def test_every_domain_needs_a_provider(folder):
    with pytest.raises(UserInputError, match="a domain without action units.*wild"):
        loaded(f"{STUDIO}&au=synthfer")
    with pytest.raises(UserInputError, match="only generated faces carry"):
        loaded(f"manifest:{folder}/manifest.csv", au="synthfer")


def test_one_code_for_all_is_said():
    domains = loaded(au="synthfer", au_threshold=1.0)
    assert [d["codes"] for d in domains.report["au"]["domains"]] == [1, 1]
    assert any("one and the same code" in line for line in mismatch_lines(domains.report))


def test_the_fingerprint_covers_the_units(folder, tmp_path):
    spec = f"manifest:{folder}/manifest.csv?split=all"

    def prints(path):
        return loaded(f"{spec}&au={path}", au="synthfer").fingerprint()

    first = prints(folder / "au.csv")
    assert first["au"] == list(AU_NAMES)
    assert first["sources"][0]["au"]
    assert prints(rewrite(folder, tmp_path, lambda rows: rows)) == first
    nudged = prints(rewrite(folder, tmp_path, lambda rows: [rows[0].rsplit(",", 1)[0] + ",0.7777", *rows[1:]]))
    assert nudged["sources"] != first["sources"]
    assert nudged["adaptation"] == first["adaptation"]
    other = loaded(au="synthfer", au_threshold=0.6).fingerprint()
    assert other["adaptation"] != loaded(au="synthfer").fingerprint()["adaptation"]


class Brows:
    au_names = ("AU2", "AU1")

    def __call__(self, images):
        assert images.shape[1:] == (3, 32, 32)
        assert 0 <= images.min() <= images.max() <= 1
        return torch.stack([images.mean((1, 2, 3)), images.amax((1, 2, 3))], 1)


def install(monkeypatch, thing):
    point = SimpleNamespace(name="brows", load=lambda: thing)

    def entry_points(*, group):
        assert group == "fercore.au_providers"
        return [point]

    monkeypatch.setattr("fercore.au.providers.entry_points", entry_points)
    assert importlib.metadata.entry_points is not entry_points


@pytest.mark.parametrize("thing", [Brows, Brows()], ids=["class", "object"])
def test_an_installed_detector(monkeypatch, thing):
    install(monkeypatch, thing)
    domains = loaded(au="brows", au_threshold=0.3)
    assert domains.au_names == ("AU01", "AU02")
    scores = domains.test.extras[SCORES]
    assert (scores[:, 0] >= scores[:, 1]).all()  # AU01 is the maximum, AU02 the mean
    with pytest.raises(UserInputError, match="unknown action-unit provider 'brow'.*brows"):
        loaded(au="brow")


def fake(name, answer):
    return type("D", (), {"au_names": (name,), "__call__": lambda self, images: answer(len(images))})()


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (SimpleNamespace(au_names=("AU1",)), "is no detector"),
        (fake("smile", lambda n: torch.zeros(n, 1)), "is no detector"),
        (fake("AU1", lambda n: torch.zeros(n, 2)), "returned .* scores"),
        (fake("AU1", lambda n: torch.full((n, 1), 2.0)), "outside 0..1"),
    ],
)
def test_a_wrong_detector(monkeypatch, thing, words):
    install(monkeypatch, thing)
    with pytest.raises(UserInputError, match=words):
        loaded(au="brows")


def failing(*_):
    raise RuntimeError("no weights here\nsecond line")


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (fake("AU1", lambda n: np.zeros((n, 1))), "returned ndarray, not a dense tensor"),
        (fake("AU1", lambda n: [[0.0]] * n), "returned list"),
        (fake("AU1", lambda n: None), "returned NoneType"),
        (fake("AU1", lambda n: torch.zeros(n, 1, dtype=torch.complex64)), "of real scores"),
        (fake("AU1", lambda n: torch.full((n, 1), torch.inf)), "outside 0..1"),
        (fake("AU1", failing), "failed: RuntimeError: no weights here"),
        (type("D", (), {"__init__": failing}), "cannot be loaded: RuntimeError: no weights here"),
        (type("D", (), {"au_names": property(failing), "__call__": failing})(), "cannot be loaded: RuntimeError"),
        (SimpleNamespace(au_names=5), "is no detector"),
        (type("D", (), {"au_names": 5, "__call__": failing})(), "is no detector"),
        (type("D", (), {"au_names": np.array(["AU1", "AU2"]), "__call__": failing})(), "is no detector"),
        (type("D", (), {"au_names": (1, 2), "__call__": failing})(), "1 is no unit"),
        (type("D", (), {"au_names": ("AU1", "AU01"), "__call__": failing})(), "names a unit twice: AU1, AU01"),
    ],
)
def test_faults_of_a_detector_name_it_and_the_cause(monkeypatch, thing, words):
    install(monkeypatch, thing)
    with pytest.raises(UserInputError, match=f"action-unit provider 'brows' .*{words}") as caught:
        loaded(au="brows")
    assert "\n" not in str(caught.value)


def test_a_detector_that_cannot_be_imported(monkeypatch):
    def load():
        raise ImportError("no module named 'eyes'")

    point = SimpleNamespace(name="brows", load=load)
    monkeypatch.setattr("fercore.au.providers.entry_points", lambda *, group: [point])
    with pytest.raises(UserInputError, match="'brows' cannot be loaded: ImportError: no module named 'eyes'") as caught:
        loaded(au="brows")
    assert isinstance(caught.value.__cause__, ImportError)


def test_a_detector_may_leave_gradients_on(monkeypatch):
    @torch.enable_grad()
    def answer(n):
        return torch.full((n, 1), 0.5, requires_grad=True) * 1

    install(monkeypatch, fake("AU1", answer))
    assert (loaded(au="brows").test.extras[SCORES] == 0.5).all()


def test_a_network_is_a_provider(tmp_path):
    torch.manual_seed(0)
    network = AUNetwork(("AU01", "AU12"), (4, 4, 4, 4)).eval()
    path = tmp_path / "au.safetensors"
    save_network(network, path, {"mean_f1": 0.5})
    again = load_network(path)
    images = torch.rand(3, 3, 40, 40)
    assert torch.equal(again(images), network(images))
    domains = loaded(au=str(path))
    assert domains.au_names == ("AU01", "AU12")
    assert loaded(au=str(path)).fingerprint() == domains.fingerprint()


def test_a_network_does_not_mind_exposure():
    torch.manual_seed(0)
    network = AUNetwork(("AU01",), (4, 4, 4, 4)).eval()
    images = torch.rand(2, 3, 48, 48)
    torch.testing.assert_close(network(images), network(images * 0.5 + 0.2), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["missing", "text", "other"])
def test_a_wrong_network(tmp_path, kind):
    from safetensors.torch import save_file

    path = tmp_path / "au.safetensors"
    if kind == "text":
        path.write_text("hello")
    if kind == "other":
        save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(UserInputError, match="fercore au train"):
        loaded(au=str(path))
