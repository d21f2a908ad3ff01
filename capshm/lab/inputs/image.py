"""An image: where in its memory a real program kept its pointers, and where they led.

Nothing else of that memory is in it: no data, no addresses, no paths, no arguments. The pages of the program stand one
behind the other, in the order of their addresses, and are numbered from 0; granules have 16 bytes, 256 a page, as
capabilities do. A granule is tagged if it held a pointer: one of 8 bytes, in either half. Its target is the granule
that the pointer led to; of two pointers in one granule, that of the first.

A file (`container`) whose magic is b"capshmI", version 1. The description is {"program": name, "pages",
"tags", "pointers": numbers, "ranges": [{"kind", "pages"}]}. The content is a bit for each granule, 32 bytes a page, the
first granule in the lowest bit of the first byte; and the targets of all tagged granules in their order, 4 bytes each,
of which all first bytes come first, then all second ones. There are bounds for pages and tags (MOST_PAGES, MOST_TAGS).

Reading needs nothing that has threads: who loads an image into its memory may fork.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

from capshm.errors import CapshmError
from capshm.lab.inputs import container

PAGE = 4096
GRANULES_IN_PAGE = 256
BITS = GRANULES_IN_PAGE // 8
"""Bytes of tags a page."""
TARGET = 4
"""Bytes of a target."""
KINDS = ("heap", "data", "stack")
"""Of ranges: memory of no file, a file's, the first thread's stack."""

MOST_PAGES = 1 << 20
"""4 GiB: what a cell may have."""
MOST_TAGS = 1 << 25
"""A reader needs some hundred megabytes for them."""
MOST_DESCRIPTION = 16 << 20


class ImageDamaged(container.FileDamaged):
    """A file is no image, or not a whole one."""


class ImageTooNew(container.FileTooNew):
    """An image of a version that this capshm does not know."""


_KIND = container.Kind(
    b"capshmI",
    1,
    "image",
    MOST_DESCRIPTION + MOST_PAGES * BITS + MOST_TAGS * TARGET,
    Path(__file__).with_name("images"),
    ImageDamaged,
    ImageTooNew,
)

names = _KIND.names
find = _KIND.find


@dataclass(frozen=True, slots=True)
class Range:
    """Memory that was in one piece in the program. pages: those of it that are in the image."""

    kind: str
    pages: int


@dataclass(frozen=True)
class Image:
    """bits: of tagged granules. targets: granules, as the file has them but row by row. pointers: the words of 8 bytes
    that were found; where there are more of them than tags, two have shared a granule.
    """

    program: str
    pointers: int
    ranges: tuple[Range, ...]
    bits: bytes
    targets: bytes

    @property
    def pages(self) -> int:
        """How many it has."""
        return len(self.bits) // BITS

    @property
    def tags(self) -> int:
        """How many granules are tagged."""
        return len(self.targets) // TARGET

    @property
    def granules(self) -> int:
        """How many it has."""
        return self.pages * GRANULES_IN_PAGE

    @property
    def density(self) -> float:
        """Percent of its granules that are tagged."""
        return 100 * self.tags / self.granules if self.pages else 0.0

    @cached_property
    def histogram(self) -> dict[int, int]:
        """How many pages have 0 tags, 1, 2 or 3, 4 to 7, …, 256: by the least number of each."""
        found = dict.fromkeys([0, *(1 << power for power in range(GRANULES_IN_PAGE.bit_length()))], 0)
        for page in range(0, len(self.bits), BITS):
            tags = int.from_bytes(self.bits[page : page + BITS], "little").bit_count()
            found[1 << tags.bit_length() - 1 if tags else 0] += 1
        return found


def write(image: Image, path: Path) -> None:
    """Write an image to a file, which has all of it or is as it was.

    CapshmError: it is larger than a reader takes. OSError: it could not be written.
    """
    described = {
        "program": image.program,
        "pages": image.pages,
        "tags": image.tags,
        "pointers": image.pointers,
        "ranges": [asdict(each) for each in image.ranges],
    }
    description = json.dumps(described, separators=(",", ":")).encode()
    if wrong := find_too_large(image.pages, image.tags) or _find_too_long(description):
        raise CapshmError(f"{path} is not written: {wrong}")
    _KIND.write(path, description, image.bits + container.to_planes(image.targets, TARGET))


def read(path: Path) -> Image:
    """The image of a file. ImageDamaged, ImageTooNew, OSError.

    Takes memory for MOST_PAGES and MOST_TAGS at most, whatever the file says or is.
    """
    description, content = _KIND.read(path)
    if wrong := _find_too_long(description):
        raise ImageDamaged(path, container.HEAD_SIZE, wrong)
    try:
        image = _assemble(json.loads(description), content)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, zlib.error) as error:
        raise ImageDamaged(path, container.HEAD_SIZE, f"its description does not fit its tags: {error!r}") from error
    if wrong := _find_wrong(image):
        raise ImageDamaged(path, container.HEAD_SIZE + len(description), wrong)
    return image


def find_too_large(pages: int, tags: int) -> str | None:
    """What is more than an image may have, if anything is."""
    if pages > MOST_PAGES:
        return f"it has {pages:,} pages of 4 KiB, and an image has {MOST_PAGES:,} at most"
    if tags > MOST_TAGS:
        return f"it has {tags:,} tags, and an image has {MOST_TAGS:,} at most"
    return None


def _find_too_long(description: bytes) -> str | None:
    if len(description) > MOST_DESCRIPTION:
        return f"its ranges take {len(description):,} bytes to describe, and an image has {MOST_DESCRIPTION:,} at most"
    return None


def _assemble(described: dict[str, object], compressed: bytes) -> Image:
    """The image of a description and of its content. ValueError: they do not fit, or are too much."""
    pages, tags, pointers = (container.number(described[name]) for name in ("pages", "tags", "pointers"))
    if wrong := find_too_large(pages, tags):
        raise ValueError(wrong)
    if not tags <= pointers <= 2 * tags:
        raise ValueError(f"{pointers:,} pointers do not lie in {tags:,} granules, one or two in each")
    listed = cast("list[dict[str, object]]", described["ranges"])
    ranges = tuple(Range(str(each["kind"]), container.number(each["pages"], least=1)) for each in listed)
    if not all(each.kind in KINDS for each in ranges) or sum(each.pages for each in ranges) != pages:
        raise ValueError(f"its ranges are not of {', '.join(KINDS)}, or do not have {pages:,} pages")
    size = pages * BITS
    content = container.unpack(compressed, size + tags * TARGET, f"{pages:,} pages and {tags:,} tags")
    targets = container.from_planes(content[size:], TARGET)
    return Image(str(described["program"]), pointers, ranges, content[:size], targets)


def _find_wrong(image: Image) -> str | None:
    """What no image has, if there is any: as many targets as tags, each of them within."""
    tagged = int.from_bytes(image.bits, "little").bit_count()
    if tagged != image.tags:
        return f"{tagged:,} granules are tagged, and {image.tags:,} have a target"
    furthest = max(memoryview(image.targets).cast("I"), default=-1)
    if furthest >= image.granules:
        return f"a target is granule {furthest:,}, and there are {image.granules:,}"
    return None
