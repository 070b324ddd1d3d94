"""Targets without labels, and what plugins may know of a side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fercore.config import DataSettings
from fercore.data import DomainSet, SideInfo, eval_batches, mismatch_lines, side_info, side_table
from fercore.errors import UserInputError
from tests.loading import load_domains

Tree = Callable[..., Path]
Write = Callable[..., Path]
NO_SCORE = "no test image has a label: predictions, but no score"


def open_target(tree: Tree, spec: str, *, seed: int = 0, **settings: object) -> DomainSet:
    source = tree("source", {"anger": 3, "fear": 3, "sad": 3}, 5000)
    return load_domains(DataSettings(sources=(f"folder:{source}",), target=spec, size=16, **settings), seed=seed)


def check(domains: DomainSet, n_adaptation: int, n_test: int) -> None:
    report = domains.report["target"]
    assert (len(domains.adaptation), len(domains.test)) == (n_adaptation, n_test)
    assert set(domains.adaptation.labels.tolist()) == set(domains.test.labels.tolist()) == {-1}
    assert (report["n_test"], report["labelled_test"], report["adaptation_filtered_by_label"]) == (n_test, 0, 0)
    assert domains.report["class_rule"].startswith(("shared by the sources", "listed"))
    assert [line for line in mismatch_lines(domains.report) if line.startswith("t: ")] == [f"t: {NO_SCORE}"]
    batches = eval_batches(domains.test, DataSettings(size=16), mean=(0, 0, 0), std=(1, 1, 1))
    assert sum(len(batch) for batch in batches) == n_test


def test_a_folder_of_loose_images(tree: Tree):
    spec = f"folder:{tree('t', {'.': 11})}"
    domains = open_target(tree, spec)
    assert domains.classes == ("anger", "fear", "sadness")
    check(domains, 6, 5)
    assert domains.report["target"]["division"] == "by seed"
    assert not set(domains.adaptation.rows.tolist()) & set(domains.test.rows.tolist())
    assert open_target(tree, spec).test.keys == domains.test.keys != open_target(tree, spec, seed=1).test.keys
    assert open_target(tree, spec, classes=("sad", "anger")).classes == ("sadness", "anger")
    both = open_target(tree, f"{spec}?transductive=true")
    check(both, 11, 11)
    assert both.transductive


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("adapt", "val")])
def test_parts_of_loose_images(tree: Tree, train: str, test: str):
    domains = open_target(tree, f"folder:{tree('t', {train: 5, test: 4})}")
    check(domains, 5, 4)
    assert domains.report["target"]["division"] == "parts"


@pytest.mark.parametrize("header", ["path,subject", "path,subject,label"])
def test_a_manifest_without_labels_is_divided_by_subject(tmp_path: Path, tree: Tree, image: Write, header: str):
    for i in range(12):
        image(tmp_path / "t" / f"{i}.png", i)
    end = "," if "label" in header else ""
    rows = [header, *(f"{i}.png,person{i // 3}{end}" for i in range(12))]
    (tmp_path / "t" / "t.csv").write_text("\n".join(rows))
    domains = open_target(tree, f"manifest:{tmp_path}/t/t.csv")
    check(domains, 6, 6)
    assert domains.report["target"]["division"] == "by subject"
    assert not set(domains.adaptation.subjects) & set(domains.test.subjects)


def test_a_list_of_paths(tmp_path: Path, tree: Tree, image: Write):
    for i in range(6):
        image(tmp_path / "t" / f"{i}.png", i)
    (tmp_path / "t" / "t.txt").write_text("\n".join(f"{i}.png" for i in range(6)))
    check(open_target(tree, f"list:{tmp_path}/t/t.txt"), 3, 3)


def test_labels_of_the_adaptation_part_alone_give_no_score(tree: Tree):
    domains = open_target(tree, f"folder:{tree('t', {'train/anger': 3, 'train/fear': 3, 'test': 4})}")
    assert domains.classes == ("anger", "fear")
    assert domains.report["target"]["labelled_test"] == 0
    assert set(domains.test.labels.tolist()) == {-1}


def test_a_source_needs_labels_and_says_which_samples_it_leaves_out(tmp_path: Path, tree: Tree, image: Write):
    loose = tree("loose", {".": 4})
    target = tree("t", {"anger": 4, "sad": 4}, 100)
    with pytest.raises(
        UserInputError, match=r"^source without a labelled image \(spec .*; a source needs class folders"
    ):
        load_domains(DataSettings(sources=(f"folder:{loose}",), target=f"folder:{target}"), seed=0)
    for i in range(9):
        image(tmp_path / "m" / f"{i}.png", 200 + i)
    rows = ["path,label", *(f"{i}.png,{('anger', 'sad', '')[i % 3]}" for i in range(9))]
    (tmp_path / "m" / "m.csv").write_text("\n".join(rows))
    data = DataSettings(sources=(f"manifest:{tmp_path}/m/m.csv?limit=6",), target=f"folder:{target}")
    domains = load_domains(data, seed=0)
    assert domains.report["sources"][0]["skipped"] == {"unlabelled": 3}
    assert len(domains.sources[0]) == 6, "samples without a label take no place of the limit"
    assert "m: 3 samples without a label left out: a source needs labels" in mismatch_lines(domains.report)


def test_side_info_tells_labels_of_sources_and_no_more(tmp_path: Path, tree: Tree):
    sources = ("synthfer:studio?n=14", "synthfer:web?n=21&seed=1")
    data = DataSettings(sources=sources, target="synthfer:wild?n=28&seed=2", size=32)
    domains = load_domains(data, seed=0)
    source, target = side_info(domains, "source"), side_info(domains, "target")
    assert {field.name for field in dataclasses.fields(SideInfo)} == {"labels", "domain", "subjects", "extras"}
    assert {name for name in dir(source) if not name.startswith("_")} == {"labels", "domain", "subjects", "extras"}
    assert (source.extras.keys(), target.extras.keys()) == ({"au_scores", "au_intensity"}, {"au_scores"})
    assert (len(source), len(target)) == (35, 14)
    assert source.labels.tolist() == side_table(domains, "source").labels.tolist()
    assert (source.domain == np.repeat([0, 1], [14, 21])).all()
    assert source.subjects == side_table(domains, "source").subjects
    assert set(target.labels.tolist()) == {-1}
    assert source.labels.dtype == source.domain.dtype == target.labels.dtype == target.domain.dtype == np.int64
    pairs = set(zip(domains.adaptation.subjects, target.subjects, strict=True))
    assert {name for _, name in pairs} == {f"t{i}" for i in range(len(set(domains.adaptation.subjects)))}
    assert len(pairs) == len(set(domains.adaptation.subjects))
    source.labels[:] = 99
    assert domains.sources[0].labels.max() < 7
    leaky = dataclasses.replace(domains, adaptation=domains.test)
    assert set(side_info(leaky, "target").labels.tolist()) == {-1}
    unknown = open_target(tree, f"folder:{tree('t', {'.': 4})}")
    assert set(side_info(unknown, "target").subjects) == {""}


def test_side_info_feeds_a_sampler_of_torch(tree: Tree):
    from torch.utils.data import SequentialSampler

    info = side_info(open_target(tree, f"folder:{tree('t', {'.': 8})}"), "target")
    assert list(SequentialSampler(info)) == [0, 1, 2, 3]
