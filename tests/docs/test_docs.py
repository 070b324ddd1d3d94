"""The documentation's blocks run: `bash` and `python` in the order of their page, `console` as far as it is read.

A `console` block needs what is not here (datasets, a GPU, another machine): its commands are read by the command line,
not run, so that an option that is gone is noticed. Blocks of other languages are no code of ours.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from fercore.cli import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not {"generated", "_build"} & set(path.relative_to(DOCS).parts))
BLOCK = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.M | re.S)
LANGUAGES = {"bash", "python", "console", "toml", "text", "json", ""}
BLOCKS = {path.relative_to(DOCS).as_posix(): BLOCK.findall(path.read_text(encoding="utf-8")) for path in PAGES}
RUN = [name for name, blocks in BLOCKS.items() if any(language in ("bash", "python") for language, _ in blocks)]
CONSOLE = [
    (name, line)
    for name, blocks in BLOCKS.items()
    for language, text in blocks
    if language == "console"
    for line in text.replace("\\\n", " ").splitlines()
    if line.strip()
]
SMALL = {"run": "--set data.size=32 --set train.threads=1", "compare": "--set data.size=32 --set train.threads=1"}


def smaller(line: str) -> list[str]:
    """Return the words of a command, of a run with as few steps as show that it works."""
    words = shlex.split(re.sub(r"train\.steps=\d+", "train.steps=2", line))
    return words + shlex.split(SMALL.get(words[1], ""))


def run_line(line: str, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", smaller(line))
    with pytest.raises(SystemExit) as end:
        main()
        raise SystemExit(0)
    assert not end.value.code, line


def test_every_block_has_a_language_that_says_what_becomes_of_it():
    known = LANGUAGES | {"{toctree}", "{eval-rst}", "{include}"}
    odd = [(name, language) for name, blocks in BLOCKS.items() for language, _ in blocks if language not in known]
    assert odd == []
    assert sum(len(blocks) for blocks in BLOCKS.values()) > 60


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_the_blocks_of_a_page_run_in_order(name, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "docs"}
    for language, text in BLOCKS[name]:
        if language == "bash":
            for line in filter(str.strip, text.splitlines()):
                run_line(line, monkeypatch)
        elif language == "python":
            for wanted in re.findall(r"[\w/]+\.png", text):  # what a page talks of, where it is not made by it
                if not Path(wanted).exists():
                    Path(wanted).parent.mkdir(parents=True, exist_ok=True)
                    Image.new("RGB", (48, 48)).save(wanted)
            small = text.replace('"train.steps": 20', '"train.steps": 2, "data.size": 32, "train.threads": 1')
            exec(compile(small, name, "exec"), names)


@pytest.mark.slow
def test_the_method_of_the_tutorial_keeps_the_contract(tmp_path, monkeypatch):
    from fercore.testing import check_plugin

    (block,) = [text for language, text in BLOCKS["write_a_method.md"] if language == "python"]
    body = [line for line in block.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(body) <= 40
    info = tmp_path / "my_dann-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-dann\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[fercore.plugins]\nmy_dann = docs_my_dann:MyDann\n")
    (tmp_path / "docs_my_dann.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    kept = check_plugin("my_dann", rules=["trains", "untouched", "loads", "length"])
    assert "my_dann/domain" in kept.notes["trains"]
    assert "my_dann goes by the length" in kept.notes["length"] or "strength" in kept.notes["length"]


@pytest.mark.parametrize(("name", "line"), CONSOLE)
def test_a_command_that_is_not_run_is_one(name, line, tmp_path, monkeypatch):
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)
    elif words[0] == "fercore":
        reads(words[1:])
    else:
        assert words[0] in ("pip", "pytest", "python", "hf", "cd", "sbatch"), line


def reads(words: list[str]) -> None:
    """Have the command line read a command up to what it would call."""
    import typer
    from typer.core import TyperGroup

    from fercore.cli import app

    command, name = typer.main.get_command(app), "fercore"
    context = typer.Context(command, info_name=name)
    while isinstance(command, TyperGroup):
        name, *words = words
        inner = command.get_command(context, name)
        assert inner is not None, f"no command {name}"
        command, context = inner, typer.Context(inner, info_name=name, parent=context)
    command.make_context(name, list(words), parent=context)


def test_the_tests_see_an_option_that_is_gone():
    with pytest.raises(Exception, match="--outt"):
        reads(["run", "--plugin", "source_only", "--outt", "x"])
    with pytest.raises(AssertionError, match="no command rum"):
        reads(["rum"])


def test_every_page_is_in_the_contents_and_says_no_issue_or_machine():
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    contents = (DOCS / "index.md").read_text(encoding="utf-8")
    for path in PAGES:
        name = path.relative_to(DOCS).with_suffix("").as_posix()
        assert name == "index" or re.search(rf"^{name}$", contents, re.M), f"{name} is on no list of index.md"
    assert "/work/" not in text


def test_the_table_of_methods_says_what_the_benchmark_measured():
    pairs = json.loads((ROOT / "bench/results/verdict.json").read_text())["pairs"]
    page = (DOCS / "which_method.md").read_text(encoding="utf-8")
    for method in {pair["method"] for pair in pairs}:
        gained = [100 * pair["difference"] for pair in pairs if pair["method"] == method]
        better, mean = sum(gain > 0 for gain in gained), sum(gained) / len(gained)
        row = f"| {better} of {len(gained)} | {mean:+.1f} | {min(gained):+.1f} to {max(gained):+.1f} |"
        assert re.search(rf"^\| `{method}`[^|]*{re.escape(row)}$", page, re.M), f"{method}: {row}"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Build the site as `make docs` does."""
    import subprocess

    pytest.importorskip("sphinx", reason="needs the extra docs")
    out = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-d", str(out / "doctrees")]
    done = subprocess.run([*build, str(DOCS), str(out / "html")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_every_link_inside_it_leads_somewhere(site):
    pages = {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    ids = {name: set(re.findall(r'\bid="([^"]+)"', text)) for name, text in pages.items()}
    broken = []
    for name, text in pages.items():
        for link in re.findall(r'(?:href|src)="([^"]+)"', text):
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link) or name in ("genindex.html", "py-modindex.html"):
                continue
            path = (site / name).parent / target.partition("?")[0] if target else site / name
            where = path.resolve().relative_to(site.resolve()).as_posix()
            if not path.exists() or (anchor and where in ids and anchor not in ids[where]):
                broken.append(f"{name}: {link}")
    assert broken == []
    assert len(pages) > 25
    assert "fercore run" in pages["reference/generated/commands.html"]


@pytest.mark.slow
def test_a_result_fits_its_schema_and_the_schema_has_every_field(tiny_run, make_context, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    from fercore.records.result import Result, json_schema

    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    result = json.loads((tiny_run("la_cmfer", {"train.steps": 2}).path / "result.json").read_text())
    jsonschema.validate(result, schema)
    assert set(schema["required"]) <= set(result) <= set(schema["properties"])
    assert set(schema["properties"]) == {field.alias or name for name, field in Result.model_fields.items()}
    for wrong in ({**result, "seed": "0"}, {k: v for k, v in result.items() if k != "target"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
