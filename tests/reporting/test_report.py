"""One file that tells of a run what its folder, its data and its networks tell."""

from __future__ import annotations

import json
import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import fercore
from fercore import cli
from fercore.engine.run import run
from fercore.errors import UserInputError
from fercore.reporting import report as making
from fercore.reporting.collect import RunFiles
from fercore.reporting.inside import look_inside

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory, page_of):
    return page_of(fercore.report(finished, out=tmp_path_factory.mktemp("page") / "report.html"))


def test_a_page_needs_nothing_else(page):
    assert page.all("script") == []
    links = [attrs.get(name) for _, attrs in page.tags for name in ("href", "src", "xlink:href") if name in attrs]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    ids = {attrs.get("id") for _, attrs in page.tags}
    assert {link[1:] for link in links if link.startswith("#")} <= ids
    policy = next(attrs["content"] for attrs in page.all("meta") if "http-equiv" in attrs)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_a_page_tells_what_the_run_found(page, finished):
    target = fercore.open_run(finished).result.target
    assert f"{target.accuracy:.3f}" in page.text
    assert f"bootstrap of {len(set(look_inside(RunFiles(finished), 8).test.subjects))} subjects" in page.text
    for title in ("Confusion matrix", "Reliability", "source_only/cross_entropy", "learning rate", "target scores",
                  "Features before training, by class", "Features after training, by domain",
                  "Surest and least sure faces"):  # fmt: skip
        assert title in page.text
    assert "fercore run --plugin source_only --config" in page.text
    assert len(page.all("svg")) == len(page.all("figure"))
    assert all(len(attrs["aria-label"]) > 20 for attrs in page.all("svg"))
    faces = page.all("img")
    assert 6 <= len(faces) <= 7 * 12
    assert all(re.fullmatch(r"face, 0\.\d\d, (right|is \w+)", attrs["alt"]) for attrs in faces)
    heads = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-4]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(heads))


def test_features_after_training_are_those_of_the_evaluation(finished, make_context):
    inside = look_inside(RunFiles(finished), 10_000)
    model = fercore.load(finished, device="cpu")
    (want,) = model.features([inside.test.read(i) for i in inside.drawn_target.tolist()]).values()
    assert np.array_equal(inside.after.target, want)
    fresh = make_context("source_only")
    assert not np.array_equal(inside.before.target, want)
    assert np.array_equal(inside.source_labels, np.concatenate([table.labels for table in fresh.domains.sources]))
    rows = RunFiles(finished).predictions
    assert rows.images[:3] == tuple(fresh.domains.target.keys[:3])
    guess = inside.probs.argmax(axis=1)
    assert (guess == inside.labels).mean() == pytest.approx(fercore.open_run(finished).result.target.accuracy)


def test_faces_are_left_out(finished, tmp_path, monkeypatch, capsys, page_of):
    monkeypatch.setattr(making, "POINTS", 20)
    monkeypatch.setattr(
        sys, "argv", ["fercore", "report", str(finished), "--no-faces", "--out", str(tmp_path / "a.html")]
    )
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 0
    assert f"written to {tmp_path / 'a.html'}" in " ".join(capsys.readouterr().out.split())
    page = page_of(tmp_path / "a.html")
    assert page.all("img") == []
    assert "Left out, as face images are personal data." in page.text


def test_texts_of_others_are_shown_and_never_obeyed(copied, monkeypatch, page_of):
    monkeypatch.setattr(making, "POINTS", 20)
    evil = "<script>alert(1)</script>\x1b[2J\u202e$x$"
    log = copied / "metrics.jsonl"
    log.write_text(log.read_text().replace("source_only/cross_entropy", json.dumps(evil)[1:-1]))
    record = json.loads((copied / "result.json").read_text())
    record["sources"][0]["spec"] = record["target"]["spec"] = f'"><img src=x onerror=alert(1)>{evil}'
    record["versions"][evil] = evil
    (copied / "result.json").write_text(json.dumps(record))
    page = page_of(fercore.report(copied))
    assert page.all("script") == []
    assert all(attrs["src"].startswith("data:image/jpeg;base64,") for attrs in page.all("img"))
    assert page.text.count(r"<script>alert(1)</script>\u001b[2J\u202e$x$") >= 5
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", (copied / "report.html").read_text(encoding="utf-8"))


def test_what_is_gone_is_said(copied, page_of):
    settings = (copied / "config.toml").read_text()
    (copied / "config.toml").write_text(settings.replace("synthfer:web?n=84", "synthfer:web?n=91"))
    page = page_of(fercore.report(copied))
    said = "Not shown, as it needs data and packages of the run: the data of 'sources' changed since the run began"
    assert said in page.text
    assert "bootstrap of 56 images" in page.text
    assert "Reliability" not in page.text
    assert page.all("img") == []


def test_a_run_is_set_beside_its_reference(finished, tmp_path, make_context, listener, monkeypatch, page_of):
    monkeypatch.setattr(making, "POINTS", 20)
    layer = {"train": {"steps": 3}, "optim": {"lr": 0.1}, "report": {"reference": str(finished)}}
    run(make_context("source_only", layers=(layer,)), tmp_path / "run", listener())
    result = fercore.open_run(tmp_path / "run").result.target.reference
    page = page_of(fercore.report(tmp_path / "run"))
    for text in ("What changed beside source_only", "Features of source_only, by class", "Where the two disagree",
                 f"agree on {result.agreement:.1%} of {result.n} images"):  # fmt: skip
        assert text in page.text
    assert "MMD of source_only" in page.text
    (tmp_path / "run/config.toml").write_text(
        (tmp_path / "run/config.toml").read_text().replace(str(finished), str(tmp_path / "gone"))
    )
    page = page_of(fercore.report(tmp_path / "run", faces=False))
    assert "What changed beside source_only" in page.text
    assert "The reference is not shown beside it: no run or comparison in this folder" in page.text


def no_result(run: Path) -> None:
    (run / "result.json").unlink()


def line(text: str):
    return lambda run: (run / "metrics.jsonl").write_text(text)


def predictions(old: str, new: str):
    def change(run: Path) -> None:
        path = run / "predictions.csv"
        path.write_text(path.read_text().replace(old, new, 1))

    return change


def confusion(run: Path) -> None:
    record = json.loads((run / "result.json").read_text())
    record["target"]["confusion"].pop()
    (run / "result.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_result, "that run is not finished"),
        (lambda run: (run / "config.toml").unlink(), "no run or comparison in this folder"),
        (line('{"kind": "step"}'), "metrics.jsonl:1); bring it back"),
        (line("{"), "not a line of a run's log: Expecting property name"),
        (line("[]"), "not a line of a run's log: it has no kind"),
        (predictions("prediction", "guess"), "predictions.csv is damaged: its columns are not image, part, prediction"),
        (predictions(",0.", ",7."), "predictions.csv is damaged: line 2: not a probability for each class"),
        (lambda run: (run / "predictions.csv").unlink(), "cannot read predictions.csv: No such file"),
        (confusion, "confusion is no table of 7 classes"),
        (lambda run: (run / "report.html").write_text("mine"), "the file there is no report of fercore"),
        (lambda run: (run / "report.html").symlink_to("result.json"), "the file there is no report"),
    ],
)
def test_a_damaged_run_is_one_line(copied, damage, message):
    damage(copied)
    before = sorted(copied.iterdir())
    with pytest.raises(UserInputError) as caught:
        fercore.report(copied)
    assert message in str(caught.value)
    assert sorted(copied.iterdir()) == before


def test_a_second_report_takes_the_place_of_the_first(copied, monkeypatch):
    monkeypatch.setattr(making, "POINTS", 8)
    first = fercore.report(copied, faces=False)
    before = first.read_text(encoding="utf-8")
    assert fercore.report(copied) == first
    assert "data:image/jpeg" in first.read_text(encoding="utf-8")
    assert "data:image/jpeg" not in before
    with pytest.raises(UserInputError, match="output file exists"):
        fercore.report(copied, out=first)


def test_a_missing_package_is_named(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(making, "find_spec", {"jinja2": "there"}.get)
    with pytest.raises(UserInputError, match=r"reports need matplotlib; pip install 'fercore\[report\]'"):
        fercore.report(finished, out=tmp_path / "a.html")


def test_a_run_on_the_target_alone_has_a_report_too(finished, tmp_path, page_of):
    given = {"target": "synthfer:wild?n=80&seed=3", "preset": "demo", "out": tmp_path / "run"}
    settings = {
        "train.threads": 1,
        "report.tensorboard": False,
        "data.target_batch": 16,
        "report.reference": str(finished),
    }
    run = fercore.train("no_adaptation", init=finished, set=settings, **given)
    page = page_of(fercore.report(run.path, faces=False))
    assert "Features after training, by class" in page.text
    for missing in ("by domain", "Distance of each source", "source (labels)"):
        assert missing not in page.text
