"""Policies and workloads of a test's own, installed as users install theirs: as entry points of a distribution."""

import os
import textwrap
from pathlib import Path

MODULE = "plugins_of_a_test"


def install(folder: Path, source: str, *, policies: str = "", workloads: str = "") -> dict[str, str]:
    """Make a distribution in a folder; the environment for whoever is to find it.

    source: of its module. policies, workloads: "name = Class" for each entry point; "name" alone is the module itself.
    """
    (folder / f"{MODULE}.py").write_text(textwrap.dedent(source), encoding="utf-8")
    information = folder / "plugins-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: plugins\nVersion: 1\n", encoding="utf-8")
    groups = f"[capshm.policies]\n{_entries(policies)}\n[capshm.workloads]\n{_entries(workloads)}\n"
    (information / "entry_points.txt").write_text(groups, encoding="utf-8")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path}


def _entries(names: str) -> str:
    lines = []
    for entry in names.split(","):
        name, _, attribute = (part.strip() for part in entry.partition("="))
        if name:
            lines.append(f"{name} = {MODULE}{':' if attribute else ''}{attribute}")
    return "\n".join(lines)
