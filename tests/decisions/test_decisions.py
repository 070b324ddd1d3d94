"""select, verdict and ask on runs that were trained: what they print, and one line for what is wrong."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fercore.cli import main
from fercore.data.spec import parse_spec
from fercore.decisions.asking import ask, draw
from fercore.decisions.judging import compared, judge, judge_rows, read_labels
from fercore.decisions.ranking import rank, rank_by_labels
from fercore.decisions.recorded import read_recorded
from fercore.engine.run import run
from fercore.errors import UserInputError
from fercore.evaluation.consensus import Consensus
from fercore.evaluation.selection import Evidence, ranks, score_pool
from fercore.evaluation.verdict import witnesses
from fercore.experiments.comparison import Comparison, summarise
from fercore.records.result import Result

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def runs(make_context, tmp_path_factory, listener) -> list[Path]:
    """Three runs on the same target that differ in their number of steps and learning rate."""
    root = tmp_path_factory.mktemp("runs")
    layers = [{"train": {"steps": 3}}, {"train": {"steps": 6, "eval_every": 2}}, {"optim": {"lr": 0.01}}]
    for number, layer in enumerate(layers):
        run(make_context("source_only", layers=(layer,)), root / f"r{number}", listener())
    return [root / f"r{number}" for number in range(3)]


@pytest.fixture
def apart(runs, tmp_path):
    """Two runs whose recorded answers are made to differ: the second says the next class on the first 40 images."""
    copies = [tmp_path / name for name in ("reference", "adapted")]
    for copy in copies:
        shutil.copytree(runs[0], copy)
    for copy, shift in zip(copies, (0, 1), strict=True):
        path = copy / "predictions.csv"
        rows = list(csv.reader(path.open(newline="")))
        seen = 0
        for row in rows[1:]:
            if row[1] == "adaptation":
                k = (3 + (shift if seen < 40 else 0)) % 7
                row[3:] = [f"{0.7 if at == k else 0.05:.6f}" for at in range(7)]
                seen += 1
        with path.open("w", newline="") as handle:
            csv.writer(handle).writerows(rows)
    return copies


@pytest.fixture
def fercore(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fercore", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out = capsys.readouterr()
        return stop.value.code or 0, out.out, out.err

    return call


def without_test_rows(folder: Path) -> None:
    """Take the test part's lines out of predictions.csv, and turn round what its labels say of the run."""
    path = folder / "predictions.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if ",test," not in line))
    found = json.loads((folder / "result.json").read_text())
    found["target"]["accuracy"] = 1 - found["target"]["accuracy"]
    (folder / "result.json").write_text(json.dumps(found))


def test_select_ranks_by_the_scores_of_the_recorded_predictions(runs):
    found = rank(runs, score="information_maximisation")
    own = score_pool("information_maximisation", [Evidence(read_recorded(path).probs) for path in runs])
    assert list(found.names) == [str(runs[i]) for i in np.argsort(ranks(own))]
    np.testing.assert_allclose(found.scores["information_maximisation"], np.sort(own)[::-1])
    assert found.oracle is None
    told = rank(runs, oracle=True).to_json()
    assert all(row["oracle"]["uses_target_labels"] for row in told["candidates"])


def test_the_test_part_has_no_say(apart):
    before, verdict = rank(apart).to_json(), judge(*apart)
    for each in apart:
        without_test_rows(each)
    assert rank(apart).to_json() == before
    assert judge(*apart) == verdict


def test_select_ranks_the_checkpoints_of_one_run(runs, fercore):
    code, out, _ = fercore("select", runs[1], "--score", "information_maximisation", "--json")
    assert code == 0
    told = json.loads(out)["candidates"]
    lines = [json.loads(line) for line in (runs[1] / "metrics.jsonl").read_text().splitlines()]
    logged = {f"step {x['done']}": x["information_maximisation"] for x in lines if x["kind"] == "selection"}
    assert {row["candidate"]: row["scores"]["information_maximisation"] for row in told} == logged
    assert told[0]["candidate"] == max(logged, key=logged.get)
    assert "oracle" not in told[0]


def test_select_ranks_rows_of_a_comparison_by_their_mean_over_seeds(runs, tmp_path):
    out = tmp_path / "cmp"
    for name, path in {"a-s0": runs[0], "b-s0": runs[1], "a-s1": runs[1], "b-s1": runs[2]}.items():
        shutil.copytree(path, out / name)
    (out / "compare.json").write_text("{}")
    found = rank([out], score="entropy")
    e = score_pool("entropy", [Evidence(read_recorded(path).probs) for path in runs])
    assert dict(zip(found.names, found.scores["entropy"], strict=True)) == pytest.approx(
        {"a": (e[0] + e[1]) / 2, "b": (e[1] + e[2]) / 2}
    )


def test_compare_chooses_a_row_by_a_score_that_is_known_before_anything_is_trained(
    runs, tmp_path, fercore, monkeypatch
):
    code, _, err = fercore("compare", "source_only", "dan", "--choose", "entropie", "--out", tmp_path / "none")
    assert code == 2
    assert "unknown score 'entropie'" in err
    assert not (tmp_path / "none").exists()
    out = tmp_path / "cmp"

    def compare(*given, **settings):
        for name, path in {"a-s0": runs[0], "b-s0": runs[2]}.items():
            shutil.copytree(path, out / name)
        (out / "compare.json").write_text("{}")
        result = Result.model_validate(json.loads((runs[0] / "result.json").read_text()))
        rows = summarise({"a": [result], "b": [result]})
        return Comparison(preset="demo", target="t", seeds=[0], primary_metric="accuracy", rows=rows)

    monkeypatch.setattr("fercore.api.compare", compare)
    code, text, _ = fercore("compare", "a", "b", "--seeds", "0", "--choose", "aggregate", "--out", out)
    assert code == 0
    assert text.rstrip().endswith(f"take {rank([out]).names[0]}")


def test_a_comparison_with_source_only_says_the_verdict_of_every_other_row(apart, tmp_path):
    for name, path in {
        "first-s0": apart[0],
        "my-row-s0": apart[1],
        "first-s1": apart[0],
        "my-row-s1": apart[0],
    }.items():
        shutil.copytree(path, tmp_path / "cmp" / name)
    lines = judge_rows(tmp_path / "cmp", ["first", "my row"], [0, 1])
    assert lines == ["my row: 1 helped against first, by seed, without labels of the target"]
    path = tmp_path / "cmp/my-row-s0/predictions.csv"
    path.write_text(re.sub(r"(?m)^(?!image)(?=.)", "x", path.read_text()))
    assert judge_rows(tmp_path / "cmp", ["first", "my row"], [0])[0].startswith("my row: 1 not comparable")


def test_python_mirrors_the_commands(apart, tmp_path):
    import fercore as package

    assert package.select(apart).to_json() == rank(apart).to_json()
    assert package.verdict(*apart) == judge(*apart)
    assert len(package.ask(apart, out=tmp_path / "ask", n=7).images) == 7


def test_the_verdict_prints_what_programs_read(apart, fercore):
    code, out, _ = fercore("verdict", *apart, "--json")
    found = json.loads(out)
    assert code == 0
    assert found.keys() >= {"schema", "verdict", "difference", "interval", "n", "disagreements", "witnesses"}
    assert found["disagreements"] == 40
    assert found["n"] == 56
    # Both are as sure, but the reference gives one class alone.
    assert found["witnesses"]["models"] == 0
    assert found["difference"] == pytest.approx(found["witnesses"]["information"])
    assert found["verdict"] == "helped"
    code, out, _ = fercore("verdict", *apart[::-1])
    assert out.startswith("hurt: -")
    assert "models:" not in out
    assert "fercore ask" in out.replace("\n", " ")


def test_the_verdict_hears_what_runs_recorded_of_their_features(runs, tmp_path):
    first, second = (shutil.copytree(path, tmp_path / path.name) for path in (runs[0], runs[2]))
    amis = [read_recorded(path).scores["class_ami"] for path in (first, second)]
    found = compared([first, second], None)
    assert found.class_amis == amis
    assert witnesses(*found.probs, class_amis=amis)["class_ami"] == amis[1] - amis[0]
    assert judge(first, second).witnesses["class_ami"] == pytest.approx(0.294 * (amis[1] - amis[0]))
    lines = (second / "predictions.csv").read_text().splitlines(keepends=True)
    gone = next(at for at, line in enumerate(lines) if ",adaptation," in line)
    (second / "predictions.csv").write_text("".join(lines[:gone] + lines[gone + 1 :]))
    assert "class_ami" not in judge(first, second).witnesses  # of other images than those
    (first / "scores.json").unlink()  # as a run of an earlier version
    assert "class_ami" not in judge(first, second).witnesses
    (first / "scores.json").write_text('{"schema": 1, "part": "adaptation", "n": 9, "scores": {"class_ami": "high"}}')
    with pytest.raises(UserInputError, match=r"scores\.json is damaged.*class_ami"):
        judge(first, second)


def test_a_verdict_on_another_dataset_runs_the_models(runs):
    found = compared(runs[:2], parse_spec("synthfer:web?n=30&seed=8"))
    assert len(found.images) == 30
    assert [f.shape[0] for f in found.features] == [30, 30]
    assert found.probs[0].shape == (30, 7)


def test_asked_labels_settle_it_and_nothing_shows_what_the_models_say(apart, tmp_path, fercore):
    code, out, _ = fercore("ask", *apart, "--n", 20, "--out", tmp_path / "ask")
    assert code == 0
    assert "20 of 40 images" in out
    asked = json.loads((tmp_path / "ask/ask.json").read_text())
    classes = asked["classes"]
    labels = tmp_path / "ask/labels.csv"
    rows = list(csv.reader(labels.open(newline="")))
    assert rows[0] == ["image", "label"]
    assert [row[0] for row in rows[1:]] == asked["images"]
    labels.write_text("image,label\n" + "".join(f"{image},{classes[4]}\n" for image in asked["images"]))
    code, out, _ = fercore("verdict", *apart, "--labels", labels, "--json")
    found = json.loads(out)
    assert found["verdict"] == "helped"
    assert found["labels_used"] == 20
    assert found["difference"] == pytest.approx(40 / 56)
    assert found["evidence"]["better"] == 20
    assert found["evidence"]["chance"] > 0.99
    page = (tmp_path / "ask/page.html").read_text()
    assert page.count("data:image/png;base64,") == 20
    assert "0.7" not in page.split("<script>")[1].split("const given")[0]
    assert not re.search(r"https?://", page)


def test_several_models_are_asked_about_by_consensus_in_rounds(apart, tmp_path, fercore):
    third = shutil.copytree(apart[0], tmp_path / "third")
    text = (third / "predictions.csv").read_text().splitlines(keepends=True)
    adapted_to = [at for at, line in enumerate(text) if ",adaptation," in line]
    for at in adapted_to[:10]:  # answers class 5 with 0.7
        text[at] = ",".join([*text[at].split(",")[:3], *(f"{0.7 if k == 5 else 0.05:.6f}" for k in range(7))]) + "\n"
    (third / "predictions.csv").write_text("".join(text))
    models = [*apart, third]
    code, out, _ = fercore("ask", *models, "--n", 6, "--out", tmp_path / "ask")
    assert code == 0
    assert "fercore select" in out
    asked = json.loads((tmp_path / "ask/ask.json").read_text())
    assert asked["sampling"] == "consensus"
    labels = tmp_path / "ask/labels.csv"
    labels.write_text("image,label\n" + "".join(f"{image},{asked['classes'][5]}\n" for image in asked["images"]))
    with pytest.raises(UserInputError, match=r"no fair sample.*fercore select"):
        judge(*apart, labels=labels)
    again = ask(models, tmp_path / "ask2", n=50, labels=[labels])
    assert not set(again.images) & set(asked["images"])
    assert len(again.images) == 40 - 6
    code, out, _ = fercore("select", *models, "--labels", labels, "--json")
    told = json.loads(out)
    assert told["by"] == "chance_of_best"
    chances = {row["candidate"]: row["scores"]["chance_of_best"] for row in told["candidates"]}
    assert sum(chances.values()) == pytest.approx(1)
    assert chances == pytest.approx({name: share for name, share in zip(*_chances(models, labels), strict=True)})
    other = tmp_path / "ask2/labels.csv"
    other.write_text(f"image,label\n{again.images[0]},nobody\n")
    with pytest.raises(UserInputError, match="unknown class 'nobody'"):
        rank_by_labels(models, [labels, other])
    with pytest.raises(UserInputError, match="one candidate"):
        rank_by_labels(models[:1], [labels])
    with pytest.raises(UserInputError, match="go with --sampling consensus"):
        ask(models, tmp_path / "ask3", n=5, sampling="equal", labels=[labels])
    assert fercore("select", *models, "--labels", labels, "--oracle")[0] == 2
    assert fercore("ask", *models, "--out", tmp_path / "x", "--sampling", "all")[0] == 2
    other.write_text("image,label\n" + "".join(f"{image},{asked['classes'][5]}\n" for image in again.images))
    with pytest.raises(UserInputError, match="every image with several answers has a label"):
        ask(models, tmp_path / "ask4", n=5, labels=[labels, other])


def _chances(models, labels):
    """Return the models and their chances by the labels, through the recorded predictions alone."""
    asked, given = read_labels(labels, read_recorded(models[0]).classes)
    recorded = [read_recorded(path) for path in models]
    consensus = Consensus(np.stack([each.probs for each in recorded]))
    for image in asked.images:
        consensus.learn(recorded[0].images.index(image), recorded[0].classes.index(given[image]))
    return [str(path) for path in models], consensus.chances()


def test_a_draw_gives_each_disagreement_the_same_chance_and_balances_answers():
    old = np.eye(3)[np.zeros(90, dtype=int)]
    new = np.eye(3)[np.repeat([1, 2, 0], [40, 20, 30])]
    apart = np.arange(60)
    counts = np.zeros(60)
    for seed in range(3000):
        drawn = draw(apart, [old, new], 12, seed)
        assert len(set(drawn)) == 12
        assert sum(at < 40 for at in drawn) in (7, 8, 9)
        counts[drawn] += 1
    np.testing.assert_allclose(counts / 3000, 12 / 60, atol=0.04)
    assert sorted(draw(apart, [old, new], 99, 0)) == list(range(60))


class _Text(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self._in = "", False

    def handle_starttag(self, tag, attrs):
        self._in = dict(attrs).get("id") == "result"

    def handle_data(self, data):
        self.found += data if self._in else ""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_page_takes_keys_and_saves_the_csv_that_is_read(apart, tmp_path):
    asked = ask(apart, tmp_path / "ask", n=5)
    page = (tmp_path / "ask/page.html").read_text()
    keys = "for (const key of ['3','ArrowRight','1','ArrowLeft','2','8'])"
    script = (
        f"<script>{keys} document.dispatchEvent(new KeyboardEvent('keydown', {{key}}));"
        "const box = document.createElement('pre'); box.id = 'result'; box.textContent = csv();"
        "document.body.append(box);</script></html>"
    )
    (tmp_path / "ask/driven.html").write_text(page.replace("</html>", script))
    profile = f"--user-data-dir={tmp_path}/chrome"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", profile, "--dump-dom"]
    address = f"file://{tmp_path}/ask/driven.html"
    dom = subprocess.run([*command, address], capture_output=True, text=True, timeout=60, check=True)
    reader = _Text()
    reader.feed(dom.stdout)
    (tmp_path / "ask/labels.csv").write_text(reader.found)
    _, given = read_labels(tmp_path / "ask/labels.csv", asked.classes)
    # 3 on the first, the second left out, 1 on the third and on to the fourth, back, 2 in its place, none on the fourth
    expected = {0: asked.classes[2], 2: asked.classes[1], 3: "none"}
    assert given == {asked.images[at]: name for at, name in expected.items()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\nnobody.png,anger\n", "not asked for: 'nobody.png'"),
        ("image,label\n{0},anger\n{0},fear\n", "contradicting labels.*anger and fear"),
        ("image,label\n{0},angry\n", "unknown class 'angry'.*anger"),
        ("image,label\n{0},\n", "no label of an image"),
        ("{0},anger\n", "first line is not image,label"),
    ],
)
def test_labels_that_are_wrong_are_one_line(text, message, apart, tmp_path):
    asked = ask(apart, tmp_path / "ask", n=5)
    (tmp_path / "ask/labels.csv").write_text(text.format(*asked.images))
    with pytest.raises(UserInputError, match=message):
        judge(*apart, labels=tmp_path / "ask/labels.csv")
    (tmp_path / "ask/ask.json").unlink()
    with pytest.raises(UserInputError, match="nobody asked for"):
        judge(*apart, labels=tmp_path / "ask/labels.csv")


def test_what_cannot_be_compared_is_one_line(runs, apart, tmp_path, fercore):
    other = shutil.copytree(apart[1], tmp_path / "other")
    lines = (other / "predictions.csv").read_text()
    (other / "predictions.csv").write_text(lines.replace("disgust", "contempt", 1))
    with pytest.raises(UserInputError, match="different classes: 'contempt'"):
        judge(apart[0], other)
    (other / "predictions.csv").write_text(re.sub(r"(?m)^(?!image)(?=.)", "x", lines))
    with pytest.raises(UserInputError, match="no image in common.*--target"):
        judge(apart[0], other)
    adapted_to = [line for line in lines.splitlines(keepends=True) if ",adaptation," in line]
    (other / "predictions.csv").write_text("".join([lines.splitlines(keepends=True)[0], *adapted_to[:19]]))
    with pytest.raises(UserInputError, match="19 images: too few"):
        judge(apart[0], other)
    (other / "predictions.csv").write_text(lines.replace("0.700000", "0.900000", 1))
    with pytest.raises(UserInputError, match="do not sum to 1"):
        judge(apart[0], other)
    with pytest.raises(UserInputError, match="the same model"):
        judge(runs[0], runs[0])
    with pytest.raises(UserInputError, match="one candidate"):
        rank([runs[0]])
    with pytest.raises(UserInputError, match="no finished run"):
        rank([runs[0], tmp_path])
    with pytest.raises(UserInputError, match="score 'class_ami' is not known of these candidates"):
        rank([runs[0], runs[2]], score="class_ami")
    code, _, err = fercore("verdict", runs[0], runs[0])
    assert code == 2
    assert err.count("\n") == 1
