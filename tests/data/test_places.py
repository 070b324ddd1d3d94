"""Paths in settings: absolute, and the same thing from every folder."""

from __future__ import annotations

import os

import pytest

from fercore.config import DataSettings, ModelSettings
from fercore.data.spec import FORMATS, parse_spec, spec_text
from fercore.datasets.protocols import absolute_protocol, load_protocol
from fercore.models.clip import ClipSettings


@pytest.fixture
def here(tmp_path, monkeypatch):
    folder = tmp_path / "we?rd & me@home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    return str(folder)


def test_every_path_of_a_spec_is_absolute_and_nothing_else_changes(here, tmp_path):
    told = spec_text(here)
    for text, expected in {
        "folder:faces": f"folder:{told}/faces",
        " folder:./faces/?split=train&limit=7 ": f"folder:{told}/faces?split=train&limit=7",
        "folder:~/a?names=map.toml": f"folder:{tmp_path}/a?names={told}/map.toml",
        "list:../a/l.txt?root=..&labels=rafdb": f"list:{told}/../a/l.txt?root={told}/..&labels=rafdb",
        "rafdb:/data/RAF-DB?images=original": "rafdb:/data/RAF-DB?images=original",
        "expw:e?images=crops&name=e": f"expw:{told}/e?images={told}/crops&name=e",
        "folder:100%25?split_file=s.csv&au=au.csv": f"folder:{told}/100%?split_file={told}/s.csv&au={told}/au.csv",
        "folder:a?au=some_detector&label_file=l.json": f"folder:{told}/a?au=some_detector&label_file={told}/l.json",
        "synthfer:wild?n=60&au=synthfer": "synthfer:wild?n=60&au=synthfer",
    }.items():
        found = parse_spec(text).absolute().text
        assert found == expected
        assert parse_spec(found).absolute().text == found
        assert parse_spec(found) == parse_spec(text)
        assert parse_spec(found).options.keys() == parse_spec(text).options.keys()
        assert os.path.abspath(parse_spec(found).path).startswith(("/", "wild"))


def test_options_that_are_paths_are_options():
    for name, form in FORMATS.items():
        own = set(form.paths) - {"root", "names"}
        assert own <= set(form.options), name


def test_bytes_that_are_no_utf_8_can_be_written_in_settings(tmp_path, monkeypatch):
    folder = os.path.join(os.fsencode(tmp_path), b"\xe4")
    os.mkdir(folder)
    monkeypatch.chdir(folder)
    found = parse_spec("folder:a").absolute().text
    assert found.encode("utf-8").endswith(b"/%E4/a")
    assert os.fsencode(parse_spec(found).path) == folder + b"/a"


def test_settings_that_are_paths_are_absolute(here, tmp_path):
    data = DataSettings(sources=("folder:a",), target="folder:b?shots=5", au="au.csv", cache_dir="images")
    found = data.absolute()
    assert list(map(str, found.sources)) == [f"folder:{spec_text(here)}/a", f"folder:{spec_text(here)}/b?shots=5"]
    assert found == data.model_copy(update={"au": found.au})  # other words for the same datasets
    assert found.task(0).few_shot_domain == 1
    assert (found.au, found.cache_dir) == (f"{here}/au.csv", f"{here}/images")
    assert DataSettings().absolute() == DataSettings()
    assert DataSettings(au="synthfer").au == DataSettings(au="synthfer").absolute().au
    assert ModelSettings(weights="~/w.pth").weights == f"{tmp_path}/w.pth"
    assert ModelSettings(weights="timm").weights == "timm"
    assert ClipSettings(pretrained="w.safetensors").pretrained == f"{here}/w.safetensors"
    assert ClipSettings(pretrained="openai").pretrained == "openai"


def test_a_protocol_file_is_found_from_everywhere(here, monkeypatch, tmp_path):
    text = 'title = "t"\npaper = "p"\ntransductive = false\nclasses = ["anger", "fear"]\ntarget = "synthfer:wild"\n'
    with open("p.toml", "w") as file:
        file.write(f'{text}[sources]\na = "synthfer:studio"\nb = "synthfer:web"\n')
    whole, one = absolute_protocol("p.toml"), absolute_protocol("p.toml@b")
    assert (whole, one) == (f"{here}/p.toml", f"{here}/p.toml@b")
    monkeypatch.chdir(tmp_path)
    assert list(load_protocol(whole).sources) == ["a", "b"]
    assert list(load_protocol(one).sources) == ["b"]
    assert absolute_protocol("pca/rafdb@x") == "pca/rafdb@x"
