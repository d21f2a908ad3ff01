"""Wrong variants of Python modules, for whole trees of processes: brokers, forked children, new programs.

A variant is a directory of changed modules and a `sitecustomize` that has them found before those of the tree; it goes
to a process, and to all that it starts, in PYTHONPATH.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from native.variants import ROOT, Patch, PatchDoesNotFit

_FINDER = """\
import sys
from importlib.util import spec_from_file_location
from pathlib import Path

_FOLDER = Path(__file__).parent


class _Patched:
    @staticmethod
    def find_spec(name, path=None, target=None):
        file = _FOLDER / (name.replace(".", "/") + ".py")
        return spec_from_file_location(name, file) if name.startswith("capshm.") and file.is_file() else None


sys.meta_path.insert(0, _Patched)
"""


def write_modules(folder: Path, patches: Sequence[Patch]) -> None:
    """Fill an empty folder; a patch names a file by its path from the root, and a text that is there exactly once."""
    texts: dict[str, str] = {}
    for file, old, new in patches:
        text = texts.get(file) or (ROOT / file).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise PatchDoesNotFit(f"{text.count(old)} places in {file} read\n{old}")
        texts[file] = text.replace(old, new)
    for file, text in texts.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "sitecustomize.py").write_text(_FINDER, encoding="utf-8")


def with_modules(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The environment of a process that imports them."""
    others = environment.get("PYTHONPATH", "")
    return dict(environment) | {"PYTHONPATH": f"{folder}:{others}" if others else str(folder)}
