"""The disk cache: the same bytes as decoding, for every process and run; whatever is wrong with it is decoded again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fercore.config import DataSettings
from fercore.data.batches.loader import StepLoader
from fercore.data.cache import disk as cache_disk
from fercore.data.cache import stores as cache
from fercore.data.cache.disk import HEADER, RECORD
from fercore.data.cache.files import source_key
from fercore.data.domains.domain_set import read_domain
from fercore.data.spec import parse_spec
from fercore.data.table import Table
from fercore.errors import UserInputError
from fercore.records.plan import ViewRequest
from tests.loading import load_domains

N, SIZE = 12, 20
IMAGE = 3 * SIZE * SIZE


@pytest.fixture
def faces(tmp_path: Path, image) -> Path:
    for i in range(N):
        image(tmp_path / "faces" / ("anger", "fear")[i % 2] / f"{i:02d}.png", i, 24)
    return tmp_path / "faces"


@pytest.fixture
def settings(tmp_path: Path) -> DataSettings:
    return DataSettings(cache="disk", cache_dir=str(tmp_path / "cache"), size=SIZE)


def table_of(root: Path) -> Table:
    return read_domain(parse_spec(f"folder:{root}"))[0]


def fetched(table: Table, settings: DataSettings) -> np.ndarray:
    cache.reserve([table], settings)
    return cache.fetch(table, np.arange(len(table)), settings)


def decoded(table: Table) -> np.ndarray:
    return cache.fetch(table, np.arange(len(table)), DataSettings(size=SIZE, cache_mb=0))


def pixels_file(settings: DataSettings) -> Path:
    (found,) = Path(str(settings.cache_dir)).glob("*.pixels")
    return found


def records(settings: DataSettings) -> np.ndarray:
    return np.frombuffer(pixels_file(settings).read_bytes(), dtype=RECORD, count=N, offset=HEADER.size)


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """Rows that were decoded."""
    seen: list[int] = []
    plain = cache_disk.DiskStore._decode

    def spy(self, reader, rows, *rest):
        seen.extend(rows.tolist())
        return plain(self, reader, rows, *rest)

    monkeypatch.setattr(cache_disk.DiskStore, "_decode", spy)
    return seen


def test_the_second_run_decodes_nothing(faces: Path, settings: DataSettings, reads: list[int]):
    first = fetched(table_of(faces), settings)
    assert sorted(reads) == list(range(N))
    assert (first == decoded(table_of(faces))).all()
    reads.clear()
    table = table_of(faces)
    assert (fetched(table, settings) == first).all()
    assert (fetched(table, settings) == first).all()
    assert reads == []
    assert (records(settings)["filled"] == 1).all()


def test_another_size_has_a_file_of_its_own(faces: Path, settings: DataSettings):
    fetched(table_of(faces), settings)
    fetched(table_of(faces), settings.model_copy(update={"size": 16}))
    fetched(table_of(faces), settings.model_copy(update={"resize": "crop"}))
    assert len(list(Path(str(settings.cache_dir)).glob("*.pixels"))) == 3


def test_a_changed_source_is_decoded_again(faces: Path, settings: DataSettings, reads: list[int], image):
    fetched(table_of(faces), settings)
    reads.clear()
    image(faces / "anger" / "04.png", 99, 24)
    table = table_of(faces)
    assert (fetched(table, settings) == decoded(table)).all()
    assert [Path(table.keys[row]).name for row in reads] == ["04.png"]
    reads.clear()
    same_length = (faces / "fear" / "05.png").read_bytes()
    os.utime(faces / "fear" / "05.png")
    (faces / "fear" / "05.png").write_bytes(same_length)
    fetched(table_of(faces), settings)
    assert len(reads) == 1


@pytest.mark.parametrize("damage", ["pixels", "record", "half", "empty", "header", "other"])
def test_a_damaged_cache_is_rebuilt(faces: Path, settings: DataSettings, reads: list[int], damage: str):
    expected = fetched(table_of(faces), settings)
    path = pixels_file(settings)
    content = bytearray(path.read_bytes())
    start = len(content) - N * IMAGE
    if damage == "pixels":
        content[start + 3 * IMAGE + 7] ^= 1
    elif damage == "record":
        content[HEADER.size + 3 * RECORD.itemsize + 5] ^= 1
    elif damage == "half":
        content = content[: len(content) // 2]
    elif damage == "empty":
        content = bytearray()
    elif damage == "header":
        content[0] ^= 1
    else:
        content = bytearray(b"something else")
    path.write_bytes(content)
    reads.clear()
    assert (fetched(table_of(faces), settings) == expected).all()
    assert len(reads) == (1 if damage in ("pixels", "record") else N)
    reads.clear()
    assert (fetched(table_of(faces), settings) == expected).all()
    assert reads == []


def test_pixels_without_their_record_count_for_nothing(
    faces: Path, settings: DataSettings, reads: list[int], monkeypatch
):
    """A kill between the two writes of a row."""
    plain, count = cache_disk._write_at, []

    def dies(file: int, content: bytes, place: int) -> None:
        count.append(place)
        if len(count) == 9:
            plain(file, content[: len(content) // 2], place)
            raise KeyboardInterrupt
        plain(file, content, place)

    table = table_of(faces)
    cache.reserve([table], settings)
    monkeypatch.setattr(cache_disk, "_write_at", dies)
    with pytest.raises(KeyboardInterrupt):
        fetched(table, settings)
    monkeypatch.setattr(cache_disk, "_write_at", plain)
    assert records(settings)["filled"].sum() == 4
    reads.clear()
    table = table_of(faces)
    assert (fetched(table, settings) == decoded(table)).all()
    assert len(reads) == N - 4


WRITER = """
import sys, numpy as np
from fercore.config import DataSettings
from fercore.data.cache import stores as cache
from fercore.data.domains.domain_set import read_domain
from fercore.data.spec import parse_spec
table = read_domain(parse_spec("folder:" + sys.argv[1]))[0]
settings = DataSettings(cache="disk", cache_dir=sys.argv[2], size=20)
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    cache._STORES.clear()
    cache.reserve([table], settings)
    for at in np.random.default_rng(int(sys.argv[4])).permutation(len(table)):
        cache.fetch(table, np.array([at]), settings)
print("done", flush=True)
"""


def writer(faces: Path, settings: DataSettings, rounds: int, seed: int) -> subprocess.Popen:
    arguments = [sys.executable, "-c", WRITER, faces, settings.cache_dir, rounds, seed]
    return subprocess.Popen(list(map(str, arguments)), stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_and_a_kill(faces: Path, settings: DataSettings):
    expected = decoded(table_of(faces))
    both = [writer(faces, settings, 3, seed) for seed in (1, 2)]
    assert [process.communicate(timeout=120)[0].split()[-1] for process in both] == ["done", "done"]
    assert len(list(Path(str(settings.cache_dir)).iterdir())) == 1
    assert (fetched(table_of(faces), settings) == expected).all()
    pixels_file(settings).unlink()
    killed = writer(faces, settings, 10_000, 3)
    assert killed.stdout.readline() == "ready\n"
    time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert (fetched(table_of(faces), settings) == expected).all()


def test_forked_workers_fill_one_file(faces: Path, settings: DataSettings, reads: list[int]):
    table = table_of(faces)
    cache.reserve([table], settings)
    worker = multiprocessing.get_context("fork").Process(target=cache.fetch, args=(table, np.arange(6), settings))
    worker.start()
    worker.join()
    assert (fetched(table, settings) == decoded(table)).all()
    assert sorted(reads) == list(range(6, N))


def test_the_cap_holds_and_the_longest_unused_goes_first(faces: Path, settings: DataSettings, tmp_path: Path, image):
    small = settings.model_copy(update={"cache_disk_mb": 1, "size": 256})
    per_image = 3 * 256 * 256
    table = table_of(faces)
    images = fetched(table, small)
    file = pixels_file(small)
    assert images.shape == (N, 3, 256, 256)
    filled = int(records(small)["filled"].sum())
    assert filled == 2**20 // per_image
    assert file.stat().st_blocks * 512 <= 2**20 + 64 * 1024
    for i in range(4):
        image(tmp_path / "new" / "anger" / f"{i}.png", 50 + i, 24)
    new = read_domain(parse_spec(f"folder:{tmp_path}/new"))[0]
    del table
    cache._STORES.clear()
    fetched(new, small)
    assert not file.exists()
    used = sum(path.stat().st_blocks * 512 for path in file.parent.iterdir())
    assert used <= 2**20 + 64 * 1024


def test_a_full_disk_stops_the_cache_not_the_run(faces: Path, settings: DataSettings, monkeypatch, caplog):
    def full(file: int, content: bytes, place: int) -> None:
        raise OSError(28, "No space left on device")

    table = table_of(faces)
    cache.reserve([table], settings)
    monkeypatch.setattr(cache_disk, "_write_at", full)
    assert (fetched(table, settings) == decoded(table)).all()
    assert [r.getMessage().partition(" (")[0] for r in caplog.records] == [
        "image cache stops growing: No space left on device"
    ]


def test_a_disk_that_is_full_from_the_start(faces: Path, settings: DataSettings, monkeypatch, caplog):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_disk.os, "posix_fallocate", full)
    table = table_of(faces)
    expected = decoded(table)
    for _ in range(2):
        assert (fetched(table, settings) == expected).all()
    assert [r.getMessage().partition(" (")[0] for r in caplog.records] == [
        "image cache stops growing: No space left on device"
    ]
    assert not list(Path(str(settings.cache_dir)).iterdir())


@pytest.mark.parametrize("size", [0, 100, 4096 + IMAGE + 7])
def test_a_file_that_is_cut_off_while_it_is_used(faces: Path, settings: DataSettings, reads: list[int], size: int):
    """A mapped page that is gone would end this process by SIGBUS."""
    table = table_of(faces)
    expected = fetched(table, settings)
    if os.path.exists("/proc/self/maps"):
        assert ".pixels" not in Path("/proc/self/maps").read_text()
    os.truncate(pixels_file(settings), size)
    reads.clear()
    assert (fetched(table, settings) == expected).all()
    assert len(reads) == (N - 1 if size > 4096 else N)
    reads.clear()
    assert (fetched(table, settings) == expected).all()
    cache._STORES.clear()
    assert (fetched(table_of(faces), settings) == expected).all()


def test_the_room_for_records_is_taken_at_once(faces: Path, settings: DataSettings):
    cache.reserve([table_of(faces)], settings)
    assert 4096 <= pixels_file(settings).stat().st_blocks * 512 < 4096 + N * IMAGE


def test_a_cache_folder_that_cannot_be(tmp_path: Path, faces: Path):
    (tmp_path / "file").write_text("x")
    bad = DataSettings(cache="disk", cache_dir=str(tmp_path / "file" / "in"), size=SIZE)
    with pytest.raises(UserInputError, match="cannot make the cache folder"):
        fetched(table_of(faces), bad)


def test_the_user_cache_is_the_default(faces: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("FERCORE_CACHE", str(tmp_path / "own"))
    fetched(table_of(faces), DataSettings(cache="disk", size=SIZE))
    assert len(list((tmp_path / "own" / "images").glob("*.pixels"))) == 1


def test_crops_of_one_file_are_told_apart():
    from fercore.data.images.crops import CropReader

    paths = ("a.png", "a.png")
    one = CropReader(paths, ((0, 0, 5, 5), (1, 1, 5, 5)))
    assert source_key(one, 20) == source_key(CropReader(paths, one.boxes), 20)
    assert source_key(one, 20) != source_key(CropReader(paths, ((0, 0, 5, 5), (1, 1, 5, 6))), 20)
    assert source_key(one, 20) != source_key(CropReader(paths, one.boxes, 0.1), 20)
    assert source_key(one, 20) != source_key(one, 21)


def test_images_without_files_stay_in_memory(tmp_path: Path):
    settings = DataSettings(cache="disk", cache_dir=str(tmp_path / "cache"), size=SIZE)
    table = read_domain(parse_spec("synthfer:web?n=7"))[0]
    assert fetched(table, settings).shape == (7, 3, SIZE, SIZE)
    assert not (tmp_path / "cache").exists()


def test_batches_are_the_same_with_every_cache(tmp_path: Path, tree):
    source, target = tree("s", {"anger": 14, "fear": 14}), tree("t", {"anger": 10, "fear": 10}, 500)

    def batches(**more):
        data = DataSettings(
            sources=(f"folder:{source}",), target=f"folder:{target}", size=16, source_batch=8, target_batch=4, **more
        )
        views = [ViewRequest(side, "weak", "weak") for side in ("source", "target")]
        loader = StepLoader(load_domains(data, seed=1), views, data, seed=1, mean=(0.5,) * 3, std=(0.5,) * 3)
        return [next(loader) for _ in range(8)]

    disk = {"cache": "disk", "cache_dir": str(tmp_path / "cache")}
    plain = batches(cache_mb=0)
    for other in (batches(), batches(**disk), batches(**disk), batches(**disk, workers=1)):
        for a, b in zip(plain, other, strict=True):
            for side in ("source", "target"):
                left, right = getattr(a, side), getattr(b, side)
                assert (left.images["weak"] == right.images["weak"]).all()
                assert (left.index == right.index).all()


def test_an_image_gone_bad_is_named(faces: Path, settings: DataSettings):
    table = table_of(faces)
    Path(table.keys[0]).write_bytes(b"")
    with pytest.raises(UserInputError, match="unusable image: empty file"):
        fetched(table, settings)
    Image.new("RGB", (4, 4)).save(table.keys[0])
    assert (fetched(table, settings) == decoded(table)).all()
