"""A dataset divided into labelled and unlabelled samples: rules, persons, the file, and input that cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fercore.config import DataSettings
from fercore.data import DomainSet, mismatch_lines
from fercore.data.domains.labelled import LABELLED, UNLABELLED, divide_labels
from fercore.data.domains.sealed import sealed
from fercore.data.spec import parse_spec
from fercore.errors import UserInputError
from tests.loading import data_settings, load_domains


def loaded(options: str, *, seed: int = 0, n: int = 400, label_file: Path | None = None, **settings) -> DomainSet:
    data = data_settings(sources=(f"synthfer:wild?n={n}&seed=3&{options}",), size=16, **settings)
    return load_domains(data, seed=seed, label_file=label_file)


def refused(options: str, **arguments) -> str:
    with pytest.raises(UserInputError) as caught:
        loaded(options, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_rest_of_the_dataset_is_the_target():
    domains = loaded("labels=70")
    (source,) = domains.sources
    assert np.bincount(source.labels).tolist() == [10] * 7
    assert (domains.adaptation.labels == -1).all()
    assert (domains.test.labels >= 0).all()
    rows = [set(table.rows.tolist()) for table in (source, domains.adaptation, domains.test)]
    assert len(set.union(*rows)) == sum(map(len, rows))
    assert not set(source.subjects) & set(domains.adaptation.subjects)
    assert domains.report["test_images_in_sources"] == 0
    counts = domains.report["label_split"]["counts"]
    assert counts == {"labelled": 70, "unlabelled": len(domains.adaptation), "left out": 200 - 70 - len(rows[1])}
    assert domains.report["sources"][0]["n"] == 70
    assert domains.report["target"]["n_adaptation"] == len(domains.adaptation)
    assert any(line.startswith("labelled 70 (anger 10") for line in mismatch_lines(domains.report))
    json.dumps(domains.report)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("labels=100&label_by=image", [14] * 7),
        ("labels=100&label_by=image&label_rule=adacm", [15, 15, 10, 15, 15, 15, 15]),
    ],
)
def test_rules_share_the_labels_out(options, expected):
    domains = loaded(options)
    assert np.bincount(domains.sources[0].labels).tolist() == expected
    assert len(domains.adaptation) == 200 - sum(expected)


def test_labelled_images_may_be_unlabelled_ones_too():
    domains = loaded("labels=70&label_by=image&include_labelled=true")
    assert len(domains.adaptation) == 200
    assert set(domains.sources[0].rows.tolist()) < set(domains.adaptation.rows.tolist())
    assert (domains.adaptation.labels == -1).all()


def test_the_drawing_depends_on_seed_and_content_alone():
    first, again, other = (loaded("labels=70&label_by=image", seed=seed).sources[0].rows for seed in (1, 1, 2))
    assert (first == again).all()
    assert set(first.tolist()) != set(other.tolist())
    spec = parse_spec("synthfer:wild?labels=14&label_by=image")
    pool = load_domains(DataSettings(sources=("synthfer:wild?n=84",), target="synthfer:web?n=40"), seed=0).sources[0]
    content = {row: str(row) for row in range(len(pool))}
    shuffled = pool.subset(np.random.default_rng(0).permutation(len(pool)))
    chosen = []
    for table in (pool, shuffled):
        split = divide_labels(table, content, CLASSES, spec, seed=5)
        chosen.append(set(table.rows[split.labelled()].tolist()))
    assert chosen[0] == chosen[1]


CLASSES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")


def test_few_labels_of_a_source_for_another_target():
    data = DataSettings(sources=("synthfer:studio?n=200&labels=70",), target="synthfer:wild?n=60", size=16)
    domains = load_domains(data, seed=0)
    assert len(domains.sources[0]) == 70
    assert len(domains.adaptation) + len(domains.test) == 60
    assert domains.label_split["counts"]["labelled"] == 70


def test_a_class_short_of_images_gives_all_it_has():
    pool = load_domains(DataSettings(sources=("synthfer:wild?n=84",), target="synthfer:web?n=40"), seed=0).sources[0]
    keep = np.sort(np.concatenate([np.flatnonzero(pool.labels > 0), np.flatnonzero(pool.labels == 0)[:2]]))
    pool = pool.subset(keep)
    content = {row: str(row) for row in pool.rows.tolist()}
    split = divide_labels(pool, content, CLASSES, parse_spec("synthfer:wild?labels=35&label_by=image"), seed=0)
    assert np.bincount(pool.labels[split.labelled()]).tolist() == [2, 5, 5, 5, 5, 5, 5]
    assert split.record["short"] == 3
    assert "3 labels fewer" in " ".join(mismatch_lines_of(split.report()))


def mismatch_lines_of(report) -> list[str]:
    from fercore.data.domains.report import _split_lines

    return _split_lines(report)


def test_samples_with_doubtful_labels_stay_unlabelled():
    pool = load_domains(DataSettings(sources=("synthfer:wild?n=84",), target="synthfer:web?n=40"), seed=0).sources[0]
    content = {row: str(row) for row in pool.rows.tolist()}
    excluded = frozenset(pool.rows[pool.labels == 1][:-1].tolist())
    spec = parse_spec("synthfer:wild?labels=70&label_by=image")
    split = divide_labels(pool, content, CLASSES, spec, seed=0, excluded=excluded)
    assert not excluded & set(pool.rows[split.labelled()].tolist())
    assert excluded <= set(pool.rows[split.unlabelled()].tolist())


def test_the_file_brings_the_division_back(tmp_path):
    first = loaded("labels=70", seed=1)
    file = tmp_path / "labelled.json"
    file.write_text(json.dumps(first.label_split))
    assert loaded("labels=70", seed=1).label_split == first.label_split
    again = loaded(f"label_file={file}", seed=1)
    assert again.label_split == first.label_split
    assert again.sources[0].rows.tolist() == first.sources[0].rows.tolist()
    assert again.fingerprint() == first.fingerprint()


def test_a_file_of_other_data_is_refused(tmp_path):
    first = loaded("labels=70")
    file = tmp_path / "labelled.json"
    file.write_text(json.dumps(first.label_split))
    assert "other data" in refused("labels=70", n=300, label_file=file)
    for word, change in (("other content", 1), ("other labels", 2)):
        record = json.loads(file.read_text())
        name, row = next((k, v) for k, v in record["samples"].items() if v[0] == LABELLED)
        row[change] = "fear" if row[change] == "anger" else "anger"
        record.pop("sha256")
        (tmp_path / "edited.json").write_text(json.dumps(sealed(record)))
        assert word in refused("labels=70", label_file=tmp_path / "edited.json")
    record = json.loads(file.read_text())
    name = next(k for k, v in record["samples"].items() if v[0] == UNLABELLED)
    record["samples"][name][0] = LABELLED
    file.write_text(json.dumps(record))
    assert "its hash differs" in refused("labels=70", label_file=file)
    file.write_text("[1]")
    assert "not a labelled split" in refused("labels=70", label_file=file)
    assert "not found" in refused(f"label_file={tmp_path / 'none.json'}")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("labels=0", "labels='0' is not a number of labels"),
        ("labels=-3", "is not a number of labels"),
        ("labels=1.5", "is not a number of labels"),
        ("labels=many", "is not a number of labels"),
        ("labels=4000", "4000 labels asked for, and 200 labelled images"),
        ("labels=5", "5 labels for 7 classes"),
        ("labels=101&label_rule=adacm", "no Ada-CM list of 101 labels"),
        ("labels=70&label_by=face", "label_by='face' is unknown"),
        ("labels=70&transductive=true", "labels and transductive at once"),
        ("labels=70&label_file=x.json", "labels and label_file at once"),
        ("labels=197", "no image is left without a label"),
    ],
)
def test_bad_options_are_one_clear_line(options, words):
    assert words in refused(options)


def test_a_class_without_an_image_is_refused():
    names = (*CLASSES, "contempt")
    data = DataSettings(
        sources=("synthfer:wild?n=84&labels=16", "synthfer:studio?n=80&classes=contempt,anger"), classes=names, size=16
    )
    with pytest.raises(UserInputError, match="no image of contempt to label"):
        load_domains(data, seed=0)


def test_two_divided_sources_and_a_strange_target_are_refused():
    with pytest.raises(UserInputError, match="two sources are to be divided"):
        load_domains(DataSettings(sources=("synthfer:wild?labels=70", "synthfer:web?labels=70")), seed=0)
    data = DataSettings(sources=("synthfer:wild?n=84&labels=14",), target="synthfer:web?n=84&labels=14")
    with pytest.raises(UserInputError, match="the rest of a source's dataset"):
        load_domains(data, seed=0)


def test_a_coding_of_labels_is_no_number_of_labels(tree):
    folder = tree("s", {"sad": 8, "fear": 8, "anger": 8})
    assert parse_spec("folder:x?labels=30").asks_for_labels
    assert parse_spec("folder:x?limit=4&label_file=y.json").asks_for_labels
    assert not parse_spec("folder:x?labels=fer2013").asks_for_labels
    domains = load_domains(DataSettings(sources=(f"folder:{folder}?labels=6",), size=16), seed=0)
    assert len(domains.sources[0]) == 6
    assert parse_spec("list:x?labels=30&labels=fer2013").options == {"label_count": "30", "labels": "fer2013"}


def test_a_given_target_is_kept():
    assert DataSettings(sources=("synthfer:wild?labels=70",)).target.text == "synthfer:wild?labels=70"
    assert DataSettings(sources=("synthfer:wild?labels=70",), target="synthfer:web").target.text == "synthfer:web"
