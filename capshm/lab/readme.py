"""A block of a README that a program writes: what stands between two lines of its own."""

from __future__ import annotations

from pathlib import Path


def markers(name: str) -> tuple[str, str]:
    """The lines around the block of that name."""
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def replace_block(path: Path, name: str, content: str) -> None:
    """Put `content` between the lines `<!-- name -->` and `<!-- /name -->` of a file.

    ValueError, and nothing is changed: they are not there once each. The file is replaced by one rename: a death in the
    middle leaves the old one.
    """
    first, last = markers(name)
    before, begin, rest = path.read_text(encoding="utf-8").partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end or any(marker in part for marker in (first, last) for part in (before, after)):
        raise ValueError(f"{path} must hold one line {first} and after it one line {last}")
    new = path.with_name(path.name + ".new")
    new.write_text(f"{before}{first}\n\n{content}\n\n{last}{after}", encoding="utf-8")
    new.replace(path)
