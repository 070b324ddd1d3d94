"""What an unpacked archive may not do: lead out of its folder, by path or by link."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import layouts

from fercore.data import inspect
from fercore.data.domains.domain_set import read_domain
from fercore.data.spec import parse_spec
from fercore.errors import UserInputError


def read(spec: str):
    return read_domain(parse_spec(spec))[0]


def error_of(spec: str) -> str:
    with pytest.raises(UserInputError) as caught:
        read(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_linked_file_may_not_lead_out(tmp_path: Path):
    paint = layouts.Painter(tmp_path)
    paint("secret/face.png")
    for k in range(3):
        paint(f"set/anger/{k}.png")
    os.symlink(tmp_path / "secret" / "face.png", tmp_path / "set" / "anger" / "9.png")
    link = tmp_path / "set" / "anger" / "9.png"
    assert error_of(f"folder:{tmp_path}/set").startswith(f"link that leads out of the dataset's folder ({link})")
    assert len(read(f"folder:{tmp_path}/set?links=follow")) == 4
    link.unlink()
    os.symlink(tmp_path / "set" / "anger" / "0.png", link)
    assert len(read(f"folder:{tmp_path}/set")) == 4


def test_a_linked_folder_may_not_lead_out(tmp_path: Path):
    paint = layouts.Painter(tmp_path)
    paint("secret/face.png")
    paint("set/a.png")
    os.symlink(tmp_path / "secret", tmp_path / "set" / "in")
    paint.text("set/l.txt", "a.png anger\nin/face.png fear\n")
    assert "link that leads out" in error_of(f"list:{tmp_path}/set/l.txt")
    assert len(read(f"list:{tmp_path}/set/l.txt?root={tmp_path}/set")) == 2
    os.symlink(tmp_path / "secret", tmp_path / "set" / "fear")
    assert "link that leads out" in error_of(f"folder:{tmp_path}/set")


def test_the_dataset_itself_may_be_a_link(tmp_path: Path):
    layouts.jaffe(tmp_path / "real")
    layouts.lacmfer(tmp_path / "lists")
    os.symlink(tmp_path / "real", tmp_path / "JAFFE")
    assert len(read(f"jaffe:{tmp_path}/JAFFE")) == 14
    assert len(read(f"lacmfer:{tmp_path}/lists/data?domain=ck")) == 7


def test_an_archive_is_not_opened(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("../../out.png", b"x")
    assert error_of(f"folder:{tmp_path}/set.zip").endswith("give the path of a folder (unpack the archive first)")
    assert os.listdir(tmp_path) == ["set.zip"]


def test_links_in_a_circle(tmp_path: Path):
    layouts.Painter(tmp_path)("set/anger/0.png")
    os.symlink(tmp_path / "set", tmp_path / "set" / "anger" / "again")
    os.symlink("loop.png", tmp_path / "set" / "anger" / "loop.png")
    table = read(f"folder:{tmp_path}/set")
    assert [Path(key).name for key in table.keys] == ["0.png", "loop.png"]
    assert [Path(key).name for key, _ in inspect(table).unusable] == ["loop.png"]
