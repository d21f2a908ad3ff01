"""Runs pytest with a bug in the model: `python -m tests.seeded_bugs.planting BUG`; its status is pytest's.

The module is compiled from the changed text when it is first imported, and nothing is written.
"""

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from typing import NoReturn

import pytest

from native.variants import ROOT
from tests.seeded_bugs.model_bugs import MODEL_BUGS, ModelBug


class BugDoesNotFit(Exception):
    """The text that a bug replaces is not in its module exactly once."""


class _Loader(SourceFileLoader):
    """Of the module with the bug."""

    def __init__(self, bug: ModelBug, name: str, path: str) -> None:
        super().__init__(name, path)
        self._bug = bug

    def path_stats(self, path: object) -> NoReturn:
        """There are none, so that compiled code is neither read nor written."""
        raise OSError(f"{path} is changed as it is read")

    def get_data(self, path: object) -> bytes:
        """The module's text, changed."""
        return planted(self._bug).encode()


class _Finder(MetaPathFinder):
    """Finds the module with the bug, and no other."""

    def __init__(self, bug: ModelBug) -> None:
        self._bug = bug

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        """Where it is."""
        if name != f"capshm.model.{self._bug.module}":
            return None
        file = str(ROOT / "capshm" / "model" / f"{self._bug.module}.py")
        return spec_from_file_location(name, file, loader=_Loader(self._bug, name, file))


def planted(bug: ModelBug) -> str:
    """The text of the module with the bug. BugDoesNotFit: the module has moved on."""
    text = (ROOT / "capshm" / "model" / f"{bug.module}.py").read_text(encoding="utf-8")
    if text.count(bug.old) != 1:
        raise BugDoesNotFit(f"{bug.name}: {text.count(bug.old)} places in {bug.module} read\n{bug.old}")
    return text.replace(bug.old, bug.new)


def main(name: str) -> int:
    """Run the test that must find it."""
    [bug] = [each for each in MODEL_BUGS if each.name == name]
    sys.meta_path.insert(0, _Finder(bug))
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # it takes most of the time, and plugins may import the module
    status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "pytest_timeout", bug.found_by]))
    if f"capshm.model.{bug.module}" not in sys.modules:
        raise AssertionError("the module with the bug was not imported")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
