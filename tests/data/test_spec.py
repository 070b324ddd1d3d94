from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fercore.data import parse_spec
from fercore.data.domains.domain_set import read_domain
from fercore.data.spec import spec_text
from fercore.errors import UserInputError


def test_parts_of_a_spec():
    spec = parse_spec("fer2013:/data/fer2013.csv?test=both&limit=20")
    assert (spec.format, spec.path) == ("fer2013", "/data/fer2013.csv")
    assert spec.options == {"test": "both", "limit": "20"}
    assert str(spec) == "fer2013:/data/fer2013.csv?test=both&limit=20"


@pytest.mark.parametrize("path", [r"C:\faces\raw", "C:/faces", r"\\server\share\x", "/data/ä ö/ü"])
def test_windows_and_odd_paths(path: str):
    assert parse_spec(f"folder:{path}").path == path
    assert parse_spec(f"folder:{path}?split=test").path == path


ODD = ["/d/faces #1 (50%) & co=a?b", "/d/a%20b", "/d/100%", "/d/ü?", " lead and trail ", "/d/%3F", "?", "/d/\udcff%fe"]


@pytest.mark.parametrize("path", ODD)
def test_every_path_can_be_written(path: str):
    spec = parse_spec(f"folder:{spec_text(path)}?split=test&name={spec_text(path)}")
    assert (spec.path, spec.options["name"], spec.options["split"]) == (path, path, "test")
    assert parse_spec(f"folder:{spec_text(path)}").path == path


def test_percent_encoding_is_that_of_urls():
    spec = parse_spec("folder:/d/a%3Fb%3D%26%25%20%C3%BC?name=x%26y%3d1")
    assert (spec.path, spec.options["name"]) == ("/d/a?b=&% ü", "x&y=1")
    assert parse_spec("folder:/d/50% of 5%?limit=3").path == "/d/50% of 5%"
    assert parse_spec("folder:/d/a?b&c=d?limit=3").path == "/d/a?b&c=d"


def test_a_path_with_a_question_mark_is_told_how_to_be_written(tmp_path: Path):
    (tmp_path / "a?b" / "anger").mkdir(parents=True)
    with pytest.raises(UserInputError, match=r"cannot read option 'b' .*in a path or value %3F for \?, %26 for &"):
        parse_spec(f"folder:{tmp_path}/a?b")
    with pytest.raises(UserInputError, match=r"path not found: .*a b .*check the spec; .*write %25 for %"):
        read_domain(parse_spec(f"folder:{tmp_path}/a%20b"))
    with pytest.raises(UserInputError, match=r"check the spec$"):
        read_domain(parse_spec(f"folder:{tmp_path}/100%"))


@pytest.mark.parametrize("text", ["folder:/x%00", "folder:/x?name=a%00"])
def test_no_code_brings_a_nul_character(text: str):
    with pytest.raises(UserInputError, match="NUL character"):
        parse_spec(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foldr:/x", "unknown format 'foldr' (spec 'foldr:/x'); did you mean 'folder'?"),
        ("folder:", "spec without a path (spec 'folder:'); write folder:PATH"),
        ("folder:?split=all", "spec without a path (spec 'folder:?split=all'); write folder:PATH"),
        (
            "folder:/x?spilt=all",
            "format folder has no option 'spilt' (spec 'folder:/x?spilt=all'); did you mean 'split'?",
        ),
        ("folder:/x?split", "cannot read option 'split' (spec 'folder:/x?split'); write ?key=value&key=value"),
        ("folder:/x?limit=1&limit=2", "option 'limit' given twice (spec 'folder:/x?limit=1&limit=2')"),
        (
            "folder:/x?limit=0",
            "option limit='0' is not a count (spec 'folder:/x?limit=0'); give a whole number from 1 up",
        ),
        ("folder:/x?split=tset", "option split='tset' is unknown (spec 'folder:/x?split=tset'); did you mean 'test'?"),
        ("folder:/x?transductive=yes", "option transductive='yes' is unknown"),
        ("folder:/x?n=3", "format folder has no option 'n'"),
    ],
)
def test_bad_specs(text: str, message: str):
    with pytest.raises(UserInputError) as caught:
        parse_spec(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("text", ["/data/faces", r"C:\faces", "faces", "", "./x:y", "~/faces"])
def test_a_bare_path_asks_for_a_format(text: str):
    with pytest.raises(UserInputError, match="spec without a format .*write FORMAT:PATH, as in 'folder:"):
        parse_spec(text)


def test_importing_the_package_loads_neither_torch_nor_numpy():
    code = (
        "import sys, fercore.data as d; d.parse_spec('folder:/x'); "
        "sys.exit(sum(m in sys.modules for m in ('torch', 'numpy', 'PIL')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
