"""Every protocol reads, names real formats, and opens on the official layouts; options that reshape data."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import layouts

from fercore.config import DataSettings
from fercore.data.domains.domain_set import read_domain
from fercore.data.labels import CANONICAL
from fercore.data.spec import parse_spec
from fercore.datasets.protocols import HERE, describe_protocol, load_protocol, protocol_layer, protocol_names
from fercore.errors import UserInputError
from tests.loading import load_domains

NAMES = protocol_names()


def test_every_paper_has_its_protocols():
    families = Counter(name.partition("/")[0] for name in NAMES)
    assert families == {
        "la_cmfer": 6, "la_cmfer_combine": 6, "la_cmfer_lists": 6, "pocan": 5, "adafer": 8, "leaf": 12, "pca": 3,
        "cdfer": 10,
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_protocol_is_sound(name: str):
    protocol = load_protocol(name)
    target = protocol.target
    assert target.flag("transductive") == protocol.transductive
    assert protocol.adaptation
    assert protocol.test
    assert set(protocol.classes) <= set(CANONICAL)
    for source in protocol.sources.values():
        assert "transductive" not in source.options
        if source.format == target.format and source.path == target.path:
            assert source.options != target.options or "label_count" in source.options
    lines = describe_protocol(name, protocol)
    assert lines[0].startswith(f"{name}: ")
    assert f"source {next(iter(protocol.sources))}: " in lines[1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The datasets of LA-CMFER's protocols in miniature, under their names."""
    layouts.jaffe(tmp_path / "JAFFE")
    layouts.ckplus(tmp_path / "CK+")
    layouts.oulu(tmp_path / "Oulu-CASIA")
    layouts.oulu(tmp_path / "Oulu-CASIA", "NI")
    layouts.affectnet_folders(tmp_path / "AffectNet")
    raf = layouts.Painter(tmp_path / "RAF-DB")
    names = [f"{part}_{k:04d}" for part in ("train", "test") for k in range(14)]
    for name in names:
        raf(f"basic/Image/aligned/{name}_aligned.jpg")
    lines = "".join(f"{name}.jpg {k % 7 + 1}\n" for k, name in enumerate(names))
    raf.text("basic/EmoLabel/list_patition_label.txt", lines)
    pixels = layouts.faces()[:, :, :, 0].repeat(2, axis=1).repeat(2, axis=2)
    rows = [
        f"{k % 7},{' '.join(map(str, pixels[k].ravel().tolist()))},{('Training', 'PrivateTest')[k // 7 % 2]}"
        for k in range(14)
    ]
    layouts.Painter(tmp_path / "FER2013").text("fer2013.csv", "emotion,pixels,Usage\n" + "\n".join(rows) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "sizes", "test"),
    [
        ("la_cmfer/to_ckplus", {"JAFFE": 14, "RAF-DB": 14, "Oulu-CASIA": 48, "AffectNet": 7, "FER2013": 7}, 13),
        ("la_cmfer/to_rafdb", {"JAFFE": 14, "CK+": 13, "Oulu-CASIA": 48, "AffectNet": 7, "FER2013": 7}, 14),
        ("pocan/rafdb_to_jaffe", {"RAF-DB": 14}, 14),
        ("adafer/rafdb_to_jaffe", {"RAF-DB": 14}, 4),
        ("leaf/rafdb_100", {"RAF-DB": 7}, 14),
        ("pca/oulu_vl_to_ni", {"visible": 18, "Oulu-CASIA": 6}, 18),
    ],
)
def test_a_protocol_opens(root: Path, name: str, sizes: dict, test: int):
    protocol = load_protocol(name)
    fewer = lambda spec: parse_spec(spec.text.replace("labels=100", "labels=7").replace("labels=30", "labels=6"))  # noqa: E731
    sources = {key: fewer(spec) for key, spec in protocol.sources.items()}
    protocol = protocol.model_copy(update={"sources": sources, "target": fewer(protocol.target)})
    layer = protocol_layer(protocol, root)
    domains = load_domains(DataSettings(**layer["data"]), seed=0)
    assert {table.name: len(table) for table in domains.sources} == sizes
    assert len(domains.test) == test
    assert domains.transductive == protocol.transductive
    assert domains.classes == protocol.classes


def test_the_infrared_test_subjects_are_in_no_source(root: Path):
    layer = protocol_layer(load_protocol("pca/oulu_vl_to_ni"), root)["data"]
    layer["sources"] = [spec.text.replace("labels=30", "labels=6") for spec in layer["sources"]]
    layer["target"] = str(layer["target"]).replace("labels=30", "labels=6")
    domains = load_domains(DataSettings(**layer), seed=0)
    tested = set(domains.test.subjects)
    assert tested
    for source in domains.sources:
        assert not tested & set(source.subjects)


def test_options_that_cannot_be():
    for options, message in (
        ("drop=hapy", "unknown expression 'hapy'"),
        ("drop=anger,disgust,fear,happiness,sadness,surprise,neutral", "option drop leaves no sample"),
        ("divide=class:100/0", "cannot read option divide='class:100/0'"),
        ("divide=class:0/90", "cannot read option divide"),
        ("divide=class:50/50&split_file=x", "options split_file and divide at once"),
    ):
        with pytest.raises(UserInputError, match=message):
            read_domain(parse_spec(f"synthfer:wild?n=70&{options}"))


def test_a_division_by_class_and_by_subject():
    table = read_domain(parse_spec("synthfer:wild?n=400&divide=class:90/10"))[0]
    assert abs(table.split.count("test") - 40) <= 4
    table = read_domain(parse_spec("synthfer:wild?n=400&divide=subject:50/50"))[0]
    sides = {
        part: {s for s, p in zip(table.subjects, table.split, strict=True) if p == part} for part in ("train", "test")
    }
    assert not sides["train"] & sides["test"]
    left = read_domain(parse_spec("synthfer:wild?n=70&drop=fear,happy"))[0]
    assert set(left.labels.tolist()) == {0, 1, 4, 5, 6}


def test_one_source_alone():
    assert list(load_protocol("la_cmfer/to_ckplus@rafdb").sources) == ["rafdb"]
    assert list(load_protocol("la_cmfer/to_ckplus@rafdb, jaffe").sources) == ["rafdb", "jaffe"]
    with pytest.raises(UserInputError, match="no source 'rafd' .*did you mean 'rafdb'"):
        load_protocol("la_cmfer/to_ckplus@rafd")


def test_the_folder_of_the_data_may_have_any_name(tmp_path: Path):
    root = tmp_path / "a?b & 50%25"
    (root / "faces").mkdir(parents=True)
    file = tmp_path / "mine.toml"
    file.write_text(GOOD.replace("synthfer:studio?n=70", "folder:{root}/faces?name=x"))
    layer = protocol_layer(load_protocol(str(file)), root)
    assert layer["data"]["sources"][0].path == f"{root}/faces"


GOOD = """title = "t"
paper = "p"
target = "synthfer:wild?n=70&seed=3"
transductive = false
classes = ["anger", "fear", "sad"]
[sources]
s = "synthfer:studio?n=70"
"""


def test_a_protocol_of_ones_own(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text(GOOD)
    layer = protocol_layer(load_protocol(str(file)), None)
    assert list(map(str, layer["data"]["sources"])) == ["synthfer:studio?n=70"]
    assert "methods" not in layer
    file.write_text(GOOD + "[methods.la_cmfer]\nalpha = 0.4\n")
    own = load_protocol(str(file))
    assert protocol_layer(own, None)["methods"] == {"la_cmfer": {"alpha": 0.4}}
    assert "la_cmfer.alpha = 0.4" in describe_protocol("mine", own)
    assert load_domains(DataSettings(**layer["data"]), seed=0).classes == ("anger", "fear", "sadness")
    for change, message in (
        (("sad", "happi"), "unknown expression 'happi'"),
        (("= false", "= true"), "transductive differs between the protocol and its target"),
        (('paper = "p"', 'papper = "p"'), "paper"),
        (("synthfer:studio", "synthfr:studio"), "unknown format 'synthfr'"),
        (("[sources]", "[source]"), "source"),
        (("classes =", "classes ="[:-1]), "not valid TOML"),
        (("[sources]", "[methods]\nla_cmfer = 3\n[sources]"), "methods.la_cmfer"),
    ):
        file.write_text(GOOD.replace(*change))
        with pytest.raises(UserInputError, match=message):
            load_protocol(str(file))
    with pytest.raises(UserInputError, match="did you mean 'la_cmfer/to_oulu'"):
        load_protocol("la_cmfer/to_olu")


def test_missing_datasets_are_all_named(tmp_path: Path):
    with pytest.raises(UserInputError) as caught:
        protocol_layer(load_protocol("adafer/rafdb_to_jaffe"), tmp_path)
    assert str(caught.value).startswith(
        "datasets missing: RAF-DB (ask at http://whdeng.cn/RAF/model1.html), JAFFE (ask at"
    )
    with pytest.raises(UserInputError, match="add --data-root DIR"):
        protocol_layer(load_protocol("adafer/rafdb_to_jaffe"), None)
    with pytest.raises(UserInputError, match="no such folder"):
        protocol_layer(load_protocol("adafer/rafdb_to_jaffe"), tmp_path / "none")


@pytest.mark.slow
def test_the_command_line_runs_a_protocol(root: Path, tmp_path: Path, fercore):
    import json

    small = ["--set", "data.size=32", "--set", "data.source_batch=20", "--set", "data.target_batch=4", "--set",
             "model.backbone_args.resnet18.channels=[8,8,8,8]", "--set", "train.steps=1", "--set",
             "report.tensorboard=false", "--preset", "demo", "--device", "cpu"]  # fmt: skip
    run = ["run", "--plugin", "source_only", "--protocol", "la_cmfer/to_ckplus", "--data-root", root]
    code, text, error = fercore(*run, *small, "--out", tmp_path / "run")
    assert code == 0, error
    assert "protocol la_cmfer/to_ckplus: 13 test images, not 1050" in text
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (record["target"]["n"], record["target"]["transductive"]) == (13, True)
    assert 'protocol = "la_cmfer/to_ckplus"' in (tmp_path / "run" / "config.toml").read_text()
    code, text, _ = fercore("protocols")
    assert code == 0
    assert "leaf/rafdb_100" in text
    code, text, _ = fercore("protocols", "leaf/rafdb_100")
    assert "metric: balanced_accuracy, accuracy" in text
    for arguments, message in (
        ([*run, "--source", "synthfer:wild"], "--protocol goes with neither --source nor --target"),
        (["run", "--plugin", "source_only", "--data-root", root], "--data-root without --protocol"),
        (["protocols", "leaf"], "unknown protocol 'leaf'"),
    ):
        code, _, error = fercore(*arguments)
        assert (code, error.count("\n")) == (2, 1)
        assert message in error


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('paper = "LA-CMFER, ACM MM 2024"\n', "", "paper: field required (FILE)"),
        ('source_sampling = "balanced"', "", ""),
        ('[settings.data]\nsource_sampling = "balanced"', "[settings]\ndata = 3", "settings.data is no table (FILE)"),
        ("[sources]", "[sources]\nx = 3", "(FILE)"),
        ("transductive = true\n", "transductive = false\n", "transductive differs"),
    ],
)
def test_a_protocol_file_of_ones_own_is_named_in_its_faults(tmp_path: Path, old: str, new: str, message: str):
    text = (HERE / "la_cmfer" / "to_ckplus.toml").read_text()
    assert old in text
    file = tmp_path / "mine.toml"
    file.write_text(text.replace(old, new))
    if not message:
        assert load_protocol(str(file)).n_test == 1050
        return
    with pytest.raises(UserInputError) as caught:
        load_protocol(str(file))
    assert message.replace("FILE", str(file)) in str(caught.value)
    with pytest.raises(UserInputError, match="protocol file not found .*none.toml"):
        load_protocol(str(tmp_path / "none.toml"))
