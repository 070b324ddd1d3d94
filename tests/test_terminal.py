"""Names of files, classes and packages that are orders to a terminal are shown, and never obeyed."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
import warnings

import pytest
from PIL import Image
from rich.console import Console

from fercore import console, terminal
from fercore.cli import main
from fercore.hooks.discovery import PluginInfo
from fercore.terminal import counted, guard_streams, printable, say

TITLE, RED, CLEAR, BACKWARDS, BELL, C1 = "\x1b]0;owned\x07", "\x1b[31m", "\x1b[2J", "\u202e", "\x07", "\x9b31m"
ORDERS = (TITLE, RED, CLEAR, BACKWARDS, BELL, C1, "\x7f", "\r", "\b", "\u2066", "\u2028", "\0")


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_is_written_out(order):
    shown = printable(f"a{order}b")
    assert shown.isprintable()
    assert json.loads(f'"{shown}"') == f"a{order}b"


@pytest.mark.parametrize("text", ["Jäger 怒り \U0001f620.png", "a b", "", "[red]x", "\\u001b"])
def test_what_can_be_shown_stays_as_it_is(text):
    assert printable(text) == text
    assert printable("a\nb", keep="\n") == "a\nb"
    assert printable("a\nb") == "a\\nb"
    assert printable("\udce4") == "\\udce4"


def has_orders(text):
    return any(order[0] in text for order in ORDERS)


@pytest.fixture
def hostile(tmp_path):
    for name in ("anger", f"{RED}fear{TITLE}", f"sad{BACKWARDS}{CLEAR}"):
        (tmp_path / name).mkdir()
        for k in range(2):
            Image.new("RGB", (48, 48), (k * 40, 9, 9)).save(tmp_path / name / f"{k}{RED}{TITLE}.png")
    (tmp_path / "anger" / f"broken{CLEAR}.png").write_bytes(b"x")
    return tmp_path


def texts(tree):
    if isinstance(tree, dict | list):
        inner = [*tree, *tree.values()] if isinstance(tree, dict) else tree
        return [text for value in inner for text in texts(value)]
    return [tree] if isinstance(tree, str) else []


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["fercore", *arguments])
    with pytest.raises(SystemExit):
        main()
    return capsys.readouterr()


@pytest.mark.parametrize(
    "arguments",
    [
        ("data", "check", "folder:{}"),
        ("data", "check", "--json", "folder:{}"),
        ("data", "check", f"folder:{{}}/no{CLEAR}where"),
        ("data", "split", "folder:{}", "--out", "{}/split.json", "--by", "none"),
        ("data", "convert", "folder:{}?drop=sadness", "--out", f"{{}}x/{RED}out"),
        ("run", "-p", f"a{TITLE}"),
        ("run", "-p", "source_only", "--set", f"data.{RED}=3"),
        ("run", "-p", "source_only", "--config", f"{{}}/{RED}.toml"),
        (f"{CLEAR}x",),
        ("run", f"--{RED}x"),
    ],
    ids=lambda a: " ".join(printable(part) for part in a),
)
def test_no_command_prints_an_order(hostile, monkeypatch, capsys, arguments):
    out, err = command(monkeypatch, capsys, *(part.format(hostile) for part in arguments))
    assert out + err
    assert not has_orders(out.replace("\r", ""))
    assert not has_orders(err)
    if "--json" in arguments:
        assert any(TITLE in text for text in texts(json.loads(out)))


def test_a_summary_of_a_package_is_no_order(monkeypatch, capsys):
    info = PluginInfo("odd", f"dist{CLEAR}", "1", f"does{TITLE} things", "odd:Odd")
    monkeypatch.setattr("fercore.api.runs.installed_plugins", lambda: {"odd": info})
    out, _ = command(monkeypatch, capsys, "plugins")
    assert "does" in out
    assert not has_orders(out)


def test_lines_tables_and_bars_hold_no_order(monkeypatch):
    file = io.StringIO()
    screen = Console(file=file, width=200, force_terminal=True, color_system=None, markup=False)
    monkeypatch.setattr(console, "console", screen)
    console.print_lines([f"a{TITLE}"])
    console.print_table(f"t{RED}", [f"h{CLEAR}", "n"], [[f"c{BACKWARDS}", f"{C1}1"]])
    console.LineObserver(f"o{BELL}").message(f"m{RED}")
    bar = console.BarWatch(f"b{TITLE}", screen)
    bar.begin(0, 2)
    bar.advance(1, f"loss{TITLE}")
    bar.refresh()
    bar.end()
    for order in (TITLE, RED, CLEAR, BACKWARDS, C1, BELL):  # rich itself moves the cursor and clears lines
        assert order not in file.getvalue()
    assert "owned" in file.getvalue()


@pytest.fixture
def guarded(monkeypatch):
    for place, name in ((warnings, "showwarning"), (sys, "excepthook"), (threading, "excepthook")):
        monkeypatch.setattr(place, name, getattr(place, name))
    guard_streams()


def test_warnings_and_lines_hold_no_order(capsys, guarded):
    logging.lastResort.handle(logging.makeLogRecord({"msg": f"weights of x{TITLE}\nsecond", "levelno": 30}))
    say(f"x{RED}", error=True)
    assert capsys.readouterr().err == "weights of x\\u001b]0;owned\\u0007\nsecond\nx\\u001b[31m\n"


def test_what_python_prints_by_itself_holds_no_order(capsys, guarded):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = terminal._show_warning
        warnings.warn(f"odd metadata in {TITLE}", stacklevel=1)
    try:
        raise RuntimeError(f"cannot open {RED}x")
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
        threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))
    error = capsys.readouterr().err
    assert not has_orders(error)
    assert error.count("RuntimeError: cannot open \\u001b[31mx") == 2
    assert "UserWarning: odd metadata in \\u001b]0;owned" in error
    assert error.count("Traceback") == 2


def test_an_error_of_no_user_goes_that_way_from_the_command_line(monkeypatch, guarded):
    def fail():
        raise RuntimeError

    monkeypatch.setattr("fercore.api.runs.installed_plugins", fail)
    monkeypatch.setattr(sys, "argv", ["fercore", "plugins"])
    with pytest.raises(RuntimeError):
        main()
    assert sys.excepthook is terminal._show_error


OUTLIVES = """
from fercore.terminal import guard_streams, lost_output, say
guard_streams()
for k in range(3):
    say(f"line {k}")
    print(f"print {k}", flush=True)
open("after.txt", "x").write(str(lost_output()))
"""
"""What goes on when its output cannot be written; it leaves why in a file."""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("how", "lost"),
    [
        ("> /dev/full", "[Errno 28] No space left on device"),
        (">&-", "None"),
        (">&- 2>&- <&-", "None"),
        ("| true", "None"),
    ],
)
def test_output_that_cannot_be_written_ends_nothing(tmp_path, how, lost, unbuffered):
    command = f"({sys.executable} -c '{OUTLIVES}'; echo $? > code.txt) {how}; wait"
    environ = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert (tmp_path / "code.txt").read_text() == "0\n"
    assert (tmp_path / "after.txt").read_text() == lost


def test_one_thing_is_no_plural():
    assert [counted(n, "picture") for n in (0, 1, 2)] == ["0 pictures", "1 picture", "2 pictures"]
    assert counted(2, "class") == "2 classes"
