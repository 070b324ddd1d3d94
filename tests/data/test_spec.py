from __future__ import annotations

import subprocess
import sys

import pytest

from fercore.data import parse_spec
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
