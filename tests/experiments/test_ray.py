"""Cells on a Ray cluster: the numbers of one machine, a machine that is lost, storage, and what is refused."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import tarfile
import threading
import time

import pytest

from fercore.cluster import Machines, connected
from fercore.errors import UserInputError
from fercore.experiments.ray_executor import on_cluster
from fercore.experiments.storage import Storage, kept_on
from fercore.experiments.study import Study
from fercore.runs.folder import PREDICTIONS, RunFolder

pytestmark = pytest.mark.timeout(600)
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
FILE = {
    "preset": "demo",
    "seeds": [0],
    "settings": {"train": {"steps": 5, "threads": 1, "checkpoint_every": 1}, "data": {"size": 32}},
    "methods": ["source_only", "dan"],
    "pairs": [{"name": "to web", "source": ["synthfer:studio?n=100"], "target": "synthfer:web?n=120"}],
}


def test_without_ray_or_a_cluster_it_is_one_line(tmp_path, monkeypatch, fercore):
    pytest.importorskip("ray")
    (tmp_path / "s.toml").write_text(
        'methods = ["dan"]\n[[pairs]]\nname = "p"\nsource = ["synthfer:web"]\ntarget = "synthfer:nir"\n'
    )
    study = ("study", tmp_path / "s.toml", "--out", tmp_path / "out", "--executor", "ray")
    for address, message in (("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1"), ("here", "'here' is no address")):
        code, _, error = fercore(*study, "--address", address)
        assert code == 2
        assert error.startswith(f"fercore: error: {message}")
        assert error.count("\n") == 1
    code, _, error = fercore(*study, "--storage", "nobody://x")
    assert code == 2
    assert error.startswith("fercore: error: cannot use that storage")
    assert fercore("study", tmp_path / "s.toml", "--storage", "file:///x")[0] == 2
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, error = fercore(*study)
    assert code == 2
    assert error.startswith("fercore: error: Ray is not there")
    assert not (tmp_path / "out").exists()


def test_a_run_folder_comes_back_from_storage_as_it_was(tmp_path):
    root = tmp_path / "here"
    folder = root / "pair/row-s0"
    (folder / "checkpoints/step_1").mkdir(parents=True)
    (folder / "checkpoints/step_1/state").write_text("one")
    (folder / "config.toml").write_text("")
    (folder / "run.lock").write_text("")
    storage = Storage((tmp_path / "shared").as_uri(), root)
    storage.check()
    assert not storage.pull(folder)
    assert kept_on(storage, folder, None, lambda: 7) == 7
    with tarfile.open(tmp_path / "shared/pair/row-s0.tar") as members:
        assert members.getnames()[0] == "checkpoints"
        assert "run.lock" not in members.getnames()
    (folder / "checkpoints/step_1/state").write_text("broken by a kill")
    (folder / "late").write_text("")
    seen = kept_on(storage, folder, None, lambda: sorted(path.name for path in folder.iterdir()))
    assert seen == ["checkpoints", "config.toml"]
    assert (folder / "checkpoints/step_1/state").read_text() == "one"


def test_a_checkpoint_is_kept_while_a_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("fercore.experiments.storage.EVERY", 0.05)
    folder = tmp_path / "here/run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.toml").write_text("")
    storage, archive = Storage((tmp_path / "shared").as_uri(), tmp_path / "here"), tmp_path / "shared/run.tar"

    def call():
        (folder / "checkpoints/step_1").mkdir()
        until = time.monotonic() + 20
        while not archive.is_file() and time.monotonic() < until:
            time.sleep(0.02)
        return archive.is_file()

    assert kept_on(storage, folder, None, call)


def test_storage_that_refuses_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserInputError, match="storage refuses"):
        Storage((tmp_path / "file/below").as_uri(), tmp_path).check()
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/run.tar").write_bytes(b"no archive")
    with pytest.raises(UserInputError, match="storage refuses"):
        Storage((tmp_path / "shared").as_uri(), tmp_path).pull(folder)


@pytest.fixture(autouse=True)
def as_urgent_as_the_test(monkeypatch):
    """Ray's workers give way to everything else by default."""
    monkeypatch.setenv("RAY_worker_niceness", "0")


@pytest.fixture
def cluster(as_urgent_as_the_test):
    """A cluster of a head and a node, one CPU each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80_000_000})
    made.other = made.add_node(num_cpus=1, object_store_memory=80_000_000)
    yield made
    made.shutdown()


@needs_ray
@pytest.mark.slow
def test_local_and_ray_give_the_same_numbers(tmp_path, fercore):
    assert Study(FILE, tmp_path / "local").run().complete
    told = []
    with on_cluster(Machines(), tmp_path / "ray", storage=(tmp_path / "shared").as_uri()) as executor:
        study = Study(FILE, tmp_path / "ray")
        assert study.run(executor=executor, observe=lambda label: Heard(told, label)).complete
    for cell in study.cells:
        here, there = Study(FILE, tmp_path / "local").folder(cell.method, cell.pair, cell.seed), cell.cell.folder
        assert (here / PREDICTIONS).read_bytes() == (there / PREDICTIONS).read_bytes()
        assert RunFolder(here).result().target == RunFolder(there).result().target
        assert (tmp_path / "shared" / there.relative_to(tmp_path / "ray").with_suffix(".tar")).is_file()
    assert {label for label, what in told if what == "step"} == {cell.cell.label for cell in study.cells}
    with (
        pytest.raises(UserInputError, match="no machine of the cluster has 1 CPU and 99 GPU"),
        connected(Machines(num_gpus=99)),
    ):
        pass


class Heard:
    """Notes what it hears."""

    def __init__(self, told, label):
        self._told, self._label = told, label

    def __getattr__(self, what):
        return lambda *_, **__: self._told.append((self._label, what))


LONG = {**FILE, "seeds": [0, 1, 2, 3], "methods": ["source_only"]}


@needs_ray
@pytest.mark.slow
def test_a_machine_that_dies_ends_no_study(tmp_path, cluster):
    settings = {"train": {**FILE["settings"]["train"], "steps": 40}, "data": {"size": 32}}
    study = Study({**LONG, "settings": settings}, tmp_path / "out")
    told, killed = [], threading.Event()

    def kill():
        # In the middle of two runs.
        while sum(what == "step" for _, what in told) < 2:
            time.sleep(0.2)
        cluster.remove_node(cluster.other, allow_graceful=False)
        killed.set()

    threading.Thread(target=kill, daemon=True).start()
    with on_cluster(Machines(cluster.address), study.out) as executor:
        status = study.run(executor=executor, observe=lambda label: Heard(told, label))
    assert killed.is_set()
    assert status.complete, status.reasons
    again = [label for label, what in told if what == "begin"]
    assert len(again) > len(set(again))  # the run of that machine was begun again


@needs_ray
@pytest.mark.slow
def test_an_interrupt_ends_what_it_started(tmp_path, cluster):
    settings = {"train": {**FILE["settings"]["train"], "steps": 5000}, "data": {"size": 32}}
    study, told = Study({**LONG, "settings": settings}, tmp_path / "out"), []

    def interrupt():
        while sum(what == "step" for _, what in told) < 2:
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with (
        pytest.raises(KeyboardInterrupt, match="goes on"),
        on_cluster(Machines(cluster.address), study.out) as executor,
    ):
        study.run(executor=executor, observe=lambda label: Heard(told, label))
    begun = [cell.cell.folder for cell in study.cells if RunFolder(cell.cell.folder).begun]
    assert begun
    for folder in begun:
        RunFolder(folder).refuse_in_use()  # nobody is at work in it
        assert list(RunFolder(folder).checkpoints.glob("step_*"))
