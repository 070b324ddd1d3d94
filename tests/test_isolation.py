"""Every call in a process of its own: nothing passes from one to the next, and none is left over."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fercore.errors import UserInputError
from fercore.isolation import _serve, apart


def contaminate():
    import torch

    torch.set_default_dtype(torch.float64)
    torch.backends.mkldnn.enabled = False
    os.environ["LEFT"] = "behind"
    return look()


def look():
    import torch

    return os.getpid(), torch.get_default_dtype(), torch.backends.mkldnn.enabled, os.environ.get("LEFT")


def number(value, folder=None, wait=0.0):
    time.sleep(wait)
    if folder is not None:
        (folder / str(value)).touch()
    return value


class Awkward(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def fail(kind):
    raise {"own": UserInputError("wrong", where="here", fix="mend"), "odd": Awkward(1, 2), "value": ValueError("no")}[
        kind
    ]


def die(code):
    os._exit(code)


def big():
    raise ValueError("x" * 1_000_000)


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_call_sees_nothing_of_another(jobs):
    import torch

    calls = [("bad", contaminate), ("next", look), ("last", look)]
    bad, *others = apart(calls, jobs=jobs)
    assert bad[1:] == (torch.float64, False, "behind")
    assert [other[1:] for other in others] == [(torch.float32, True, None)] * 2
    assert len({os.getpid(), *(found[0] for found in (bad, *others))}) == 4


def test_answers_come_in_order_and_folder_and_environment_are_the_callers(tmp_path, monkeypatch):
    calls = [(str(n), functools.partial(number, n, wait=0.3 * (n == 0))) for n in range(4)]
    assert list(apart(calls, jobs=2)) == [0, 1, 2, 3]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEFT", "by the caller")
    assert next(apart([("cwd", os.getcwd)])) == str(tmp_path)
    assert next(apart([("look", look)]))[3] == "by the caller"


@pytest.mark.slow
def test_errors_come_as_they_were_and_what_runs_beside_ends_first(tmp_path):
    with pytest.raises(UserInputError, match=r"^wrong \(here\); mend$"):
        list(apart([("a", functools.partial(fail, "own"))]))
    with pytest.raises(ValueError, match="no") as caught:
        list(apart([("a", functools.partial(fail, "value"))]))
    assert "in fail" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError, match="Awkward: 1 and 2"):
        list(apart([("a", functools.partial(fail, "odd"))]))
    calls = [("a", functools.partial(fail, "value"))]
    calls += [(str(n), functools.partial(number, n, tmp_path, 1.0)) for n in range(3)]
    with pytest.raises(ValueError, match="no"):
        list(apart(calls, jobs=2))
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    with pytest.raises(ValueError, match="no|x"):
        list(apart([("a", functools.partial(fail, "value")), ("big", big)], jobs=2))


@pytest.mark.parametrize("code", [0, 3])
def test_a_process_that_leaves_without_a_word_is_named(code):
    with pytest.raises(UserInputError, match=f"^row 2: ended without a word, exit code {code}"):
        list(apart([("row 1", look), ("row 2", functools.partial(die, code))]))


WAITING = """
import os, sys, time
from pathlib import Path
from fercore.isolation import _serve, apart
sys.path.insert(0, {here!r})
from test_isolation import sit
if __name__ == "__main__":
    import functools
    list(apart([("a", functools.partial(sit, Path({folder!r}), n)) for n in range(2)], jobs=2))
"""


def sit(folder, n):
    (folder / f"{n}.pid").write_text(str(os.getpid()))
    time.sleep(120)


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_the_caller_is_gone(tmp_path, number):
    script = tmp_path / "script.py"
    script.write_text(WAITING.format(here=str(Path(__file__).parent), folder=str(tmp_path)))
    caller = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.2)
    pids = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    caller.send_signal(number)
    caller.wait(30)
    until = time.monotonic() + 20
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in pids if alive(pid)]


POOLED = """
import signal, sys, time
from pathlib import Path
from fercore.isolation import share_out
from fercore.stopping import handling, interrupt

def begin(folder):
    global place
    place = Path(folder)

def work(number):
    (place / str(number)).touch()
    time.sleep(0.05)
    return number

signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background
with handling(interrupt):
    print(sum(answer for _, answer in share_out(work, range(int(sys.argv[2])), 2, begin, sys.argv[1], fork=True)))
"""


def pooled(folder, calls):
    command = [sys.executable, "-c", POOLED, folder, str(calls)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, start_new_session=True, **pipes)


def test_workers_answer(tmp_path):
    process = pooled(tmp_path, 20)
    assert process.communicate(timeout=60) == ("190\n", "")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("everybody", [True, False])
def test_a_signal_ends_workers_in_the_middle_of_their_calls(tmp_path, number, everybody):
    """The pools of the standard library wait for ever when a lock of their queues was held at that moment."""
    process = pooled(tmp_path, 5000)
    while len(list(tmp_path.iterdir())) < 4:
        time.sleep(0.01)
    (os.killpg if everybody else os.kill)(process.pid, number)
    _, error = process.communicate(timeout=30)
    assert error.count("Traceback") == 1
    assert error.endswith(f"fercore.stopping.Interrupted: ({number.value}, '')\n".replace("({", "(<"))
    assert len(list(tmp_path.iterdir())) < 4000
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_workers_of_a_killed_process_end(tmp_path):
    process = pooled(tmp_path, 5000)
    while len(list(tmp_path.iterdir())) < 4:
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=30)
    until = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < until:
            os.killpg(process.pid, 0)
            time.sleep(0.05)


def test_a_process_whose_caller_is_gone_ends_quietly(capfd):
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, int, os.getcwd(), {}, None))
    receiver.close()
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert "Traceback" not in capfd.readouterr().err
