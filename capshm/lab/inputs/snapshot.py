"""Makes an image of a program's memory: finds the words that look like pointers, and forgets all the rest.

The memory comes from a source: a process that is held still (`held`), or a core file (`core_file`).
A pointer is an aligned word of 8 bytes whose value is an address in the memory that is looked at. That is what a
conservative garbage collector takes for one, and as wrong: a number may happen to be such an address (few are, in 47
bits), and what the program has freed or forgotten still counts. What is kept in another form (compressed references,
XORed links) is not seen.

CHERI's pointers have 16 bytes, and a program that was built for it lays its memory out anew. An image keeps the layout
as it is, and tags the granule of 16 bytes in which a pointer lies, as CHERIvoke did on x86 (Xia et al., MICRO 2019). So
sizes and places are those of the real program; what was two pointers in one granule is one tag.

A page is in the image if it holds anything but zeros, or a target. So a program and its core have the same image,
although a core does not tell what was never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from capshm.errors import CapshmError
from capshm.lab.inputs import image
from capshm.lab.inputs.image import GRANULES_IN_PAGE, PAGE, Image

PIECE = 4 << 20
"""Bytes that sources give at once, at most."""
_PAGE_BITS, _GRANULE_BITS, _PAGE_GRANULE_BITS = np.uint64(12), np.uint64(4), np.uint64(8)
_WORDS_IN_PAGE = PAGE // 8


@dataclass(frozen=True)
class Mapping:
    """Memory of the program, whole pages, and one of `image.KINDS`."""

    start: int
    end: int
    kind: str


class Source(Protocol):
    """Where memory comes from. Its mappings stand in the order of their addresses, and none overlaps another."""

    @property
    def program(self) -> str:
        """Its name."""

    @property
    def mappings(self) -> Sequence[Mapping]:
        """What is to be looked at."""

    def pieces(self, mapping: Mapping) -> Iterator[tuple[int, bytes]]:
        """Its contents: address and whole pages, in order. What is left out holds nothing."""


def make(source: Source, progress: Callable[[int], object] = lambda size: None) -> Image:
    """The image of what a source has. progress: is told how many bytes more of the mappings have been looked at.

    CapshmError: there is no memory to look at, or more than an image may have. What the source raises.
    """
    if not source.mappings:
        raise CapshmError(f"{source.program} has no such memory: --all looks at all that it may write")
    places, targets, written = _scan(source, progress)
    holders, first = np.unique(places >> _GRANULE_BITS, return_index=True)
    led_to = targets[first] >> _GRANULE_BITS
    pages = np.union1d(written, led_to >> _PAGE_GRANULE_BITS)
    _check(source, len(pages), len(holders))
    tagged = np.zeros(len(pages) * GRANULES_IN_PAGE, np.bool_)
    tagged[_renumbered(holders, pages)] = True
    return Image(
        program=source.program,
        pointers=len(places),
        ranges=tuple(_ranges(source.mappings, pages)),
        bits=np.packbits(tagged, bitorder="little").tobytes(),
        targets=_renumbered(led_to, pages).astype("<u4").tobytes(),
    )


def _check(source: Source, pages: int, tags: int) -> None:
    """CapshmError: that is more than an image may have."""
    if wrong := image.find_too_large(pages, tags):
        raise CapshmError(f"no image of {source.program} can be made: {wrong}")


def _scan(
    source: Source, progress: Callable[[int], object]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """The addresses of all pointers in order, where they lead, and the pages that hold anything."""
    starts = np.array([mapping.start for mapping in source.mappings], np.uint64)
    ends = np.array([mapping.end for mapping in source.mappings], np.uint64)
    lowest, span = starts[0], ends[-1] - starts[0]
    places, targets, written = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    pages_so_far = pointers_so_far = 0  # so that a program that is too large takes neither time nor memory
    for mapping in source.mappings:
        seen = mapping.start
        for address, piece in source.pieces(mapping):
            words = np.frombuffer(piece, "<u8")
            pages = np.flatnonzero(words.reshape(-1, _WORDS_IN_PAGE).any(axis=1))
            written.append(pages.astype(np.uint64) + np.uint64(address // PAGE))
            near = np.flatnonzero(words - lowest < span)  # below the lowest they wrap to large numbers
            values = words[near]
            are_inside = values < ends[np.searchsorted(starts, values, "right") - 1]
            places.append(near[are_inside].astype(np.uint64) * np.uint64(8) + np.uint64(address))
            targets.append(values[are_inside])
            pages_so_far += len(pages)
            pointers_so_far += len(places[-1])
            _check(source, pages_so_far, -(-pointers_so_far // 2))  # two in a granule, at most
            progress(address + len(piece) - seen)
            seen = address + len(piece)
        progress(mapping.end - seen)
    return np.concatenate(places), np.concatenate(targets), np.concatenate(written)


def _renumbered(granules: NDArray[np.uint64], pages: NDArray[np.uint64]) -> NDArray[np.int64]:
    """By their places in the image."""
    within = (granules & np.uint64(GRANULES_IN_PAGE - 1)).astype(np.int64)
    found: NDArray[np.int64] = np.searchsorted(pages, granules >> _PAGE_GRANULE_BITS) * GRANULES_IN_PAGE + within
    return found


def _ranges(mappings: Sequence[Mapping], pages: NDArray[np.uint64]) -> Iterator[image.Range]:
    """Mappings of one kind without a gap between them are one: the kernel and debuggers part them differently."""
    joined: list[Mapping] = []
    for mapping in mappings:
        if joined and (joined[-1].end, joined[-1].kind) == (mapping.start, mapping.kind):
            joined[-1] = Mapping(joined[-1].start, mapping.end, mapping.kind)
        else:
            joined.append(mapping)
    for mapping in joined:
        bounds = np.array([mapping.start, mapping.end], np.uint64) >> _PAGE_BITS
        first, end = np.searchsorted(pages, bounds).tolist()
        if end > first:
            yield image.Range(mapping.kind, end - first)
