"""A few labelled images of the target: how many, whose, where they go, the loader's share for them, bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from fercore.config import DataSettings, RunConfig
from fercore.data import DomainSet, StepLoader, mismatch_lines, side_info, side_table
from fercore.data.spec import parse_spec
from fercore.errors import UserInputError
from fercore.records.plan import ViewRequest
from tests.loading import data_settings, load_domains

STUDIO = "synthfer:studio?n=84"
VIEWS = (ViewRequest("source", "weak", "weak"), ViewRequest("target", "weak", "weak"))


def loaded(options: str, *, sources: tuple[str, ...] = (STUDIO,), target: str = "", seed: int = 0, **rest) -> DomainSet:
    data = data_settings(sources=sources, target=f"{target or 'synthfer:wild?n=210&seed=3'}&{options}", size=16)
    return load_domains(data, seed=seed, **rest)


def refused(options: str, **arguments) -> str:
    with pytest.raises(UserInputError) as caught:
        loaded(options, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def people(path: Path, image, rows: list[tuple[str, str, str]]) -> str:
    """Write a manifest of (label, split, subject) with an image each, and return its spec, open to further options."""
    with (path / "faces.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split", "subject"))
        for k, row in enumerate(rows):
            image(path / f"{k}.png", 5000 + k)
            writer.writerow((f"{k}.png", *row))
    return f"manifest:{path / 'faces.csv'}?name=t"


def test_so_many_of_each_class_become_the_last_source():
    domains = loaded("shots=3", sources=(STUDIO, "synthfer:posed?n=84"))
    assert len(domains.sources) == 3
    few = domains.sources[2]
    assert np.bincount(few.labels).tolist() == [3] * 7
    rows = [set(table.rows.tolist()) for table in (few, domains.adaptation, domains.test)]
    assert len(set.union(*rows)) == sum(map(len, rows)) == 210  # nothing is lost, nothing is on two sides
    assert (domains.adaptation.labels == -1).all()
    assert not set(few.subjects) & set(domains.test.subjects)
    assert domains.report["target"]["division"] == "by subject"
    assert domains.report["target"]["labelled"] == {"n": 21, "per_class": dict.fromkeys(domains.classes, 3)}
    assert domains.report["test_images_in_sources"] == 0
    split = domains.report["label_split"]
    assert (split["rule"], split["by"], split["labels"], split["short"]) == ("shots=3", "image", 21, 0)
    assert any(line.startswith("labelled 21 (anger 3") for line in mismatch_lines(domains.report))
    assert (side_info(domains, "target").labels == -1).all()
    info = side_info(domains, "source")
    assert np.bincount(info.domain).tolist() == [84, 84, 21]
    json.dumps(domains.report)


def test_a_share_of_each_class_is_rounded_and_never_nothing(tree):
    target = tree("t", {"anger": 50, "happiness": 30, "sadness": 4}, 100)
    source = (f"folder:{tree('s', dict.fromkeys(('anger', 'happiness', 'sadness'), 3))}",)
    for share, expected in (("0.1", [3, 2, 1]), (".5", [13, 8, 1]), ("0.3", [8, 5, 1]), ("0.001", [1, 1, 1])):
        domains = loaded(f"fraction={share}", sources=source, target=f"folder:{target}?name=t")
        found = np.bincount(domains.truth, minlength=3) + np.bincount(domains.sources[1].labels)
        assert found.tolist() == [25, 15, 2]
        assert np.bincount(domains.sources[1].labels).tolist() == expected
        assert domains.report["label_split"]["rule"] == f"fraction={float(share):g}"


def test_more_shots_hold_the_fewer_ones_and_another_seed_others():
    one, five, other = (set(loaded(f"shots={k}", seed=s).sources[1].rows.tolist()) for k, s in ((1, 0), (5, 0), (5, 1)))
    assert one < five
    assert five != other


def test_they_may_stay_among_the_unlabelled_ones():
    domains = loaded("shots=2&include_labelled=true")
    assert set(domains.sources[1].rows.tolist()) < set(domains.adaptation.rows.tolist())
    assert (domains.adaptation.labels == -1).all()
    assert len(domains.adaptation) + len(domains.test) == 210


def test_persons_may_be_kept_apart_as_well():
    domains = loaded("shots=2&label_by=subject")
    assert not set(domains.sources[1].subjects) & set(domains.adaptation.subjects)
    assert domains.report["label_split"]["counts"]["left out"] > 0


def test_persons_of_the_test_part_are_not_labelled(tmp_path: Path, image, tree):
    source = (f"folder:{tree('s', {'anger': 3, 'sadness': 3})}",)
    rows = [(label, "train", f"p{k}") for k in range(6) for label in ("anger", "sadness") for _ in range(2)]
    rows += [(label, "test", f"p{k}") for k in (0, 1, 2, 9) for label in ("anger", "sadness")]
    target = people(tmp_path, image, rows)
    for seed in range(4):
        domains = loaded("shots=5", sources=source, target=target, seed=seed)
        assert set(domains.sources[1].subjects) <= {"p3", "p4", "p5"}
        assert {"p0", "p1", "p2"} <= set(domains.adaptation.subjects)  # without labels they may adapt
        assert domains.report["label_split"]["subjects_of_test"] == 12
        assert any(line.startswith("12 images left unlabelled") for line in mismatch_lines(domains.report))
    found = loaded("shots=50", sources=source, target=target)
    assert np.bincount(found.sources[1].labels).tolist() == [6, 6]
    assert found.report["label_split"]["short"] == 88
    again = loaded("shots=2&divide=subject:50/50", sources=source, target=target)
    assert not set(again.sources[1].subjects) & set(again.test.subjects)


def test_frames_of_tested_sequences_are_not_labelled(tmp_path: Path, image, tree):
    source = (f"folder:{tree('s', {'anger': 3, 'sadness': 3})}",)
    with (tmp_path / "faces.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split", "sequence"))
        for k in range(24):
            image(tmp_path / f"{k}.png", 5000 + k)
            label, clip = ("anger", "sadness")[k % 2], k % 8
            writer.writerow((f"{k}.png", label, "test" if k >= 20 or clip in (6, 7) else "train", f"clip{clip}"))
    for seed in range(3):
        domains = loaded("shots=2", sources=source, target=f"manifest:{tmp_path / 'faces.csv'}?name=t", seed=seed)
        assert set(domains.test.sequences) == {"clip4", "clip5", "clip6", "clip7"}
        assert set(domains.sources[1].sequences) <= {"clip0", "clip1", "clip2", "clip3"}
        assert domains.report["label_split"]["subjects_of_test"] == 4
    whole = f"manifest:{tmp_path / 'faces.csv'}?split=all"
    text = refused("shots=9", sources=source, target=whole)
    assert text.startswith("no labelled target sample of")
    assert "subject or sequence of the test part" in text


def test_a_class_whose_labels_are_all_of_test_persons_is_refused(tmp_path: Path, image, tree):
    source = (f"folder:{tree('s', {'anger': 3, 'sadness': 3})}",)
    rows = [("anger", "train", "p1"), ("anger", "train", "p2"), ("sadness", "train", "p1")]
    target = people(tmp_path, image, [*rows, ("anger", "test", "p1"), ("sadness", "test", "p1")])
    text = refused("shots=1", sources=source, target=target)
    assert text.startswith("no labelled target sample of sadness in the training part")


def test_copies_under_two_labels_are_not_labelled(tmp_path: Path, image, tree):
    source = (f"folder:{tree('s', {'anger': 3, 'sadness': 3})}",)
    rows = [(label, part, "") for part in ("train", "test") for label in ("anger", "sadness") * 3]
    target = people(tmp_path, image, rows)
    (tmp_path / "0.png").write_bytes((tmp_path / "1.png").read_bytes())
    few = loaded("shots=9", sources=source, target=target).sources[1]
    assert np.bincount(few.labels).tolist() == [2, 2]
    for k in (2, 4):
        (tmp_path / f"{k}.png").write_bytes((tmp_path / "1.png").read_bytes())
    assert "has a copy under another label" in refused("shots=1", sources=source, target=target)


def test_a_target_without_labels_has_none_to_give(tmp_path: Path, image, tree):
    source = (f"folder:{tree('s', {'anger': 3, 'sadness': 3})}",)
    target = people(tmp_path, image, [("", "train", ""), ("", "train", ""), ("", "test", "")])
    assert refused("shots=1", sources=source, target=target).startswith("no labelled target sample")
    rows = [("anger", "train", ""), ("sadness", "train", ""), ("", "train", ""), ("anger", "test", "")]
    partly = people(tmp_path, image, rows)
    domains = loaded("shots=5", sources=source, target=partly)
    assert len(domains.sources[1]) == 2
    assert len(domains.adaptation) == 1
    assert "8 labels fewer" in " ".join(mismatch_lines(domains.report))


def test_what_is_said_of_the_target_is_said_once(tmp_path: Path, image, tree):
    source = (f"folder:{tree('s', {'anger': 3, 'sadness': 3})}",)
    rows = [(label, part, "") for part in ("train", "test") for label in ("anger", "sadness") * 3]
    target = people(tmp_path, image, [*rows, ("fear", "train", ""), ("contempt", "test", "")])
    lines = mismatch_lines(loaded("shots=1", sources=source, target=target).report)
    assert [line for line in lines if "fear" in line] == ["t: classes outside the run dropped: fear 1, contempt 1"]


def test_copies_of_test_images_are_not_labelled(tmp_path: Path, image, tree):
    source = (f"folder:{tree('s', {'anger': 3, 'sadness': 3})}",)
    target = people(
        tmp_path, image, [(label, part, "") for part in ("train", "test") for label in ("anger", "sadness") * 3]
    )
    for k in range(4):
        (tmp_path / f"{k}.png").write_bytes((tmp_path / f"{k + 6}.png").read_bytes())
    domains = loaded("shots=1&include_labelled=true", sources=source, target=target)
    assert {Path(key).name for key in domains.sources[1].keys} == {"4.png", "5.png"}
    assert domains.report["test_images_in_sources"] == 0


def test_the_file_brings_them_back(tmp_path: Path):
    first = loaded("shots=3", seed=1)
    file = tmp_path / "labelled.json"
    file.write_text(json.dumps(first.label_split))
    for again in (loaded("shots=5", seed=1, label_file=file), loaded(f"label_file={file}", seed=1)):
        assert again.label_split == first.label_split
        assert again.sources[1].rows.tolist() == first.sources[1].rows.tolist()
        assert again.report["target"]["labelled"]["n"] == 21
    assert "other data" in refused("shots=3", target="synthfer:wild?n=140&seed=3", label_file=file)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("shots=0", "shots='0' is not a number of labels a class"),
        ("shots=-1", "is not a number of labels a class"),
        ("shots=2.5", "is not a number of labels a class"),
        pytest.param("shots=" + "9" * 5000, "is not a number of labels a class", id="digits"),
        ("fraction=0", "fraction='0' is not a share between 0 and 1"),
        ("fraction=0.0", "is not a share between 0 and 1"),
        ("fraction=1", "is not a share between 0 and 1"),
        ("fraction=1.0", "is not a share between 0 and 1"),
        ("fraction=-0.1", "is not a share between 0 and 1"),
        ("fraction=nan", "is not a share between 0 and 1"),
        ("fraction=10%", "is not a share between 0 and 1"),
        ("shots=5&fraction=0.1", "options shots and fraction at once"),
        ("shots=5&labels=70", "options labels and shots at once"),
        ("fraction=0.1&label_file=x", "options fraction and label_file at once"),
        ("shots=5&label_rule=adacm", "options label_rule and shots at once"),
        ("shots=5&transductive=true", "options shots and transductive at once"),
        ("shots=5&label_by=face", "label_by='face' is unknown"),
        ("shots=500", "no image is left without a label"),
    ],
)
def test_bad_options_are_one_clear_line(options: str, words: str):
    assert words in refused(options)


def test_shots_of_a_source_are_refused():
    for options in ("shots=5", "fraction=0.1"):
        data = DataSettings(sources=(f"{STUDIO}&{options}",), target="synthfer:wild?n=84", size=16)
        with pytest.raises(UserInputError, match=r"on a source .*--target; of a source, \?labels=NUMBER"):
            load_domains(data, seed=0)
    data = DataSettings(sources=("synthfer:wild?shots=5",), target="synthfer:wild?shots=5", size=16)
    with pytest.raises(UserInputError, match=r"without a source beside the target .*--source SPEC\?labels=NUMBER"):
        load_domains(data, seed=0)
    data = DataSettings(sources=(f"{STUDIO}&labels=14",), target="synthfer:wild?n=84&shots=2", size=16)
    with pytest.raises(UserInputError, match=r"two sources are to be divided .*drop \?labels= or \?shots="):
        load_domains(data, seed=0)


def test_settings_number_the_domain():
    target = "synthfer:wild?shots=5"
    data = DataSettings(sources=(STUDIO, "synthfer:web"), target=target)
    assert data.sources == tuple(map(parse_spec, (STUDIO, "synthfer:web", target)))
    assert data.task(0).few_shot_domain == 2
    assert data.source_step == 63
    again = RunConfig.model_validate(json.loads(RunConfig(data=data).model_dump_json())).data
    assert again == data
    assert DataSettings(sources=(target, STUDIO), target=target).task(0).few_shot_domain == 1
    assert DataSettings(target=target).sources[-1].text == target
    assert DataSettings(sources=(STUDIO,), target="synthfer:wild").task(0).few_shot_domain is None
    assert DataSettings(sources=(f"{STUDIO}&labels=70",)).task(0).few_shot_domain == 0
    assert DataSettings(sources=(STUDIO,), target="synthfer:wild?label_file=x.json").task(0).few_shot_domain == 1
    assert parse_spec("folder:x?limit=4&shots=5").asks_for_few
    assert not parse_spec("folder:/shots=5").asks_for_few
    assert DataSettings(sources=(STUDIO,), target="synthfer:wild?seed=2&shots=5").task(0).few_shot_domain == 1
    both = DataSettings(sources=(STUDIO, "synthfer:wild?shots=05&seed=2"), target=" synthfer:wild?seed=2&shots=05")
    assert [spec.text for spec in both.sources] == [STUDIO, "synthfer:wild?seed=2&shots=05"]


def test_settings_that_are_written_fit_another_target():
    data = DataSettings(sources=(STUDIO, "synthfer:web"), target="synthfer:wild?shots=5")
    written = json.loads(RunConfig(data=data).model_dump_json())["data"]
    assert written["sources"] == [STUDIO, "synthfer:web"]
    assert DataSettings(**written) == data
    other = DataSettings(**{**written, "target": "synthfer:nir?shots=2"})
    assert list(map(str, other.sources)) == [STUDIO, "synthfer:web", "synthfer:nir?shots=2"]
    assert DataSettings(**{**written, "target": "synthfer:nir"}).sources == data.sources[:2]
    alone = DataSettings(sources=("synthfer:wild?shots=5",), target="synthfer:wild?shots=5")
    assert DataSettings(**json.loads(alone.model_dump_json())) == alone


def test_a_source_that_a_file_divides_keeps_its_place():
    data = DataSettings(sources=("folder:x?label_file=f", STUDIO))
    assert list(map(str, data.sources)) == ["folder:x?label_file=f", STUDIO]
    assert DataSettings(**json.loads(data.model_dump_json())) == data


def loader(options: str, **settings) -> StepLoader:
    target = f"synthfer:wild?n=210&seed=3{options}"
    values = {"sources": (STUDIO, "synthfer:posed?n=168"), "target": target, "size": 16, "target_batch": 8}
    data = DataSettings(**{**values, "augment": "none", **settings})
    domains = load_domains(data, seed=0)
    made = StepLoader(domains, VIEWS, data, seed=0, mean=(0, 0, 0), std=(1, 1, 1))
    made.table = side_table(domains, "source")  # type: ignore[attr-defined]
    return made


def test_every_domain_has_its_share_and_few_images_come_again():
    drawn = loader("&shots=1", source_batch=36)
    assert drawn.steps_per_epoch == max(84 // 12, 98 // 8)
    seen: list[int] = []
    for _ in range(6):
        batch = next(drawn)
        assert batch.source.per_domain == (12, 12, 12)
        assert (batch.target.labels == -1).all()
        own = batch.source.domain == 2
        assert torch_counts(batch.source.index[own]).max() == 2  # 7 images, 12 places: none three times
        assert (batch.source.labels[own] >= 0).all()
        seen += batch.source.index[own].tolist()
    assert set(seen) == set(range(84 + 168, 84 + 168 + 7))


def torch_counts(index) -> np.ndarray:
    return np.unique(index.numpy(), return_counts=True)[1]


def test_an_epoch_lasts_as_long_as_without_them():
    for settings in ({"source_batch": 36}, {"source_batch": 36, "target_batch": 64}):
        few = loader("&shots=1&include_labelled=true", **settings)
        assert few.steps_per_epoch == loader("", **{**settings, "source_batch": 24}).steps_per_epoch


def test_balanced_classes_and_shares_by_size():
    drawn = loader("&shots=2", source_batch=42, class_balanced=True)
    batch = next(drawn)
    labels = batch.source.labels[batch.source.domain == 2]
    assert np.bincount(labels.numpy()).tolist() == [2] * 7
    by_size = loader("&shots=2", source_batch=38, source_sampling="proportional")
    drawn_from = np.concatenate([next(by_size).source.domain.numpy() for _ in range(7)])
    assert np.bincount(drawn_from).tolist() == [84, 168, 14]


def test_a_task_says_what_validates_and_what_is_scored():
    data = DataSettings(sources=(STUDIO, f"{STUDIO}&seed=3&labels=70"), target="synthfer:wild", source_validation=0.2)
    task = data.task(0)
    # Of the source that is labelled in part every label trains.
    assert [(each.source, each.domain, each.share) for each in task.validation] == [(0, task.sources[0], 0.2)]
    assert (task.test.domain, task.test.transductive) == (task.target, False)
    assert DataSettings(target="synthfer:wild?transductive=true").task(0).test.transductive
    assert DataSettings(sources=(STUDIO,), target="synthfer:wild").task(0).validation == ()
