"""Files that somebody else names: a pipe, a device or a socket in place of one is refused at once, everywhere."""

from __future__ import annotations

import ast
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from fercore import files
from fercore.config import read_toml
from fercore.data.domains.domain_set import read_domain
from fercore.data.spec import parse_spec
from fercore.errors import UserInputError

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.timeout(60),  # what is refused too late waits for ever
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here"),
]


@pytest.fixture
def pipe(tmp_path: Path) -> Callable[[str], Path]:
    """Make a named pipe: pipe("x.csv")."""

    def make(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)
        return path

    return make


def test_a_regular_file_is_read(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    (tmp_path / "link").symlink_to("a")
    assert files.read_bytes(tmp_path / "link") == b"\xef\xbb\xbfone\r\ntwo\rthree\n"
    assert files.read_text(tmp_path / "a", "utf-8-sig") == "one\ntwo\nthree\n"
    assert files.irregular(tmp_path / "a") == files.irregular(tmp_path / "nothing") == ""
    with pytest.raises(OSError, match="a link, not a file"):
        files.open_regular(tmp_path / "link", follow=False)
    with pytest.raises(FileNotFoundError):
        files.open_regular(tmp_path / "nothing")


def test_a_file_that_no_memory_holds_is_refused_at_once(tmp_path: Path):
    with (tmp_path / "a.toml").open("wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no room on disk
    with pytest.raises(files.TooLargeError, match="^larger than 1024 MiB$"):
        files.read_bytes(tmp_path / "a.toml")
    with pytest.raises(UserInputError, match=r"cannot read settings file: larger than 1024 MiB \("):
        read_toml(tmp_path / "a.toml")
    with pytest.raises(UserInputError, match=r"cannot be read: larger than 1024 MiB \("):
        read_domain(parse_spec(f"fer2013:{tmp_path}/a.toml"))


def test_anything_else_is_refused_at_once(tmp_path: Path, pipe):
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s"))
    (tmp_path / "link").symlink_to(pipe("p"))
    cases = {"p": "a named pipe", "link": "a named pipe", "s": "a socket", ".": "a folder", "/dev/zero": "a device"}
    for name, kind in cases.items():
        for loaded in (files.open_regular, files.refuse_irregular):
            with pytest.raises(files.NotRegularError) as caught:
                loaded(tmp_path / name)
            assert str(caught.value) == f"{kind}, not a file"
        assert files.irregular(tmp_path / name) == kind
    server.close()


def test_a_pipe_put_in_place_between_looking_and_opening(tmp_path: Path, pipe, monkeypatch):
    (tmp_path / "a").write_bytes(b"x")
    looked = os.stat(tmp_path / "a")
    path = pipe("p")
    monkeypatch.setattr(os, "stat", lambda *_, **__: looked)
    with pytest.raises(files.NotRegularError, match="a named pipe"):
        files.open_regular(path)


def _spec(form: str) -> Callable[[Path], object]:
    from fercore.data.domains.domain_set import read_domain
    from fercore.data.spec import parse_spec

    return lambda path: read_domain(parse_spec(f"{form}:{path}"))


def _option(option: str) -> Callable[[Path], object]:
    from fercore.config import DataSettings
    from tests.loading import load_domains

    text = f"synthfer:wild?n=28&{option}="
    return lambda path: load_domains(
        DataSettings(sources=("synthfer:studio?n=28",), target=f"{text}{path}", size=16), seed=0
    )


def _boundaries() -> dict[str, Callable[[Path], object]]:
    from fercore.au.files import read_au_file
    from fercore.au.network import load_network
    from fercore.config import read_toml
    from fercore.data.domains.labelled import read_labels
    from fercore.data.domains.split import read_split
    from fercore.data.images.readers import FileReader, kind_of
    from fercore.datasets.prepare.boxes import read_boxes
    from fercore.datasets.prepare.detectors import make_detector
    from fercore.datasets.protocols import load_protocol
    from fercore.models.clip.files import read_state
    from fercore.models.weights import read_weights

    return {
        "settings": read_toml,
        "manifest": _spec("manifest"),
        "list": _spec("list"),
        "fer2013": _spec("fer2013"),
        "ferplus": _spec("ferplus"),
        "nvie": _spec("nvie"),
        "split_file": _option("split_file"),
        "split": read_split,
        "label_file": read_labels,
        "image": lambda path: FileReader((str(path),)).read(0),
        "kind of image": lambda path: kind_of(str(path)),
        "au": lambda path: read_au_file(path, 0.5),
        "au network": load_network,
        "boxes": lambda path: read_boxes(path, ["a.png"]),
        "detector": lambda path: make_detector("yunet", weights=path, device="cpu"),
        "protocol.toml": lambda path: load_protocol(str(path)),
        "weights.pth": read_weights,
        "weights.safetensors": read_weights,
        "clip.pt": read_state,
    }


@pytest.mark.parametrize("name", _boundaries())
def test_every_file_that_a_user_names(name: str, pipe):
    path = pipe(name)
    with pytest.raises(UserInputError, match="named pipe") as caught:
        _boundaries()[name](path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


def test_files_of_our_own_folders(tmp_path: Path, pipe, monkeypatch):
    from fercore.data.cache.digests import DigestMemo
    from fercore.data.images.readers import FileReader
    from fercore.datasets.prepare.journal import Journal
    from fercore.runs import checkpoint
    from fercore.runs.folder import RunFolder

    memory = tmp_path / "memory"
    memory.mkdir()
    reader = FileReader((str(tmp_path / "a.png"),))
    os.mkfifo(DigestMemo(reader, memory).path)
    assert DigestMemo(reader, memory).known([0]) == [""]
    pipe("out/journal.jsonl")
    with pytest.raises(UserInputError, match="named pipe"):
        Journal(tmp_path / "out", {})
    pipe("run/data.json")
    with pytest.raises(UserInputError, match="named pipe"):
        RunFolder(tmp_path / "run").data_report()
    pipe("step_00000001/state.safetensors")
    (tmp_path / "step_00000001" / "SHA256SUMS").write_text("0  state.safetensors\n")
    with pytest.raises(UserInputError, match="named pipe"):
        checkpoint.load(tmp_path / "step_00000001")


READING = {"read_text", "read_bytes"}
OWN = {
    "fercore/ops/build.py",
    "fercore/models/clip/tokens.py",
    "fercore/engine/results.py",
    "fercore/runs/checkpoint.py",
    "fercore/engine/memory_format.py",
    "fercore/hooks/about.py",
    "fercore/scaffold/package.py",
}
"""Modules that open files for reading by themselves: those of the package or the system, and what they have written."""


def _opens_for_reading(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Name):
        if call.func.id != "open":
            return False
        modes = call.args[1:2]
    elif isinstance(call.func, ast.Attribute) and call.func.attr == "open":
        owner = call.func.value
        if isinstance(owner, ast.Name) and owner.id in ("os", "Image", "archive", "av", "webbrowser"):
            return False
        modes = call.args[:1]
    else:
        return isinstance(call.func, ast.Attribute) and call.func.attr in READING and _is_path(call.func.value)
    modes += [word.value for word in call.keywords if word.arg == "mode"]
    return not any(isinstance(m, ast.Constant) and set("wxa") & set(str(m.value)) for m in modes)


def _is_path(owner: ast.expr) -> bool:
    return not (isinstance(owner, ast.Name) and owner.id == "files")


def test_files_are_opened_for_reading_in_one_place():
    found = {
        file.relative_to(ROOT).as_posix()
        for file in [*ROOT.glob("fercore/**/*.py"), *ROOT.glob("plugins/**/*.py")]
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and _opens_for_reading(node)
    }
    assert found <= OWN
