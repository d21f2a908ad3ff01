"""Images: the file, the memory that one is loaded into, and the workload that frees and revokes what it holds."""

import json
import os
import random
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any, cast

import pytest

import capshm
from capshm import cheribsd as bsd
from capshm.cheribsd.revoke import revoke_ranges
from capshm.errors import CapshmError
from capshm.lab.cells import heap
from capshm.lab.cells.heap import Heap
from capshm.lab.cells.world import CapabilityArea, Plain
from capshm.lab.inputs import image
from capshm.lab.inputs.image import BITS, GRANULES_IN_PAGE, PAGE, Image, ImageDamaged, ImageTooNew, Range
from capshm.lab.workloads.image import ROUNDS, WORKERS
from capshm.permissions import Permissions
from tests.faults.isolation import isolated

HEAD = struct.Struct("<7sBIQI")


def made(leads: dict[int, int], pages: int) -> Image:
    """An image of these tagged granules and their targets."""
    bits = bytearray(pages * BITS)
    for granule in leads:
        bits[granule // 8] |= 1 << granule % 8
    targets = struct.pack(f"<{len(leads)}I", *(target for _, target in sorted(leads.items())))
    return Image("made", len(leads), (Range("heap", pages),) if pages else (), bytes(bits), targets)


# Objects at 5, 8, 255 and 256; those at 8 and 255 end with the next, and with the page.
LEADS = {0: 5, 1: 8, 2: 8, 63: 255, 64: 256, 300: 5, 511: 8}
OBJECTS = {5: 3, 8: 247, 255: 1, 256: 256}
SMALL = made(LEADS, 2)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """All of it, and nothing else is left in the folder."""
    path = tmp_path / "a.image"
    image.write(SMALL, path)
    assert image.read(path) == SMALL
    assert list(tmp_path.iterdir()) == [path]
    empty = made({}, 0)
    image.write(empty, path)
    assert image.read(path) == empty


def test_what_an_image_tells() -> None:
    """Pages, tags, density, and how many pages have how many tags."""
    assert (SMALL.pages, SMALL.granules, SMALL.tags) == (2, 512, 7)
    assert SMALL.density == pytest.approx(100 * 7 / 512)
    found = made(dict.fromkeys([0, *range(256, 259), *range(512, 768)], 0), 4)
    assert {least: pages for least, pages in found.histogram.items() if pages} == {0: 1, 1: 1, 2: 1, 256: 1}
    assert list(found.histogram) == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert made({}, 0).density == 0


def test_the_images_that_come_with_capshm() -> None:
    """They can be read, are of programs with many pointers, and are small."""
    assert image.names() == ["perl"]
    path = image.find("perl")
    found = image.read(path)
    assert found.program == "perl"
    assert 10 < found.density < 60
    assert path.stat().st_size < 200 << 10
    with pytest.raises(CapshmError, match="there is no image 'nowhere': give the path of a file, or one of perl"):
        image.find("nowhere")


@pytest.mark.slow
def test_every_damage_is_seen(tmp_path: Path) -> None:
    """Any byte that is another, any end that is too early, and one byte more."""
    path = tmp_path / "a.image"
    image.write(SMALL, path)
    good = path.read_bytes()
    for place in range(len(good)):
        for bad in (good[:place], good[:place] + bytes([good[place] ^ 0x41]) + good[place + 1 :]):
            path.write_bytes(bad)
            with pytest.raises((ImageDamaged, ImageTooNew)):
                image.read(path)
    path.write_bytes(good + b"x")
    with pytest.raises(ImageDamaged, match="behind its head"):
        image.read(path)


def written(described: object, content: bytes, *, version: int = 1) -> bytes:
    """A file made by hand, whole as to its lengths and its checksum."""
    description = json.dumps(described).encode()
    compressed = zlib.compress(content)
    checksum = zlib.crc32(description + compressed)
    return HEAD.pack(b"capshmI", version, len(description), len(compressed), checksum) + description + compressed


def described(pages: object = 1, tags: object = 1, pointers: object = 1, kind: str = "heap") -> dict[str, object]:
    """A description, of one range."""
    rows = [{"kind": kind, "pages": pages}] if pages else []
    return {"program": "p", "pages": pages, "tags": tags, "pointers": pointers, "ranges": rows}


ONE = b"\1" + bytes(BITS - 1)
TARGET = bytes(4)


@pytest.mark.parametrize(
    ("description", "content", "message"),
    [
        ([], b"", "does not fit"),
        ({"program": "p"}, b"", "does not fit"),
        (described(tags=2, pointers=2), ONE + TARGET, "there are not just 1 pages and 2 tags"),
        (described(), ONE + TARGET + b"x", "there are not just"),
        (described(tags=2, pointers=2), ONE + TARGET * 2, "1 granules are tagged, and 2 have a target"),
        (described(), ONE + b"\0\1\0\0", "a target is granule 256, and there are 256"),
        (described(pages="1"), ONE + TARGET, "is no number"),
        (described(pages=True), ONE + TARGET, "is no number"),
        (described(pages=-1), ONE + TARGET, "is no number"),
        (described(pointers=3), ONE + TARGET, "3 pointers do not lie in 1 granules"),
        (described(pointers=0), ONE + TARGET, "0 pointers do not lie in 1 granules"),
        (described(kind="there"), ONE + TARGET, "its ranges are not of"),
        (described() | {"ranges": []}, ONE + TARGET, "do not have 1 pages"),
        (described(pages=1 << 21), ONE + TARGET, "2,097,152 pages of 4 KiB, and an image has 1,048,576 at most"),
        (described(tags=1 << 26, pointers=1 << 26), ONE, "67,108,864 tags, and an image has 33,554,432 at most"),
    ],
)
def test_a_file_that_contradicts_itself(tmp_path: Path, description: object, content: bytes, message: str) -> None:
    """Whole as a file, and no image: refused before anything is loaded."""
    path = tmp_path / "a.image"
    path.write_bytes(written(description, content))
    with pytest.raises(ImageDamaged, match=message):
        image.read(path)


def test_a_version_to_come(tmp_path: Path) -> None:
    """It is told from damage."""
    path = tmp_path / "a.image"
    path.write_bytes(written(described(), ONE + TARGET, version=2))
    with pytest.raises(ImageTooNew, match="version 2; this capshm reads up to 1"):
        image.read(path)


@pytest.mark.slow
def test_a_small_file_that_unpacks_to_much(tmp_path: Path) -> None:
    """Memory is taken for as many pages and tags as the description has."""
    path = tmp_path / "a.image"
    unpacked = 1 << 27
    stream = zlib.compressobj(9)
    block = bytes(1 << 20)
    content = b"".join(stream.compress(block) for _ in range(unpacked // len(block))) + stream.flush()
    description = json.dumps(described()).encode()
    checksum = zlib.crc32(description + content)
    path.write_bytes(HEAD.pack(b"capshmI", 1, len(description), len(content), checksum) + description + content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageDamaged, match="not just 1 pages and 1 tags"):
        image.read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < unpacked >> 13  # KiB: an eighth


def test_what_no_reader_takes_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there stays."""
    path = tmp_path / "a.image"
    image.write(SMALL, path)
    for name in ("MOST_PAGES", "MOST_TAGS", "MOST_DESCRIPTION"):
        with monkeypatch.context() as patch:
            patch.setattr(image, name, 1)
            with pytest.raises(CapshmError, match="1 at most"):
                image.write(SMALL, path)
            with pytest.raises(ImageDamaged, match="1 at most"):
                image.read(path)
    assert image.read(path) == SMALL


def test_objects() -> None:
    """One begins where a pointer leads, and ends with the next, or with its page; about a quarter are freed."""
    area = Plain().private(Heap(SMALL).length)
    freed: dict[int, set[int]] = {granule: set() for granule in OBJECTS}
    for seed in range(64):
        pairs = Heap(SMALL).free(area, seed).tolist()
        taken = set()
        for start, length in zip(pairs[::2], pairs[1::2], strict=True):
            assert (start - area.address - PAGE) % 16 == 0
            taken |= set(range((start - area.address - PAGE) // 16, (start + length - area.address - PAGE) // 16))
        for granule, size in OBJECTS.items():
            inside = taken & set(range(granule, granule + size))
            assert len(inside) in (0, size)
            if inside:
                freed[granule].add(seed)
        assert taken <= {number for granule, size in OBJECTS.items() for number in range(granule, granule + size)}
    area.close()
    assert all(4 < len(seeds) < 32 for seeds in freed.values())
    assert len({frozenset(seeds) for seeds in freed.values()}) == len(OBJECTS)


def freed(found: Image, area: capshm.Capability, seed: int) -> set[int]:
    """The objects that this round frees."""
    pairs = Heap(found).free(CapabilityArea(area, area.length), seed).tolist()
    starts = {granule: area.base + PAGE + 16 * granule for granule in OBJECTS}
    ranges = [range(start, start + length) for start, length in zip(pairs[::2], pairs[1::2], strict=True)]
    return {granule for granule, start in starts.items() if any(start in each for each in ranges)}


@pytest.mark.slow
@isolated()
def test_an_image_in_a_machine() -> None:
    """Each tagged granule holds a capability to its object, no other holds any; a pass takes just what was freed."""
    with capshm.Machine():
        descriptor = bsd.shm_open(bsd.SHM_ANON, os.O_RDWR)
        os.ftruncate(descriptor, 3 * PAGE)
        for flags, fd in ((bsd.MAP_PRIVATE | bsd.MAP_ANON, -1), (bsd.MAP_SHARED, descriptor)):
            area = bsd.mmap(None, 3 * PAGE, bsd.PROT_READ | bsd.PROT_WRITE | bsd.PROT_CAP, flags, fd)
            heap.load(SMALL, area)
            found = area.load_capabilities(0, 3 * GRANULES_IN_PAGE)
            tags = {number - GRANULES_IN_PAGE for number, tag in enumerate(found.tags) if tag}
            assert tags == set(LEADS)
            for granule, target in LEADS.items():
                pointer = found[GRANULES_IN_PAGE + granule]
                assert pointer.address == pointer.base == area.base + PAGE + 16 * target
                assert pointer.length == 16 * OBJECTS[target]
                assert not pointer.permissions & Permissions.SW_VMEM
            seed = next(seed for seed in range(64) if 0 < len(freed(SMALL, area, seed)) < len(OBJECTS))
            gone = freed(SMALL, area, seed)
            revoke_ranges(Heap(SMALL).free(CapabilityArea(area, area.length), seed))
            found = area.load_capabilities(PAGE, 2 * GRANULES_IN_PAGE)
            left = {number for number, tag in enumerate(found.tags) if tag}
            assert left == {granule for granule, target in LEADS.items() if target not in gone}
            bsd.munmap(area, 3 * PAGE)
        small = bsd.malloc(2 * PAGE)
        with pytest.raises(ValueError, match="the image needs 12,288 bytes"):
            heap.load(SMALL, small)


def chance(seed: int, such: int) -> int:
    """As native/driver_program.h has it."""
    return mixed(mixed(seed) + such)


def mixed(number: int) -> int:
    """The last steps of SplitMix64."""
    number = (number + 0x9E3779B97F4A7C15) % (1 << 64)
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 % (1 << 64)
    number = (number ^ number >> 27) * 0x94D049BB133111EB % (1 << 64)
    return number ^ number >> 31


def rounds(leads: dict[int, int], seed: int, processes: int) -> tuple[int, int]:
    """What all of them add up to, and how many tags in memory and registers they take: in the slow way."""
    checksum = cleared = 0
    for turn in range(processes * ROUNDS):
        freed = {target for target in leads.values() if chance(seed + turn, target) % 4 == 0}
        for granule, target in sorted(leads.items()):
            if target not in freed:
                checksum += mixed(mixed(granule) + PAGE + 16 * target)
        last = leads[max(leads)]  # the driver still has it
        cleared += sum(target in freed for target in leads.values()) + (last in freed)
    return checksum % (1 << 64), cleared


def run_cell(path: Path, policy: str, **more: object) -> dict[str, Any]:
    """The answer of a cell."""
    wanted = {"workload": "image", "policy": policy, "size": 1 << 16, "seed": 1, "image": str(path), **more}
    command = [sys.executable, "-P", "-m", "capshm.lab.cells.cell"]
    done = subprocess.run(command, input=json.dumps(wanted), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return cast("dict[str, Any]", json.loads(done.stdout))


@pytest.mark.slow
def test_a_cell_without_pointers(tmp_path: Path) -> None:
    """A program may have none, and not even memory."""
    path = tmp_path / "a.image"
    for pages in (0, 1):
        image.write(made({}, pages), path)
        counts = run_cell(path, "cheribsd")["counts"]
        assert (counts["operations"], counts["passes"], counts["cleared"]) == (0, ROUNDS * (1 + WORKERS), 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "revoker", "workers"),
    [("plain", None, None), ("open", "none", 1), ("cheribsd", "stop-the-world", 3), ("isolated", None, None)],
)
def test_a_cell(tmp_path: Path, policy: str, revoker: str | None, workers: int | None) -> None:
    """The same work in every world; passes take the tags of what was freed, all of them, and no other."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    numbers = random.Random(seed)
    leads = {granule: numbers.randrange(8 * GRANULES_IN_PAGE) for granule in numbers.sample(range(2048), 300)}
    path = tmp_path / "a.image"
    image.write(made(leads, 8), path)
    answer = run_cell(path, policy, seed=seed, revoker=revoker, processes=workers)
    processes = 1 + (workers or WORKERS)
    is_revoking = policy != "plain" and revoker != "none"
    checksum, cleared = rounds(leads, seed, processes)
    counts = answer["counts"]
    assert answer["checksum"] == checksum
    assert (counts["operations"], counts["forks"]) == (len(leads) * ROUNDS * processes, processes - 1)
    assert counts["passes"] == (ROUNDS * processes if is_revoking else 0)
    assert counts["cleared"] == (cleared if is_revoking else 0)
    assert counts["tags"] >= len(leads) * counts["passes"]
    assert (len(answer["pauses_ns"]) > 0) == is_revoking
