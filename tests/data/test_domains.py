from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fercore.config import DataSettings
from fercore.data import DomainSet, mismatch_lines, parse_spec, side_table
from fercore.data.domains.domain_set import read_domain
from fercore.errors import UserInputError
from tests.loading import load_domains

Tree = Callable[..., Path]


def open_pair(source: Path, target: Path, *, options: str = "", **settings: object) -> DomainSet:
    data = DataSettings(sources=(f"folder:{source}",), target=f"folder:{target}{options}", size=16, **settings)
    return load_domains(data, seed=0)


def message_of(*args: Path, **settings: object) -> str:
    with pytest.raises(UserInputError) as caught:
        open_pair(*args, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_classes_are_those_all_domains_share(tree: Tree):
    source = tree("s", {"sad": 4, "fear": 2, "Anger": 3})
    domains = open_pair(source, tree("t", {"anger": 4, "sadness": 4, "neutral": 3}, 100))
    assert domains.classes == ("anger", "sadness")
    assert np.bincount(domains.sources[0].labels).tolist() == [3, 4]
    assert domains.report["sources"][0]["dropped_classes"] == {"fear": 2}
    assert domains.report["target"]["dropped_classes"] == {"neutral": 3}
    assert len(domains.adaptation) + len(domains.test) == 8
    lines = mismatch_lines(domains.report)
    assert "s: classes outside the run dropped: fear 2" in lines
    filtered = domains.report["target"]["adaptation_filtered_by_label"]
    assert filtered in (1, 2)
    expected = f"t: {filtered} unlabelled images left out by class, which is not in the run (this uses labels)"
    assert expected in lines
    json.dumps(domains.report)


def test_agreeing_domains_have_nothing_to_report(tree: Tree):
    domains = open_pair(tree("s", {"sad": 4, "fear": 2}), tree("t", {"sad": 4, "fear": 2}, 100))
    assert mismatch_lines(domains.report) == []


def test_listed_classes_keep_their_order(tree: Tree):
    source, target = tree("s", {"sad": 4, "anger": 2, "fear": 2}), tree("t", {"sad": 4, "anger": 2}, 100)
    domains = open_pair(source, target, classes=("sad", "fear", "angry"))
    assert domains.classes == ("sadness", "fear", "anger")
    assert np.bincount(domains.sources[0].labels).tolist() == [4, 2, 2]
    assert "t: no sample of fear" in mismatch_lines(domains.report)
    assert message_of(source, target, classes=("sad", "neutral")).startswith("no source has the class 'neutral'")
    assert message_of(source, target, classes=("sad", "sadness")).startswith("at least two different classes")
    assert message_of(source, target, classes=("sad", "agner")).startswith("unknown expression 'agner' (data.classes)")


def test_no_class_in_common_names_both_lists(tree: Tree):
    source, target = tree("s", {"sad": 2, "fear": 2}), tree("t", {"anger": 2, "happy": 2}, 100)
    assert message_of(source, target) == (
        f"no class in common (folder:{source}: fear, sadness; folder:{target}: anger, happiness); "
        "check label names and codes (?labels=)"
    )
    other = tree("u", {"sad": 2, "happy": 2}, 200)
    assert message_of(source, other).startswith("only one class in common (sadness)")


def test_the_adaptation_part_tells_no_label(tree: Tree):
    target = tree("t", {"anger": 20, "sad": 20}, 100)
    domains = open_pair(tree("s", {"sad": 4, "anger": 2}), target)
    adaptation = domains.adaptation
    assert set(adaptation.labels.tolist()) == {-1}
    assert not any("anger" in key or "sad" in key for key in adaptation.keys)
    classes = np.array([Path(adaptation.reader.paths[row]).parent.name == "sad" for row in adaptation.rows])
    assert 3 < classes[:10].sum() < 17 - 3, "places in the table must not be sorted by class"
    again = open_pair(tree("s", {"sad": 4, "anger": 2}), target)
    assert again.adaptation.keys == adaptation.keys


def test_annotations_leave_with_the_labels():
    data = DataSettings(sources=("synthfer:studio?n=28",), target="synthfer:wild?n=28&seed=1", size=32)
    domains = load_domains(data, seed=0)
    assert set(domains.adaptation.extras) == {"au_scores"}
    assert "au_intensity" in domains.sources[0].extras
    assert not set(domains.adaptation.subjects) & set(domains.test.subjects)
    assert domains.report["target"]["division"] == "by subject"


def test_halves_are_stratified_and_disjoint(tree: Tree):
    domains = open_pair(tree("s", {"sad": 4, "anger": 2}), tree("t", {"anger": 9, "sad": 5}, 100))
    assert np.bincount(domains.test.labels).tolist() in ([4, 3], [5, 2])
    assert len(domains.test) == 7
    assert not {int(r) for r in domains.adaptation.rows} & {int(r) for r in domains.test.rows}
    assert domains.report["target"]["division"] == "by class"


def test_subjects_stay_on_one_side(tmp_path: Path, tree: Tree, image: Callable[..., Path]):
    rows = ["path,label,subject"]
    for i in range(40):
        image(tmp_path / "m" / f"{i}.png", i)
        rows.append(f"{i}.png,{('anger', 'sad')[i % 2]},s{i // 4}")
    (tmp_path / "m" / "m.csv").write_text("\n".join(rows))
    source = tree("s", {"sad": 4, "anger": 2}, 500)
    data = DataSettings(sources=(f"folder:{source}",), target=f"manifest:{tmp_path}/m/m.csv")
    halves = {load_domains(data, seed=seed).test.subjects for seed in range(4)}
    assert len(halves) > 1, "the division depends on the seed"
    domains = load_domains(data, seed=1)
    assert len(domains.test) == len(domains.adaptation) == 20
    assert np.bincount(domains.test.labels).tolist() == [10, 10]
    assert not set(domains.test.subjects) & set(domains.adaptation.subjects)


def test_parts_of_the_dataset_are_respected(tree: Tree):
    counts = {"train/anger": 5, "train/sad": 3, "test/anger": 2, "test/sad": 1}
    source, target = tree("s", counts), tree("t", counts, 100)
    domains = open_pair(source, target)
    assert (len(domains.sources[0]), len(domains.adaptation), len(domains.test)) == (8, 8, 3)
    assert set(domains.test.split) == {"test"}
    both = open_pair(source, target, options="?transductive=true")
    assert both.transductive
    assert (len(both.adaptation), len(both.test)) == (11, 11)
    assert both.report["target"]["transductive"] is True
    data = DataSettings(sources=(f"folder:{source}?split=all",), target=f"folder:{target}?split=train")
    domains = load_domains(data, seed=0)
    assert (len(domains.sources[0]), len(domains.adaptation), len(domains.test)) == (11, 4, 4)


def test_validation_stands_in_for_a_missing_test_part(tree: Tree):
    counts = {"Train/anger": 5, "Train/sad": 3, "Val/anger": 2, "Val/sad": 1}
    domains = open_pair(tree("s", counts), tree("t", counts, 100))
    assert len(domains.test) == 3


def test_missing_parts(tree: Tree):
    whole = tree("s", {"anger": 3, "sad": 3})
    only_test = tree("t", {"test/anger": 3, "test/sad": 3}, 100)
    assert message_of(only_test, whole).startswith("no training part in the dataset (spec ")
    assert message_of(whole, only_test).startswith("target without a training part (spec ")
    data = DataSettings(sources=(f"folder:{whole}?split=train",), target=f"folder:{whole}")
    with pytest.raises(UserInputError, match="no train part in the dataset .* parts it has: none"):
        load_domains(data, seed=0)
    data = DataSettings(sources=(f"folder:{whole}?transductive=true",), target=f"folder:{whole}")
    with pytest.raises(UserInputError, match="option transductive on a source"):
        load_domains(data, seed=0)


def test_a_target_alone_has_the_classes_of_its_labels(tree: Tree):
    target = f"folder:{tree('t', {'anger': 6, 'sad': 6})}"
    domains = load_domains(DataSettings(sources=(), target=target), seed=0)
    assert (domains.sources, domains.classes) == ((), ("anger", "sadness"))
    assert len(side_table(domains, "source")) == 0


def test_a_test_image_is_never_an_adaptation_image(tree: Tree):
    target = tree("t", {"train/anger": 4, "train/sad": 4, "test/anger": 3, "test/sad": 3}, 100)
    (target / "train" / "sad" / "leak.png").write_bytes((target / "test" / "sad" / "0.png").read_bytes())
    domains = open_pair(tree("s", {"anger": 3, "sad": 3}), target)
    assert len(domains.adaptation) == 8
    assert domains.report["target"]["removed_from_adaptation"] == {"same_file": 0, "same_content": 1}
    assert "t: 1 training image left out: in the test part too" in mismatch_lines(domains.report)


def test_a_path_listed_in_both_parts_is_tested_on(tmp_path: Path, tree: Tree, image: Callable[..., Path]):
    rows = ["path,label,split"]
    for i in range(8):
        image(tmp_path / "m" / f"{i}.png", i)
        rows.append(f"{i}.png,{('anger', 'sad')[i % 2]},{('train', 'test')[i // 4]}")
    (tmp_path / "m" / "m.csv").write_text("\n".join([*rows, "7.png,sad,train"]))
    source = tree("s", {"anger": 3, "sad": 3}, 500)
    data = DataSettings(sources=(f"folder:{source}",), target=f"manifest:{tmp_path}/m/m.csv")
    domains = load_domains(data, seed=0)
    assert (len(domains.adaptation), len(domains.test)) == (4, 4)
    assert domains.report["target"]["removed_from_adaptation"]["same_file"] == 1


def test_bad_files_are_skipped_below_the_limit_and_refused_above(tree: Tree):
    source = tree("s", {"anger": 12, "sad": 12, "Wut": 1})
    (source / "sad" / "zero.png").write_bytes(b"")
    target = tree("t", {"anger": 4, "sad": 4}, 100)
    assert message_of(source, target) == (
        "2 of 26 samples are bad (7.7%, at most 1.0% are let pass): "
        f"1 unusable image, first {source}/sad/zero.png: empty file; 1 with labels nobody knows: 'Wut' (1) "
        f"(spec 'folder:{source}'); remove, fix or rename them (?names=FILE.toml says what names mean), "
        "or raise data.max_bad_share"
    )
    domains = open_pair(source, target, max_bad_share=0.1)
    assert len(domains.sources[0]) == 24
    lines = mismatch_lines(domains.report)
    assert "s: labels nobody knows dropped: 'Wut' (1)" in lines
    assert f"s: 1 unusable image skipped, first {source}/sad/zero.png: empty file" in lines


def test_copies_with_two_labels_do_not_teach(tree: Tree):
    source = tree("s", {"anger": 5, "sad": 5})
    (source / "sad" / "copy.png").write_bytes((source / "anger" / "0.png").read_bytes())
    domains = open_pair(source, tree("t", {"anger": 4, "sad": 4}, 100))
    assert len(domains.sources[0]) == 9
    assert any(
        "under different labels" in line and "all copies dropped" in line for line in mismatch_lines(domains.report)
    )


def test_limit_and_name(tree: Tree):
    source = tree("s", {"anger": 20, "sad": 20})
    target = tree("t", {"train/anger": 9, "train/sad": 9, "test/anger": 9, "test/sad": 9}, 100)
    data = DataSettings(sources=(f"folder:{source}?limit=10&name=faces",), target=f"folder:{target}?limit=8")
    domains = load_domains(data, seed=0)
    assert (len(domains.sources[0]), len(domains.adaptation), len(domains.test)) == (10, 8, 8)
    assert domains.sources[0].name == "faces"
    again = load_domains(data, seed=0)
    other = load_domains(data, seed=1)
    assert again.sources[0].keys == domains.sources[0].keys != other.sources[0].keys


def test_an_unlabelled_training_part_needs_no_labels(tree: Tree):
    target = tree("t", {"adapt": 6, "test/anger": 3, "test/sad": 3}, 100)
    domains = open_pair(tree("s", {"anger": 3, "sad": 3}), target)
    assert (len(domains.adaptation), len(domains.test)) == (6, 6)
    unlabelled = tree("u", {"train": 6, "test": 3}, 200)
    assert message_of(unlabelled, target).startswith("source without a labelled image")


def test_sources_that_hold_the_test_images_are_reported(tree: Tree):
    source = tree("s", {"anger": 6, "sad": 6})
    domains = open_pair(source, source)
    assert domains.report["test_images_in_sources"] == 6
    assert domains.report["target"]["adaptation_filtered_by_label"] == 0
    assert any("the score will be too good" in line for line in mismatch_lines(domains.report))


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("wild?n=28&seed=3", True),
        ("wild?n=70&seed=3", True),
        ("wild?seed=3&n=28&size=64&classes=anger,disgust,fear,joy,sad,surprise,neutral&prior=balanced", True),
        ("wild?n=28&seed=3&size=96", True),
        ("wild?n=28&seed=4", False),
        ("dark?n=28&seed=3", False),
    ],
)
def test_generated_faces_are_known_again_however_their_spec_is_written(source: str, seen: bool):
    data = DataSettings(sources=(f"synthfer:{source}",), target="synthfer:wild?n=28&seed=3&name=w", size=32)
    report = load_domains(data, seed=0).report
    assert report["test_images_in_sources"] == seen * report["target"]["n_test"]
    assert report["target"]["adaptation_filtered_by_label"] == 0


def test_faces_have_one_name_exactly_if_they_are_equal():
    options = ("", "&prior=natural", "&classes=anger,fear,sadness,contempt")
    readers = [read_domain(parse_spec(f"synthfer:web?n=40&seed=5{text}"))[0].reader for text in options]
    pixels = [list(reader.read_many(range(40))) for reader in readers]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        equal = [bool((x == y).all()) for x, y in zip(pixels[a], pixels[b], strict=True)]
        assert equal == [readers[a].digest(i) == readers[b].digest(i) for i in range(40)]
        assert 0 < sum(equal) < 40


def test_test_images_without_a_label_are_not_scored(tmp_path: Path, tree: Tree, image: Callable[..., Path]):
    rows = ["path,label,split"]
    for i in range(12):
        image(tmp_path / "m" / f"{i}.png", i)
        rows.append(f"{i}.png,{('anger', 'sad', '')[i % 3]},{('train', 'test')[i // 6]}")
    (tmp_path / "m" / "m.csv").write_text("\n".join([*rows, "gone.png,sad,train"]))
    source = tree("s", {"anger": 3, "sad": 3}, 500)
    data = DataSettings(sources=(f"folder:{source}",), target=f"manifest:{tmp_path}/m/m.csv", max_bad_share=0.1)
    domains = load_domains(data, seed=0)
    assert (len(domains.adaptation), len(domains.test)) == (6, 6)
    assert sorted(domains.test.labels.tolist()) == [-1, -1, 0, 0, 1, 1]
    report = domains.report["target"]
    assert (report["n_test"], report["labelled_test"], report["test_without_label"]) == (6, 4, 2)
    lines = mismatch_lines(domains.report)
    assert "m: 2 test images without a label, not scored" in lines
    assert f"m: 1 listed file missing, first {tmp_path}/m/gone.png" in lines
