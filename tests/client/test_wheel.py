"""A program in C that is compiled with an installed wheel, and shares capabilities with a Python program both ways."""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from capshm import get_include, get_library_dir
from tests.client.programs import ROOT, compile_program, library_flags

COMPILERS = {
    "cc": ("-std=c11",),
    "clang": ("-std=c11",),
    "c++": ("-x", "c++", "-std=c++11"),
    "clang++": ("-x", "c++", "-std=c++17"),
}
EXAMPLE = ROOT / "examples/c"
README = (ROOT / "README.md").read_text(encoding="utf-8")
[OUTPUT] = re.findall(r"^\$ python share\.py \./share\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def _run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def _install_wheel(folder: Path) -> str:
    """Build the wheel and install it into an environment of its own; its Python. Nothing is fetched."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _run(*pip, "wheel", "--no-index", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, ".")
    _run(sys.executable, "-m", "venv", "--without-pip", folder / "environment")
    python = folder / "environment/bin/python"
    _run(*pip, "--python", python, "install", "--no-index", "--no-deps", *folder.glob("*.whl"))
    [packages] = folder.glob("environment/lib/*/site-packages")
    # What capshm needs is here already. A line that names a folder adds it, and not the hooks of what is in it.
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return str(python)


@pytest.mark.slow
def test_the_example_with_an_installed_wheel(tmp_path: Path) -> None:
    """Each compiler that is here takes it without a warning, as C and as C++; it prints what the README says."""
    python = _install_wheel(tmp_path)
    place = _run(
        python, "-P", "-c", "import capshm; print(capshm.__file__, capshm.get_include(), capshm.get_library_dir())"
    )
    assert all(each.startswith(f"{tmp_path}/environment/") for each in place.split()), place
    found = [compiler for compiler in COMPILERS if shutil.which(compiler)]
    assert "cc" in found
    print("compiled with", *found)
    library = library_flags(python)
    for compiler in found:
        flags = COMPILERS[compiler]
        compile_program(EXAMPLE / "share.c", tmp_path / compiler, *flags, compiler=compiler, library=library)
    assert _run(python, EXAMPLE / "share.py", tmp_path / "cc") == OUTPUT


def test_the_readme_quotes_the_example() -> None:
    """The lines of C that the README shows are those of the example, but for the comments behind them."""
    [block] = re.findall(r"^```c\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    example = (EXAMPLE / "share.c").read_text(encoding="utf-8")
    quoted = [line.partition("/*")[0].rstrip() for line in block.splitlines()]
    assert len(quoted) > 4
    assert [line for line in quoted if line not in example] == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="there is no pkg-config")
def test_pkg_config_says_the_same(tmp_path: Path) -> None:
    """The file beside the library knows its own place."""
    folder = _run(sys.executable, "-m", "capshm", "config", "--pkgconfigdir").strip()
    said = _run("env", f"PKG_CONFIG_PATH={folder}", "pkg-config", "--cflags", "--libs", "capshm").split()
    for one, other in zip(sorted(said), sorted(library_flags()), strict=True):
        flag = "-Wl,-rpath," if one.startswith("-Wl") else one[:2]
        assert one.startswith(flag)
        assert other.startswith(flag)
        if flag != "-l":
            assert Path(one.removeprefix(flag)).samefile(other.removeprefix(flag))


@pytest.mark.slow
def test_the_library_exports_what_the_header_declares() -> None:
    """No name of the core can be taken, or taken over, by a program."""
    header = (Path(get_include()) / "capshm/client.h").read_text(encoding="utf-8")
    declared = set(re.findall(r"^CAPSHM_API [^;(]*?(capshm_\w+)\(", header, re.MULTILINE))
    said = _run("nm", "--dynamic", "--defined-only", Path(get_library_dir()) / "libcapshm.so")
    assert len(declared) == 19
    assert {line.split()[-1] for line in said.splitlines()} == declared


@pytest.mark.slow
def test_config_asks_what_is_wanted() -> None:
    """Without a flag there is nothing to print: a wrong command line."""
    done = subprocess.run([sys.executable, "-m", "capshm", "config"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--cflags" in done.stderr
