"""A loader that starts components from images, a region for each, and takes away from above what they need no more.

Fuchsia's component runners and dynamic linkers, RFC-0199's motivation: the loader prepares an image full of pointers;
each component maps its sections, one region in another, and closes the handles of the regions inside. What is constant
from then on is made read-only from above, and what is used no more loses all access, before all of it is unmapped. This
is what regions, handles and a policy cost in calls; where an image may not share its capabilities, each component
derives them again.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from capshm.lab.cells.graph import Graph, compare_sums
from capshm.lab.cells.loading import PAGE, Image

if TYPE_CHECKING:
    from capshm.lab.cells.cell import Setting

DEFAULT_SIZE = 2 << 20
COMPONENTS = 8
_PAGES = (1, 1, 4, 4)  # of the smallest image's sections: slots of requests, of answers, requests, responses (driver.h)
SMALLEST_IMAGE = sum(_PAGES) * PAGE


def image_size(size: int) -> int:
    """Bytes of each component's image: a power of two times the smallest, so that its sections are of whole pages."""
    times = max(size // COMPONENTS // SMALLEST_IMAGE, 1)
    return SMALLEST_IMAGE << times.bit_length() - 1


def run(setting: Setting) -> None:
    """Start COMPONENTS, one after another; each serves all requests of its image."""
    crew, loader, length = setting.crew, setting.world.loader(), image_size(setting.size)
    sections = [pages * length // sum(_PAGES) for pages in _PAGES]

    def work(image: Image, number: int) -> None:
        area = loader.load(image, sections)
        constant = (0, sections[0]), (sections[0] + sections[1], sections[2])
        for start, size in constant:
            loader.lower(area, start, size, is_readable=True)
        Graph(area, crew).serve(0, 1, setting.seed + number)
        loader.lower(area, 0, length, is_readable=False)
        loader.unload(area)

    def start(number: int) -> int:
        image = loader.prepare(length)
        area = loader.load(image, [length])
        Graph(area, crew).fill((setting.seed + number) % (1 << 64))
        loader.unload(area)
        crew.fork(partial(work, image, number))
        crew.wait()
        area = loader.load(image, [length])
        collected = Graph(area, crew).collect()
        loader.unload(area)
        loader.release(image)
        return collected

    with setting.measured():
        collected = sum(start(number) for number in range(COMPONENTS))
    compare_sums(collected, crew)
